"""Files and folders that appear whole or not at all, and the user's cache folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_dir

from hdmap_mlflow.errors import BadInput


def cache_dir() -> Path:
    """`$HDMAP_CACHE` where it is set, else the platform's cache folder for hdmap_mlflow."""
    return Path(os.environ.get("HDMAP_CACHE") or user_cache_dir("hdmap_mlflow")).expanduser().absolute()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it: a reader never sees half of it. Its folder is made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def try_to_write(folder: Path) -> None:
    """Raise OSError where no file can be made in a folder, or in the one in which it would be; nothing is left there.

    What a folder's permissions say is not enough: a file system may refuse all the same, as `/sys` does.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, a sibling of `path` that becomes it at the end; nothing is left where that fails.

    Raises BadInput if `path` is a file, a folder that is not empty, or a mount point, which no rename can replace.
    """
    path = path.absolute()
    if os.path.ismount(path):
        raise BadInput(f"{path} is a mount point; name a folder inside it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path} exists and is not an empty folder; give --out a new one or remove it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if path.is_dir():
            path.rmdir()  # Windows does not rename onto an empty folder
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
