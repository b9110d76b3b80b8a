"""The record of a run in MLflow. The only module that talks to MLflow."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from sqlalchemy.exc import SQLAlchemyError
from tenacity import Retrying, stop_after_attempt, wait_exponential

from hdmap_mlflow.errors import BadInput, Incomplete, Stopped

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial database tables" and the like
MAX_VALUE = 5000  # MLflow's limit for a tag or a parameter
PAGE = 1000  # entries of a listing that a store is asked for at once


def absolute_uri(uri: str | None) -> str:
    """The store's URI: given, or `$MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` here; SQLite paths are absolute."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    if urlparse(uri).scheme in ("http", "https", "postgresql", "mysql", "mssql") or "+" in urlparse(uri).scheme:
        return uri
    raise BadInput(f"tracking.uri={uri} is not a store; give sqlite:///FILE, http://HOST:PORT or postgresql://...")


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client whose store answers, and the id of the experiment, created where it is missing.

    A fresh SQLite store is initialised under a file lock: several processes doing that at once break the file.
    Raises BadInput in seconds for a server that does not answer or a file that cannot be written.
    """
    with _answering(uri, "change tracking.uri"), contextlib.ExitStack() as stack:
        if uri.startswith("sqlite:///"):
            path = Path(uri.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(f"{path}.lock"))
        client = MlflowClient(tracking_uri=uri)  # this already initialises the file
        found = client.get_experiment_by_name(experiment)
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on training runs, not on GenAI
        return client, found.experiment_id if found else client.create_experiment(experiment, _artifacts(uri), kind)


def _artifacts(uri: str) -> str | None:
    """Artifacts of a SQLite store lie beside its file, wherever the command is run from; a server has its own place."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


@contextlib.contextmanager
def _answering(uri: str, way_out: str) -> Iterator[None]:
    """The first question to a server is asked twice, for 5 seconds; MLflow would try for minutes.

    Raises BadInput if nothing answers, or if what answers is no store.
    """
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadInput(f"tracking store {uri} does not answer ({reason}); start it or {way_out}") from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


class Record:
    """One MLflow run that is being written."""

    def __init__(self, client: MlflowClient, run_id: str, uri: str) -> None:
        self.client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, params=[Param(k, v[:MAX_VALUE]) for k, v in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(k, str(v)[:MAX_VALUE]) for k, v in values.items()])

    def note(self, markdown: str) -> None:
        """The description that the UI shows on the run's page."""
        self.tags({NOTE: markdown})

    def dataset(self, name: str, digest: str, root: str, context: str, profile: Mapping[str, Any]) -> None:
        """A data set that the run read, as `mlflow.log_input` writes it; `context` is training or testing."""
        source = json.dumps({"uri": root})
        entity = Dataset(name, digest, "local", source, profile=json.dumps(profile))
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def json(self, content: Mapping[str, Any], name: str) -> None:
        self.client.log_dict(self.run_id, dict(content), name)

    def artifact(self, path: Path, folder: str = "") -> None:
        """Upload a file, trying three times."""
        for attempt in Retrying(stop=stop_after_attempt(3), wait=wait_exponential(max=10), reraise=True):
            with attempt:
                self.client.log_artifact(self.run_id, str(path), folder or None)

    def folder(self, path: Path, name: str) -> None:
        """Upload everything below a folder as `<name>/...`."""
        self.client.log_artifacts(self.run_id, str(path), name)

    def checkpoint(self, path: Path, max_mb: float) -> None:
        """Upload a checkpoint. One too large, or refused by the store, is said in a tag and never loses the run."""
        size = path.stat().st_size / 1e6
        if size > max_mb:
            why = f"{size:.0f} MB is over tracking.max_checkpoint_mb={max_mb:g}"
        else:
            try:
                self.artifact(path, "checkpoint")
                return
            except Exception as error:  # whatever the artifact store raises: the numbers of the run still stand
                why = f"upload failed: {' '.join(str(error).split())[:200]}"
        self.tags({"hdmap.checkpoint": f"not uploaded ({why}); it is at {path.absolute()}"})

    def end(self, status: str, reason: str = "") -> None:
        """Close the run as FINISHED, FAILED or KILLED, with the reason as a tag."""
        self.tags({"hdmap.status": status.lower()} | ({"hdmap.reason": reason} if reason else {}))
        self.client.set_terminated(self.run_id, status)


@contextlib.contextmanager
def start(
    uri: str, experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None, resume: str | None = None
) -> Iterator[Record]:
    """A run that ends as it truly ended: FINISHED, FAILED with its reason, or KILLED.

    Inside `mlflow run` the project's own run is written; its experiment was chosen by `mlflow run`. `resume` is the id
    of a run to go on with.
    """
    client, experiment_id = open_store(uri, experiment) if not project_run() else (MlflowClient(uri), "")
    run_id = project_run() or resume
    if run_id:
        client.update_run(run_id, status="RUNNING", name=name)
    else:
        links = {PARENT: parent} if parent else {}
        run_id = client.create_run(experiment_id, run_name=name, tags=resolve_tags(links)).info.run_id
    record = Record(client, run_id, uri)
    record.tags({**tags, "hdmap.status": "running"})
    try:
        yield record
    except KeyboardInterrupt:
        record.end(RunStatus.to_string(RunStatus.KILLED), "interrupted")
        raise
    except Stopped as stop:
        record.end(RunStatus.to_string(RunStatus.KILLED), str(stop))
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, BadInput | Incomplete) else f"{type(error).__name__}: {error}"
        record.end(RunStatus.to_string(RunStatus.FAILED), reason)
        raise
    record.end(RunStatus.to_string(RunStatus.FINISHED))


