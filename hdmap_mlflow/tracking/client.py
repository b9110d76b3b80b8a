"""The store: where it is, whether it answers, what it lists."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

from filelock import FileLock
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from hdmap_mlflow.errors import BadInput, one_line

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial database tables" and the like
Entity = TypeVar("Entity")
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
        raise BadInput(f"tracking store {uri} does not answer ({one_line(error)}); start it or {way_out}") from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


# ------------------------------------------------------------------------------------------- reading back
def find_runs(uri: str, experiment: str) -> list[Run]:
    """All runs of an experiment, the newest first. Raises BadInput that names the experiments there are."""
    client = reader(uri)
    entity = client.get_experiment_by_name(experiment)
    if entity is None:
        names = ", ".join(one.name for one in every(client.search_experiments)) or "none"
        raise BadInput(f"no experiment '{experiment}' in {uri}; there are: {names}; give --experiment or --uri")
    return list(every(client.search_runs, experiment_ids=[entity.experiment_id]))


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
        raise BadInput(f"no run {run_id} in {uri}; `mlflow ui` shows the ids, --uri names another store") from None


def reader(uri: str) -> MlflowClient:
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


def project_run() -> str | None:
    """Id of the run that `mlflow run` started for this process, if it did."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def ui_command(uri: str) -> str:
    """The command that shows a store in a browser."""
    return "hdmap ui" + ("" if uri == absolute_uri(None) else f" --uri {uri}")
