"""The store: where it is, whether it answers, what it lists."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import shlex
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from mlflow.utils import name_utils
from sqlalchemy.exc import SQLAlchemyError

from hdmap_mlflow import interrupt, sqlite
from hdmap_mlflow.errors import BadInput, masked, one_line
from hdmap_mlflow.names import Tag
from hdmap_mlflow.process import is_gone, process_name
from hdmap_mlflow.tracking import database, fetched, patience

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # an address that may hold a password
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial database tables" and the like
Entity = TypeVar("Entity")
ANSWER_SECONDS = 4
TRANSFERS = {"download_artifacts", *(f"log_{what}" for what in ("artifact", "artifacts", "dict", "text"))}
TRANSFERS |= {"log_model_artifact", "log_model_artifacts"}
QUESTIONS = {name for name, one in vars(MlflowClient).items() if inspect.isfunction(one) and name[0] != "_"} - TRANSFERS
PAGE = 1000  # entries of a listing that a store is asked for at once


def absolute_uri(uri: str | None) -> str:
    """The store's address: given, or `$MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` here; SQLite paths are absolute.

    One whose password was masked when it was written down is that of the environment, if they agree in the rest.
    """
    own = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = own if not uri or uri == masked(own) else uri
    if file := sqlite.file_of(uri or "sqlite:///mlflow.db"):
        return sqlite.url(file)
    try:
        parts = urlparse(uri)
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError as flaw:
        raise BadInput(f"tracking.uri={masked(uri)} is not a store ({flaw}); give http://HOST:PORT") from None
    if not (whole or database.is_database(uri) and "://" in uri and not uri.startswith("sqlite")):
        raise BadInput(
            f"tracking.uri={masked(uri)} is not a store; give sqlite:///FILE, http://HOST:PORT or postgresql://..."
        )
    if "***" in masked(uri) and uri == masked(uri):
        raise BadInput(f"tracking.uri={uri} lacks its password; set MLFLOW_TRACKING_URI to the whole address")
    return uri


class DatabaseClient(MlflowClient):
    """A client of a database, whose calls no interrupt cuts: a statement that is cut keeps its lock on a SQLite file.

    All others then wait for that lock, and this process at its end as well. Transfers of files may take their time.
    """

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return interrupt.held()(found) if name in QUESTIONS else found


def connect(uri: str) -> MlflowClient:
    """A client of a store, which is not asked yet."""
    if not database.is_database(uri):
        return MlflowClient(tracking_uri=uri)
    database.engine(uri)
    return DatabaseClient(tracking_uri=uri)


def check_store(uri: str, experiment: str) -> bool:
    """Whether the store has the experiment; neither is made. Raises BadInput, in seconds, where `open_store` would."""
    patience.seconds()
    with _answering(uri, "change tracking.uri") as way_out, contextlib.ExitStack() as stack:
        if not sqlite.file_of(uri):
            stack.enter_context(database.turn(uri))  # another process may be making its tables
        there = not database.is_database(uri) or database.check(uri, way_out)
        return there and _experiment(connect(uri), uri, experiment) is not None


def open_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client whose store answers, and the id of the experiment, created where it is missing.

    A fresh store is made by one process, while others wait: several doing that at once break it.
    Raises BadInput in seconds for what does not answer, is no store, or cannot be written.
    """
    patience.seconds()
    with _answering(uri, "change tracking.uri") as way_out:
        file = sqlite.file_of(uri)
        if file and not database.check(uri, way_out):  # before its turn, which leaves a file behind
            file.parent.mkdir(parents=True, exist_ok=True)
        with database.turn(uri):
            if database.is_database(uri) and not database.check(uri, way_out) and file:
                database.make(file)
            client = connect(uri)
            if known := _experiment(client, uri, experiment):
                return client, known
            place = database.artifacts(file) if file else None  # a server has a place of its own
            kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on training runs, not on GenAI
            try:
                return client, client.create_experiment(experiment, place, kind)
            except MlflowException:
                if made := _experiment(client, uri, experiment):  # by another, on a server, in this moment
                    return client, made
                raise


def _experiment(client: MlflowClient, uri: str, name: str) -> str | None:
    """The id of an experiment, if it is there. Raises BadInput for one that was deleted."""
    entity = client.get_experiment_by_name(name)
    if entity and entity.lifecycle_stage == "deleted":
        raise BadInput(
            f"experiment '{name}' of {masked(uri)} was deleted; give tracking.experiment another name, or "
            f"`mlflow experiments restore --experiment-id {entity.experiment_id}`"
        )
    return entity.experiment_id if entity else None


@contextlib.contextmanager
def _answering(uri: str, way_out: str) -> Iterator[str]:
    """The first question to a server is asked twice, for 4 seconds; MLflow would try for minutes, and tell all of it.

    Yields the way out. Raises BadInput if nothing answers, or if what answers is no store.
    """
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    silent = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield way_out
    except (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError) as error:
        why = database.missing_driver(uri) or one_line(error)
        raise BadInput(f"tracking store {masked(uri)} does not answer ({why}); start it or {way_out}") from None
    finally:
        logging.disable(silent)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def close_gone(client: MlflowClient) -> None:
    """End as KILLED the runs of a store, in whatever experiment, whose process is gone from this machine."""
    for run in _running(client, f"{socket.gethostname()}:%"):
        if is_gone(run.data.tags[Tag.PROCESS]):
            _kill(client, run, "its process is gone")


def close_unstarted(client: MlflowClient) -> None:
    """End as KILLED what this process made for a child that it did not come to start."""
    for run in _running(client, process_name()):  # a `_` of a host's name stands for any letter there
        mine = run.data.tags[Tag.PROCESS] == process_name()
        if mine and run.data.tags.get(Tag.KIND) in ("run", "trial"):
            _kill(client, run, "interrupted before it began")