# ------------------------------------------------------------------------------------------- reading back
def find_runs(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment, the newest first. Raises BadInput that names the experiments there are."""
    client = _reader(uri)
    entity = client.get_experiment_by_name(experiment)
    if entity is None:
        names = ", ".join(one.name for one in _all(client.search_experiments)) or "none"
        raise BadInput(f"no experiment '{experiment}' in {uri}; there are: {names}; give --experiment or --uri")
    return list(_all(client.search_runs, experiment_ids=[entity.experiment_id]))


def _all(search: Callable[..., Any], size: int | None = None, **what: Any) -> Iterator[Any]:
    """Every entry of a listing of the store's, which comes in pages, in its order."""
    token = None
    while token != "":
        page = search(**what, max_results=size or PAGE, page_token=token)
        yield from page
        token = page.token or ""


def get_run(uri: str, run_id: str) -> Run:
    """One run by its id. Raises BadInput for an id that the store does not know."""
    try:
        return _reader(uri).get_run(run_id)
    except MlflowException:
        raise BadInput(f"no run {run_id} in {uri}; `mlflow ui` shows the ids, --uri names another store") from None


def _reader(uri: str) -> MlflowClient:
    """A client for a store that exists: reading makes none. Raises BadInput if it does not answer."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        raise BadInput(f"there is no store {path}; train first, or give --uri sqlite:///FILE")
    with _answering(uri, "give --uri"):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        return client


def artifacts(uri: str, run_id: str, path: str) -> Path:
    """Local path of an artifact file or folder, fetched where it is remote. Raises BadInput if the run has none."""
    client = MlflowClient(tracking_uri=uri)
    if path not in {found.path for found in client.list_artifacts(run_id, path.rpartition("/")[0])}:
        raise BadInput(f"run {run_id} keeps no {path}; it did not finish, or an older version wrote it")
    return Path(client.download_artifacts(run_id, path))


def reopen(uri: str, run_id: str) -> Record:
    """A finished run to which something is added."""
    return Record(MlflowClient(tracking_uri=uri), run_id, uri)


def project_run() -> str | None:
    """Id of the run that `mlflow run` started for this process, if it did."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def fail_project_run(reason: str) -> None:
    """Mark the run that `mlflow run` started as FAILED with the reason, where it has not ended yet."""
    run_id = project_run()
    if run_id:
        client = MlflowClient(absolute_uri(None))
        if not RunStatus.is_terminated(RunStatus.from_string(client.get_run(run_id).info.status)):
            Record(client, run_id, "").end(RunStatus.to_string(RunStatus.FAILED), reason)


def ui_command(uri: str) -> str:
    """The command that shows a store, or the address of a server that already does."""
    return f"open {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


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


class Store:
    """The runs of one experiment, seen from outside: looked up, made for a child process, closed when it is gone."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.client, self.experiment_id = open_store(uri, experiment)
        if run_id := project_run():  # `mlflow run` chose the experiment
            self.experiment_id = self.client.get_run(run_id).info.experiment_id

    def runs(self, *, newest: int | None = None, **tags: str) -> list[Past]:
        """Runs with these `hdmap.` tags, the newest first; all of them, or the `newest` that finished."""
        wanted = [f'tags."hdmap.{name}" = {_quoted(value)}' for name, value in tags.items()]
        wanted += ["attributes.status = 'FINISHED'"] if newest else []
        found = _all(self.client.search_runs, newest, experiment_ids=[self.experiment_id],
                     filter_string=" and ".join(wanted))  # fmt: skip
        return [_past(run) for run in itertools.islice(found, newest)]

    def create(self, name: str, tags: Mapping[str, str], parent: str | None) -> str:
        """Id of a new run for a child process to write; it is RUNNING until the child or `close` ends it."""
        links = {PARENT: parent} if parent else {}
        every = {**resolve_tags(links), **tags, "hdmap.status": "running"}
        return self.client.create_run(self.experiment_id, run_name=name, tags=every).info.run_id

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
            Record(self.client, run_id, self.uri).tags({"hdmap.best": str(best).lower()})

    def close(self, run_id: str, status: str, reason: str = "", log: str = "") -> bool:
        """End a run whose process is gone as what became of it, with the log of one that failed; True if FINISHED.

        A run that had finished stays so; anything else that it wrote of its own end gives way.
        """
        now, record = self.client.get_run(run_id).info.status, Record(self.client, run_id, self.uri)
        if now == "FINISHED":
            return True
        if status != "finished" and log:
            record.tags({"hdmap.log_tail": log[-MAX_VALUE:]})
            self.client.log_text(run_id, log, "logs/output.log")
        if now != _ended(status):
            record.end(_ended(status), reason)
        return status == "finished"


def _quoted(value: str) -> str:
    """A value in a filter of MLflow's, which knows both quotes and no way to escape them."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _ended(status: str) -> str:
    return {"finished": "FINISHED", "killed": "KILLED"}.get(status, "FAILED")


def _past(run: Any) -> Past:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    peaks = [v for k, v in metrics.items() if k.startswith("cost/") and k.endswith("_peak_MB")]
    return Past(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status.lower(),
        fingerprints=frozenset({tags.get("hdmap.fingerprint", ""), tags.get("hdmap.planned", "")} - {""}),
        process=tags.get("hdmap.process", ""),
        reason=tags.get("hdmap.reason", ""),
        seconds=((info.end_time or info.start_time) - info.start_time) / 1000,
        peak_mb=max(peaks, default=0.0),
    )
