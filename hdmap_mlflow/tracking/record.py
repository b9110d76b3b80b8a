"""One run that is being written, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from hdmap_mlflow import interrupt
from hdmap_mlflow.errors import BadInput, Incomplete, NotRecorded, Stopped, masked, one_line
from hdmap_mlflow.files import to_json, write_whole
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.process import process_name
from hdmap_mlflow.tracking import patience
from hdmap_mlflow.tracking.client import absolute_uri, chosen_name, close_gone, connect, forget, open_store, project_run
from hdmap_mlflow.tracking.copies import drop, listed
from hdmap_mlflow.tracking.journal import Entry, Head, Input, Journal, Kept, Recorded

NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
MAX_VALUE = 5000  # MLflow's limit for a tag or a parameter
PAUSE, QUICK = 10.0, 20  # seconds: until a store that is away is asked again, and for one request, while a run goes on
LAST_WORD = 5.0  # seconds for which the store is waited for when the user ends a run


class Record:
    """One MLflow run that is being written.

    With a `journal` everything is written to the run's own folder first. A record that is `kept` does not disturb its
    run: what the store does not take at once waits until the end. Any other waits for the store, and raises. Unless it
    is to `keep_local` what was recorded, the run's folder ends without what the store has whole.
    """

    keep_local = True

    def __init__(
        self, client: MlflowClient, run_id: str, uri: str, journal: Journal | None = None, kept: bool = False
    ) -> None:
        self.client, self.run_id, self.uri = client, run_id, uri
        self.journal, self.kept = journal, kept
        self.home = journal.folder if journal else Path.cwd()
        self.patience = patience.seconds()
        self._unsent: deque[Entry] = deque()
        self._extras: list[Entry] = []
        self._refused: list[str] = []
        self._taken: list[Entry] = []  # what the store says that it has
        self._next_try = 0.0

    def params(self, values: Mapping[str, str]) -> None:
        self._write(params={name: masked(value)[:MAX_VALUE] for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int = 0, when: int = 0) -> None:
        """Metrics of a step, as of now or of a time in milliseconds since 1970."""
        self.write(Entry(metrics=dict(values), step=step, time=when or _now()))

    def tags(self, values: Mapping[str, str]) -> None:
        self._write(tags={name: masked(str(value))[:MAX_VALUE] for name, value in values.items()})

    def note(self, markdown: str) -> None:
        """The description that the UI shows on the run's page."""
        self.tags({NOTE: markdown})

    def dataset(self, name: str, digest: str, root: str, context: str, profile: Mapping[str, object]) -> None:
        """A data set that the run read, as `mlflow.log_input` writes it; `context` is training or testing."""
        source = json.dumps({"uri": root})
        entity = Input(name=name, digest=digest, source=source, profile=json.dumps(profile), context=context)
        self._write(dataset=entity)

    def json(self, content: Mapping[str, object], name: str) -> None:
        """A JSON file; it lies in the run's folder, too, where there is one that can be written to."""
        if self.journal:
            with contextlib.suppress(OSError):
                write_whole(self.home / name, to_json(content))
                return self._write(file=name, to=name.rpartition("/")[0])
        self._write(content=json.loads(to_json(content)), to=name)

    def artifact(self, path: Path, folder: str = "") -> None:
        self._write(file=self._place(path), to=folder)

    def folder(self, path: Path, name: str) -> None:
        """Everything below a folder, as `<name>/...`."""
        self._write(file=self._place(path), to=name)

    def checkpoint(self, path: Path, max_mb: float) -> None:
        """Upload a checkpoint, or a model's folder. One too large, or refused, is said in a tag and loses no run."""
        size = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file()) / 1e6
        if size > max_mb:
            self.tags(_not_uploaded(path, f"{size:.0f} MB is over tracking.max_checkpoint_mb={max_mb:g}"))
        else:
            to = Artifact.MODEL if path.is_dir() else Artifact.CHECKPOINT
            self._write(file=self._place(path), to=to, extra=True, model=path.is_dir())

    def write(self, entry: Entry) -> None:
        """Record an entry: in the journal, and in the store, now or at the end."""
        if self.journal:
            self.journal.append(entry)
        if entry.extra and self.kept:
            self._extras.append(entry)  # may be large: when all else is safe
        elif entry.extra:
            self._send_extra(entry)
        else:
            self._unsent.append(entry)
            self._try() if self.kept else self._send_all()

    def end(self, status: str, reason: str = "") -> None:
        """Close the run as FINISHED, FAILED or KILLED, with the reason as a tag.

        Raises NotRecorded, which says where everything lies, if the store does not take what it was not given yet.
        """
        last = Entry.model_validate({"tags": _ended(status, reason), "end": status, "time": _now()})
        if self.journal:
            self.journal.append(last)
        self._finish(last)

    def replay(self, kept: Kept) -> None:
        """Record all that a folder holds. Raises NotRecorded if the store does not take it."""
        self._unsent.extend(entry for entry in kept.entries if not entry.extra and not entry.end)
        self._extras = [entry for entry in kept.entries if entry.extra]
        self._finish(kept.last or Entry(tags=_ended("KILLED", "its process is gone"), end="KILLED", time=_now()))

    def _finish(self, last: Entry) -> None:
        """Send what waits, the extras, and then that it was the last."""
        try:
            with patience.asked_once():
                self._send_all()
                for entry in self._extras:
                    self._send_extra(entry)
                self._check()
                if self._refused:
                    last = last.model_copy(update={"tags": _ended("FAILED", self._refused[0]), "end": "FAILED"})
                self._unsent.append(last)
                self._send_all()
        except KeyboardInterrupt:
            print(f"hdmap: not recorded yet; {self._way_out()}", file=sys.stderr)
            raise
        except Exception as error:
            line = f"the store {masked(self.uri)} did not take the whole record ({one_line(error)}); {self._way_out()}"
            raise NotRecorded(line, self.journal.folder if self.journal else None) from error
        finally:
            if self.journal:
                self.journal.close()
        if self._refused:
            raise NotRecorded(f"the store {masked(self.uri)} refused a part of the record ({self._refused[0]})")
        if self.journal:
            self.journal.append(Recorded(recorded=self.run_id))
            if not self.keep_local:
                drop(self.client, self.home)

    def _write(self, **what: Any) -> None:
        self.write(Entry(time=_now(), **what))

    def _try(self) -> None:
        """Send what waits, if the store takes it at once. A store that was away is left alone for a while."""
        if time.monotonic() < self._next_try:
            return
        try:
            with patience.asked_once(QUICK):
                while self._unsent:
                    self._send(self._unsent[0])
                    self._unsent.popleft()
        except Exception as error:
            self._next_try = time.monotonic() + PAUSE
            logging.getLogger(__name__).warning("what is recorded waits for the store (%s)", one_line(error))

    def _send_all(self) -> None:
        """Send what waits, and wait for the store."""
        while self._unsent:
            for attempt in patience.tries(self.patience):
                with attempt:
                    self._send(self._unsent[0])
            self._unsent.popleft()

    def _send(self, entry: Entry) -> None:
        """Send an entry. What the store refuses for good is set aside: the rest of the record must not wait for it."""
        try:
            entry.send(self.client, self.run_id, self.home)
            self._taken.append(entry)
        except Exception as error:
            if not self.kept or not patience.is_refusal(error) or entry.end or entry.extra:
                raise
            self._refused.append(one_line(error))

    def _send_extra(self, entry: Entry) -> None:
        try:
            for attempt in patience.tries(min(self.patience, 30)):
                with attempt:
                    self._send(entry)
        except Exception as error:  # whatever the artifact store raises: the numbers of the run still stand
            said = _not_uploaded(self.home / entry.file, f"upload failed: {one_line(error, 200)}")
            self._unsent.append(Entry(tags=said, time=_now()))
            self._send_all()

    def _check(self) -> None:
        """Send once more what a server said it took, and has not: a proxy may have answered in its place."""
        if self.uri.startswith("http"):
            for attempt in patience.tries(self.patience):
                with attempt:
                    lost = self._lost()
                    self._unsent.extend(lost)
                    self._send_all()
                    if lost:
                        raise ConnectionError(f"it lost {', '.join(lost[0].names(self.home))}")

    def _lost(self) -> list[Entry]:
        """The entries whose artifacts the store does not list, and which were not sent since."""
        there = listed(self.client, self.run_id, {name for entry in self._taken for name in entry.names(self.home)})
        lost = [entry for entry in self._taken if not there.keys() >= set(entry.names(self.home))]
        self._taken = [entry for entry in self._taken if entry not in lost]
        return lost

    def _place(self, path: Path) -> str:
        """A path as the journal has it: relative to the run's folder, so that the folder can be moved."""
        path = path.absolute()
        return path.relative_to(self.home).as_posix() if path.is_relative_to(self.home) else str(path)

    def _way_out(self) -> str:
        if not self.journal:
            return "start the store, then give the same command again"
        return f"all of it is in {self.home}; to record it: hdmap upload {shlex.quote(str(self.home))}"


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def _ended(status: str, reason: str) -> dict[str, str]:
    return {Tag.STATUS: status.lower()} | ({Tag.REASON: reason[:MAX_VALUE]} if reason else {})