def twins(client: MlflowClient, run_id: str, fingerprint: str) -> set[str]:
    """Ids of other runs of a fingerprint that went on since a run began; none where the store does not say."""
    with patience.asked_once(ANSWER_SECONDS), contextlib.suppress(*patience.FAILURES):
        own, same = client.get_run(run_id).info, f"tags.\"{Tag.FINGERPRINT}\" = '{fingerprint}'"
        found = every(client.search_runs, experiment_ids=[own.experiment_id], filter_string=same)
        late = [one for one in found if (one.info.end_time or math.inf) > own.start_time]
        live = [one for one in late if one.info.end_time or not is_gone(one.data.tags.get(Tag.PROCESS, ""))]
        return {one.info.run_id for one in live} - {run_id}
    return set()


def _running(client: MlflowClient, process: str) -> list[Run]:
    running = f"attributes.status = 'RUNNING' and tags.\"{Tag.PROCESS}\" LIKE '{process}'"
    ids = [one.experiment_id for one in every(client.search_experiments)]
    return list(every(client.search_runs, experiment_ids=ids, filter_string=running))


@interrupt.held()
def _kill(client: MlflowClient, run: Run, reason: str) -> None:
    """End a run as KILLED, unless it has ended since it was listed, or another process writes it by now."""
    now = client.get_run(run.info.run_id)
    if now.info.status != "RUNNING" or now.data.tags.get(Tag.PROCESS) != run.data.tags[Tag.PROCESS]:
        return
    client.set_tag(run.info.run_id, Tag.STATUS, "killed")
    client.set_tag(run.info.run_id, Tag.REASON, reason)
    client.set_terminated(run.info.run_id, "KILLED")


# ------------------------------------------------------------------------------------------- reading back
def forget(client: MlflowClient, run_id: str, tag: str) -> None:
    """Remove a tag of a run, which another process may have done meanwhile."""
    try:
        client.delete_tag(run_id, tag)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def find_runs(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment, the newest first. Raises BadInput that names the experiments there are."""
    client, known = read_store(uri, experiment)
    return list(every(client.search_runs, experiment_ids=[known]))


def read_store(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client and the id of an experiment that is there. Raises BadInput that names the experiments there are."""
    client = reader(uri)
    if known := _experiment(client, uri, experiment):
        return client, known
    names = ", ".join(one.name for one in every(client.search_experiments)) or "none"
    raise BadInput(f"no experiment '{experiment}' in {masked(uri)}; there are: {names}; give --experiment or --uri")


def every(search: Callable[..., PagedList[Entity]], size: int | None = None, **what: object) -> Iterator[Entity]:
    """Every entry of a listing of the store's, which comes in pages, in its order."""
    token = None
    while token != "":
        page = search(**what, max_results=size or PAGE, page_token=token)
        yield from page
        token = page.token or ""


def get_run(uri: str, run_id: str) -> Run:
    """One run by its id. Raises BadInput for an id that the store does not know."""
    try:
        return reader(uri).get_run(run_id)
    except MlflowException:
        raise BadInput(
            f"no run {run_id} in {masked(uri)}; `mlflow ui` shows the ids, --uri names another store"
        ) from None


def reader(uri: str) -> MlflowClient:
    """A client for a store that exists: reading makes none. Raises BadInput if it does not answer."""
    with _answering(uri, "give --uri") as way_out:
        if database.is_database(uri) and not database.check(uri, way_out, write=False):
            raise BadInput(
                f"there is no store {sqlite.file_of(uri) or masked(uri)}; train first, or give --uri sqlite:///FILE"
            )
        client = connect(uri)
        client.search_experiments(max_results=1)
        return client


def artifacts(uri: str, run_id: str, path: str) -> Path:
    """Local path of an artifact file or folder, to be read only. Raises BadInput if the run has none.

    Folders are those whose names have no suffix.
    """
    client = connect(uri)
    kept = {found.path: found.is_dir for found in client.list_artifacts(run_id, path.rpartition("/")[0])}
    if path not in kept:
        raise BadInput(f"run {run_id} keeps no {path}; it did not finish, or an older version wrote it")
    if kept[path] == bool(Path(path).suffix):
        raise BadInput(f"run {run_id}: {path} is damaged ({'a folder' if kept[path] else 'a file'}); train it again")
    return fetched.local(client.get_run(run_id).info.artifact_uri, path, uri)


def project_run() -> str | None:
    """Id of the run that `mlflow run` started for this process, if it did."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def own_run(client: MlflowClient, run_id: str) -> Run:
    """The run that `mlflow run` started. Raises BadInput where the store does not have it."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise BadInput(f"MLFLOW_RUN_ID={run_id:.80} names no run of this store; unset it") from None


def chosen_name(client: MlflowClient, run_id: str) -> str | None:
    """The name that somebody gave a run; None for one that MLflow drew, such as `upset-shrike-42`."""
    name = own_run(client, run_id).info.run_name or ""
    first, _, rest = name.partition("-")
    second, _, count = rest.partition("-")
    drawn = first in name_utils._GENERATOR_PREDICATES and second in name_utils._GENERATOR_NOUNS and count.isdecimal()
    return None if drawn else name or None


def ui_command(uri: str) -> str:
    """The command that shows a store in a browser."""
    return "hdmap ui" + _uri_option(uri)


def report_command(uri: str, experiment: str) -> str:
    """The command that compares an experiment's finished runs."""
    return f"hdmap report --experiment {shlex.quote(experiment)}" + _uri_option(uri)


def _uri_option(uri: str) -> str:
    return "" if uri == absolute_uri(None) else f" --uri {shlex.quote(masked(uri))}"
