"""What lies twice, in a run's own folder and in the store that has recorded it, and how either is removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from mlflow.entities import LifecycleStage, LoggedModel, Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Artifact
from hdmap_mlflow.tracking import model
from hdmap_mlflow.tracking.client import connect, get_run
from hdmap_mlflow.tracking.journal import Journal, Kept
from hdmap_mlflow.tracking.patience import FAILURES


def listed(client: MlflowClient, run_id: str, names: Iterable[str]) -> dict[str, int | None]:
    """The artifacts of a run in the folders of these names, with their bytes where the store says how many."""
    folders = sorted({name.rpartition("/")[0] for name in names})
    there = dict[str, int | None]()
    for folder in folders:
        if folder.partition("/")[0] == Artifact.MODEL:
            there |= model.listed(client, run_id, folder)
        else:
            there |= {one.path: one.file_size for one in client.list_artifacts(run_id, folder or None)}
    return there


def copies(client: MlflowClient, kept: Kept) -> list[Path]:
    """The files in a recorded run's folder that its store has whole: under their names, and as large.

    The record itself and the result stay: they are small, and say which run it was and where it is.
    """
    files = {
        name: path
        for entry in kept.entries
        for name, path in entry.files(kept.folder).items()
        if path.is_file() and path.resolve().is_relative_to(kept.folder.resolve()) and name != Artifact.RESULT
    }
    there = listed(client, kept.recorded, files)
    return sorted({path for name, path in files.items() if there.get(name, -1) in (None, path.stat().st_size)})


def kept_copies(kept: Kept, uri: str) -> list[Path]:
    """The same of any recorded folder. Raises BadInput where its store does not answer, or has the run no longer."""
    if get_run(uri, kept.recorded).info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise BadInput(f"run {kept.recorded} was deleted; this is what is left of it")
    return copies(connect(uri), kept)


def drop(client: MlflowClient, folder: Path) -> None:
    """Remove from a run's folder what its store has whole. Where that cannot be told, or not done, it stays."""
    with contextlib.suppress(BadInput, OSError, *FAILURES), Journal(folder):
        remove_below(folder, copies(client, Kept(folder)))


def remove_below(folder: Path, files: Iterable[Path]) -> None:
    """Remove files below a folder, and the folders in it that this leaves empty."""
    for path in files:
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()


def artifact_bytes(uri: str, run: Run) -> int:
    """The size of a run's artifacts and of its model, as far as the store says it."""
    return sum(_size(get_artifact_repository(place, tracking_uri=uri)) for place in _places(run, _logged(uri, run)))


def discard(uri: str, run: Run) -> None:
    """Delete a run and its model, as MLflow's UI does, and the artifacts of both for good."""
    client, logged = connect(uri), _logged(uri, run)
    if logged:
        client.delete_logged_model(logged.model_id)
    client.delete_run(run.info.run_id)
    for place in _places(run, logged):
        get_artifact_repository(place, tracking_uri=uri).delete_artifacts()


def _logged(uri: str, run: Run) -> LoggedModel | None:
    """The model of a run, unless somebody has deleted it."""
    if not (model_id := model.model_of(run)):
        return None
    try:
        return connect(uri).get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _places(run: Run, logged: LoggedModel | None) -> list[str]:
    return [run.info.artifact_uri, *([logged.artifact_location] if logged else [])]


def _size(repository: ArtifactRepository, folder: str | None = None) -> int:
    found = repository.list_artifacts(folder)
    return sum(_size(repository, one.path) if one.is_dir else one.file_size or 0 for one in found)
