"""The folder of a run's own, in which it writes beside MLflow, and the log in it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput, masked
from hdmap_mlflow.files import try_to_write
from hdmap_mlflow.names import DOMAIN_BYTES, Artifact

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Record


def check(config: RunConfig) -> None:
    """Raise BadInput where `tracking.output_dir` cannot be written to; nothing is made there."""
    with _writing(config):
        try_to_write(Path(config.tracking.output_dir))


def create(config: RunConfig) -> Path:
    """A new folder below `tracking.output_dir`. Raises BadInput where it cannot be made."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    base = Path(config.tracking.output_dir) / config.model.name.replace(":", ".")
    folder = base / f"{config.condition}_{config.data.source_domain[:DOMAIN_BYTES]}_s{config.train.seed}_{stamp}"
    with _writing(config):
        folder.mkdir(parents=True)
    return folder


@contextlib.contextmanager
def _writing(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null byte
        why, place = getattr(error, "strerror", None) or error, config.tracking.output_dir
        raise BadInput(f"cannot write to tracking.output_dir={place:.200} ({why}); give another folder") from None


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


@contextlib.contextmanager
def logged(folder: Path, record: Record, say: Callable[[str], None]) -> Iterator[None]:
    """Keep what is logged during the run, and the traceback if it fails, in `run.log`, an artifact however it ends.

    What the package itself logs as information is progress, and is said as well.
    """

    def tell(entry: logging.LogRecord) -> bool:
        if entry.levelno == logging.INFO and entry.name.startswith(ours.name):
            say(entry.getMessage())
        return True

    path, root, ours = folder / "run.log", logging.getLogger(), logging.getLogger("hdmap_mlflow")
    file, level = logging.FileHandler(path, encoding="utf-8"), ours.level
    file.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk ends the log, not the run
    file.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    file.addFilter(tell)
    root.addHandler(file)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)  # the libraries' warnings belong in the log, not between the lines of progress
    try:
        yield
    except BaseException:
        logging.getLogger(__name__).exception("the run ended early")
        raise
    finally:
        logging.captureWarnings(False)
        ours.setLevel(level)
        root.removeHandler(file)
        with contextlib.suppress(OSError):
            file.close()
        record.artifact(path, Artifact.LOGS)
