"""Artifacts of runs and models as local files: the store's own where it lies on this machine, else a fetched copy."""

from __future__ import annotations

import functools
import hashlib
from multiprocessing.util import Finalize
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.uri import is_local_uri


def local(place: str, path: str, uri: str) -> Path:
    """Local path of an artifact file or folder below the address `place`; to be read only: it may be the store's own.

    MLflow's `download_artifacts` copies what lies on this machine, too, and leaves every copy behind.
    What is fetched here is gone when this process ends. Raises what MLflow raises where it cannot be had.
    """
    repository = get_artifact_repository(place, tracking_uri=uri)
    if is_local_uri(place):
        return Path(repository.download_artifacts(path))
    folder = Path(_scratch().name, hashlib.sha256(place.encode()).hexdigest()[:16])
    folder.mkdir(exist_ok=True)
    return Path(repository.download_artifacts(path, str(folder)))


@functools.cache
def _scratch() -> TemporaryDirectory[str]:
    folder = TemporaryDirectory(prefix="hdmap_fetched_", ignore_cleanup_errors=True)
    Finalize(None, folder.cleanup, exitpriority=0)  # at the end of a forked process, too, which `atexit` is not
    return folder
