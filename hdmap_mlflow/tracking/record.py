"""One run that is being written, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from tenacity import Retrying, stop_after_attempt, wait_exponential

from hdmap_mlflow.errors import BadInput, Incomplete, Stopped, masked, one_line
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.process import process_name
from hdmap_mlflow.tracking.client import absolute_uri, close_gone, connect, open_store, project_run

NOTE = "mlflow.note.content"
PARENT = "mlflow.parentRunId"
MAX_VALUE = 5000  # MLflow's limit for a tag or a parameter


class Record:
    """One MLflow run that is being written."""

    def __init__(self, client: MlflowClient, run_id: str, uri: str) -> None:
        self.client = client
        self.run_id = run_id
        self.uri = uri

    def params(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, params=[Param(k, masked(v)[:MAX_VALUE]) for k, v in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(k, masked(str(v))[:MAX_VALUE]) for k, v in values.items()])

    def note(self, markdown: str) -> None:
        """The description that the UI shows on the run's page."""
        self.tags({NOTE: markdown})

    def dataset(self, name: str, digest: str, root: str, context: str, profile: Mapping[str, object]) -> None:
        """A data set that the run read, as `mlflow.log_input` writes it; `context` is training or testing."""
        source = json.dumps({"uri": root})
        entity = Dataset(name, digest, "local", source, profile=json.dumps(profile))
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def json(self, content: Mapping[str, object], name: str) -> None:
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
                self.artifact(path, Artifact.CHECKPOINT)
                return
            except Exception as error:  # whatever the artifact store raises: the numbers of the run still stand
                why = f"upload failed: {one_line(error, 200)}"
        self.tags({Tag.CHECKPOINT: f"not uploaded ({why}); it is at {path.absolute()}"})

    def end(self, status: str, reason: str = "") -> None:
        """Close the run as FINISHED, FAILED or KILLED, with the reason as a tag."""
        self.tags({Tag.STATUS: status.lower()} | ({Tag.REASON: reason} if reason else {}))
        self.client.set_terminated(self.run_id, status)


@contextlib.contextmanager
def start(
    uri: str, experiment: str, name: str, tags: Mapping[str, str], parent: str | None = None, resume: str | None = None
) -> Iterator[Record]:
    """A run that ends as it truly ended: FINISHED, FAILED with its reason, or KILLED.

    Inside `mlflow run` the project's own run is written; its experiment was chosen by `mlflow run`. `resume` is the id
    of a run to go on with.
    """
    client, experiment_id = open_store(uri, experiment) if not project_run() else (connect(uri), "")
    run_id = project_run() or resume
    if Tag.PROCESS not in tags:  # that of a driver, which has looked
        close_gone(client)
    if run_id:
        client.update_run(run_id, status="RUNNING", name=name)
        if Tag.REASON in client.get_run(run_id).data.tags:  # why it ended before
            client.delete_tag(run_id, Tag.REASON)
    else:
        links = {PARENT: parent} if parent else {}
        run_id = client.create_run(experiment_id, run_name=name, tags=resolve_tags(links)).info.run_id
    record = Record(client, run_id, uri)
    record.tags({Tag.PROCESS: process_name(), **tags, Tag.STATUS: "running"})
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


def reopen(uri: str, run_id: str) -> Record:
    """A finished run to which something is added."""
    return Record(connect(uri), run_id, uri)


def fail_project_run(reason: str) -> None:
    """Mark the run that `mlflow run` started as FAILED with the reason, where it has not ended yet."""
    run_id = project_run()
    if run_id:
        client = connect(absolute_uri(None))
        if not RunStatus.is_terminated(RunStatus.from_string(client.get_run(run_id).info.status)):
            Record(client, run_id, "").end(RunStatus.to_string(RunStatus.FAILED), reason)