def _not_uploaded(path: Path, why: str) -> dict[str, str]:
    return {Tag.CHECKPOINT: f"not uploaded ({why}); it is at {path.absolute()}"}


@contextlib.contextmanager
def start(
    uri: str,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    parent: str | None = None,
    resume: str | None = None,
    folder: Path | None = None,
    keep_local: bool = True,
) -> Iterator[Record]:
    """A run that ends as it truly ended: FINISHED, FAILED with its reason, or KILLED.

    Inside `mlflow run` the project's own run is written; its experiment was chosen by `mlflow run`. `resume` is the id
    of a run to go on with. All that is recorded is written to `folder` first, where one is given. Raises NotRecorded
    at the end if the store does not take the record.
    """
    client, experiment_id = open_store(uri, experiment) if not project_run() else (connect(uri), "")
    own, now = project_run(), _now()
    run_id = own or resume
    name = (chosen_name(client, own) if own else None) or name
    links = resolve_tags({PARENT: parent} if parent else {})
    if Tag.PROCESS not in tags:  # that of a driver, which has looked
        close_gone(client)
    if not run_id:
        run_id = client.create_run(experiment_id, now, links, name).info.run_id
    elif Tag.REASON in client.get_run(run_id).data.tags:  # why it ended before
        forget(client, run_id, Tag.REASON)
    head = Head(run_id=run_id, name=name, uri=masked(uri), experiment=experiment, started=now, links=links)
    record = Record(client, run_id, uri, Journal(folder, head) if folder else None, kept=True)
    record.keep_local = keep_local
    begun = {Tag.PROCESS: process_name(), **{k: masked(str(v)) for k, v in tags.items()}, Tag.STATUS: "running"}
    record.write(Entry(begin=name, tags=begun, time=_now()))
    try:
        with interrupt.recognised():
            yield record
    except KeyboardInterrupt:
        record.patience = min(record.patience, LAST_WORD)
        with patience.asked_once(int(LAST_WORD)):
            _end_early(record, "KILLED", "interrupted")
        raise
    except BaseException as error:
        ours = isinstance(error, BadInput | Incomplete | Stopped)
        reason = str(error) if ours else f"{type(error).__name__}: {error}"
        _end_early(record, "KILLED" if isinstance(error, Stopped) else "FAILED", reason)
        raise
    record.end("FINISHED")


