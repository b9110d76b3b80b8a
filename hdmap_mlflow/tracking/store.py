"""The runs of an experiment, seen from outside: looked up, made for a child process, closed."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from hdmap_mlflow import interrupt
from hdmap_mlflow.errors import masked
from hdmap_mlflow.names import PREFIX, Artifact, Scope, Tag, metric_name
from hdmap_mlflow.process import is_gone
from hdmap_mlflow.tracking.client import close_gone, close_unstarted, every, open_store, own_run, project_run
from hdmap_mlflow.tracking.database import turn
from hdmap_mlflow.tracking.record import MAX_VALUE, PARENT, Record


@dataclass(frozen=True)
class Past:
    """A run that the store knows. `status` is finished, failed, killed or running; `process` says whose it is."""

    run_id: str
    name: str
    status: str
    fingerprints: frozenset[str]  # its own, and the one that it was planned with
    process: str
    reason: str
    seconds: float
    peak_mb: float
    kind: str = ""  # run, trial, study or grid
    began: int = field(default=0, compare=False)  # in milliseconds since 1970

    @property
    def is_gone(self) -> bool:
        """Whether it was never ended, and its process no longer runs on this machine."""
        return self.status == "running" and is_gone(self.process)


class Store:
    """The runs of one experiment, seen from outside: looked up, made for a child process, closed when it is gone."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self.client, self.experiment_id = open_store(uri, experiment)
        if run_id := project_run():  # `mlflow run` chose the experiment
            self.experiment_id = own_run(self.client, run_id).info.experiment_id
            self.experiment = self.client.get_experiment(self.experiment_id).name

    def runs(self, *, newest: int | None = None, **tags: str) -> list[Past]:
        """Runs with these `hdmap.` tags, the newest first; all of them, or the `newest` that finished."""
        wanted = [f'tags."{PREFIX}{name}" = {_quoted(value)}' for name, value in tags.items()]
        wanted += ["attributes.status = 'FINISHED'"] if newest else []
        found = every(
            self.client.search_runs, newest, experiment_ids=[self.experiment_id], filter_string=" and ".join(wanted)
        )
        return [_past(run) for run in itertools.islice(found, newest)]

    @interrupt.held()
    def create(self, name: str, tags: Mapping[str, str], parent: str | None) -> str:
        """Id of a new run for a child process to write; it is RUNNING until the child or `close` ends it."""
        links = {PARENT: parent, Tag.PART_OF: self.client.get_run(parent).info.run_name} if parent else {}
        every = {**resolve_tags(links), **{k: masked(v) for k, v in tags.items()}, Tag.STATUS: "running"}
        return self.client.create_run(self.experiment_id, run_name=name, tags=every).info.run_id

    def shared(self, kind: str, fingerprint: str, name: str, tags: Mapping[str, str]) -> str:
        """Id of the one run of a kind and a fingerprint, whoever asks first."""
        with turn(self.uri):
            known = self.runs(kind=kind, fingerprint=fingerprint)
            return known[0].run_id if known else self.create(name, tags, None)

    def claim(
        self, fingerprint: str, name: str, tags: Mapping[str, str], parent: str | None, seen: Collection[str]
    ) -> str | Past:
        """Id of a new run of a fingerprint, or the run by which another launch has it: it runs, or ended by itself.

        `seen` are the runs that the launch knows of already. One that was killed, or whose process is gone, claims
        nothing.
        """
        with turn(self.uri):
            if others := self._claims(fingerprint, seen):
                return others[0]
            run_id = self.create(name, tags, parent)
            first = self._claims(fingerprint, seen)[0]  # of those that took no turns
            if first.run_id == run_id:
                return run_id
            self.client.delete_run(run_id)
            return first

    def _claims(self, fingerprint: str, seen: Collection[str]) -> list[Past]:
        found = [*self.runs(fingerprint=fingerprint), *self.runs(planned=fingerprint)]
        live = {past.run_id: past for past in found if past.status != "killed" and not past.is_gone}
        return sorted((p for p in live.values() if p.run_id not in seen), key=lambda past: (past.began, past.run_id))

    def past(self, run_id: str) -> Past:
        """One run, whatever became of it."""
        return _past(self.client.get_run(run_id))

    def close_gone(self) -> None:
        """End as KILLED the runs of the store whose process is gone from this machine."""
        close_gone(self.client)

    def close_unstarted(self) -> None:
        """End as KILLED the runs that this process made for children that it did not come to start."""
        close_unstarted(self.client)

    def has(self, run_id: str) -> bool:
        """Whether a run is there and was not deleted."""
        try:
            return bool(run_id) and self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def metrics(self, run_id: str) -> dict[str, float] | None:
        """The metrics of a run that finished; None for another."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return None
        return dict(run.data.metrics) if run.info.status == "FINISHED" else None

    def mark_best(self, run_id: str, best: bool) -> None:
        """Let the best of many runs be seen in any list: its name begins so, and no other's does."""
        name = self.client.get_run(run_id).info.run_name
        wanted = ("best: " if best else "") + name.removeprefix("best: ")
        if wanted != name:
            self.client.update_run(run_id, name=wanted)
            Record(self.client, run_id, self.uri).tags({Tag.BEST: str(best).lower()})

    def close(self, run_id: str, status: str, reason: str = "", log: str = "") -> bool:
        """End a run whose process is gone as what became of it, with the log of one that failed; True if FINISHED.

        A run that had finished stays so; anything else that it wrote of its own end gives way.
        """
        now, record = self.client.get_run(run_id).info.status, Record(self.client, run_id, self.uri)
        if now == "FINISHED":
            return True
        if status != "finished" and log:
            log = masked(log)
            record.tags({Tag.LOG_TAIL: log[-MAX_VALUE:]})
            self.client.log_text(run_id, log, f"{Artifact.LOGS}/output.log")
        if now != _ended(status):
            record.end(_ended(status), reason)
        return status == "finished"


def _quoted(value: str) -> str:
    """A value in a filter of MLflow's, which knows both quotes and no way to escape them."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _ended(status: str) -> str:
    return {"finished": "FINISHED", "killed": "KILLED", "pruned": "KILLED"}.get(status, "FAILED")


def _past(run: Run) -> Past:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    peaks = [v for k, v in metrics.items() if k.startswith(metric_name(Scope.COST, "")) and k.endswith("_peak_MB")]
    return Past(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status.lower(),
        fingerprints=frozenset({tags.get(Tag.FINGERPRINT, ""), tags.get(Tag.PLANNED, "")} - {""}),
        process=tags.get(Tag.PROCESS, ""),
        reason=tags.get(Tag.REASON, ""),
        seconds=((info.end_time or info.start_time) - info.start_time) / 1000,
        peak_mb=max(peaks, default=0.0),
        kind=tags.get(Tag.KIND, ""),
        began=info.start_time,
    )