def _end_early(record: Record, status: str, reason: str) -> None:
    """Close a run that did not come through; why it did not is what is raised, not that the store is away, too."""
    try:
        record.end(status, reason)
    except NotRecorded as problem:
        if record.journal:  # else the same command writes it again
            print(f"hdmap: {problem}", file=sys.stderr)


def reopen(uri: str, run_id: str) -> Record:
    """A finished run to which something is added."""
    return Record(connect(uri), run_id, uri)


def send(kept: Kept, uri: str) -> tuple[str, bool]:
    """Record what a run left in its folder; returns the run's id, and whether all of it was recorded before.

    It is the run of that id where the store still has it, else a new one. Doing it twice is doing it once. Raises
    BadInput for a store that does not answer, NotRecorded for one that fails later.
    """
    with Journal(kept.folder) as journal:
        client, experiment_id = open_store(uri, kept.head.experiment)
        run, head = _again(client, experiment_id, kept), kept.head
        if run and kept.recorded == run.info.run_id and RunStatus.is_terminated(RunStatus.from_string(run.info.status)):
            return run.info.run_id, True
        kept.check(whole=True)
        links = head.links | {Tag.UPLOADED_FROM: head.run_id}
        run = run or client.create_run(experiment_id, head.started, links, head.name)
        record = Record(client, run.info.run_id, uri, journal, kept=True)
        record.keep_local = kept.params.get("tracking.keep_local") != "false"  # runs of before do not say it
        record.replay(kept)
        for name in {Tag.REASON, Tag.LOG_TAIL} & run.data.tags.keys() - kept.tags.keys():  # of a run that was given up
            forget(client, run.info.run_id, name)
        return run.info.run_id, False


def _again(client: MlflowClient, experiment_id: str, kept: Kept) -> Run | None:
    """The run that a folder is of, or the one that an upload made in its place, if there is one."""
    with contextlib.suppress(MlflowException):
        run = client.get_run(kept.head.run_id)
        if run.info.lifecycle_stage == "active":
            return run
    same = f"tags.\"{Tag.UPLOADED_FROM}\" = '{kept.head.run_id}'"
    return next(iter(client.search_runs([experiment_id], same)), None)


def fail_project_run(reason: str) -> None:
    """Mark the run that `mlflow run` started as FAILED with the reason, where it has not ended yet."""
    run_id = project_run()
    if run_id:
        with patience.asked_once(QUICK), contextlib.suppress(NotRecorded, *patience.FAILURES):  # it may be away, too
            record = Record(connect(absolute_uri(None)), run_id, "")
            record.patience = LAST_WORD
            if not RunStatus.is_terminated(RunStatus.from_string(record.client.get_run(run_id).info.status)):
                record.end("FAILED", reason)
