"""Files and folders that appear whole or not at all, and the user's cache folder."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from platformdirs import user_cache_dir

from hdmap_mlflow.errors import BadInput, one_line

CHUNK = 64_000_000  # bytes looked at once
SUMS = "sums.json"  # of a folder of the cache: file -> check sum


def cache_dir() -> Path:
    """`$HDMAP_CACHE` where it is set, else the platform's cache folder for hdmap_mlflow."""
    return expanded(os.environ.get("HDMAP_CACHE") or user_cache_dir("hdmap_mlflow")).absolute()


def expanded(path: str | Path) -> Path:
    """A path with a user's home in place of its `~`. Raises BadInput where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(f"{path}: there is no such user; give another path") from None


def to_json(content: object) -> str:
    """A value as JSON that every program reads: a number that is not finite is null, and what is not plain its text."""
    from pydantic_core import to_json as dumps

    return dumps(content, indent=2, inf_nan_mode="null", fallback=str).decode()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it: a reader never sees half of it. Its folder is made where missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A name beside a path for what becomes it; no two writers, on whatever host or thread, have the same."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.part")


def sweep(path: Path) -> None:
    """Remove what killed writers of a path left beside it. Call it where nobody else writes the path."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part*"):
        remove(part)


@contextlib.contextmanager
def reading(path: Path, kind: str = "", streams: str = "") -> Iterator[None]:
    """Turn what the libraries raise on a damaged file of a kind, which is nearly anything, into BadInput.

    `streams`: what to do where the memory is not enough.
    """
    try:
        yield
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"{path} needs more memory than is free; {streams or 'free some'}") from None
    except Exception as error:
        raise BadInput(f"{path} cannot be read{kind} ({one_line(error)}); copy or save it again") from error


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed, and what goes meanwhile takes none."""
    below = (Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
    size = 0
    for one in (path, *below):
        with contextlib.suppress(FileNotFoundError):
            state = one.lstat()
            size += 0 if stat.S_ISDIR(state.st_mode) else state.st_size
    return size


def try_to_write(folder: Path) -> None:
    """Raise OSError where no file can be made in a folder, or in the one in which it would be; nothing is left there.

    What a folder's permissions say is not enough: a file system may refuse all the same, as `/sys` does.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


@contextlib.contextmanager
def new_folder(path: Path, key: str = "") -> Iterator[Path]:
    """A folder to write into, a sibling of `path` that becomes it at the end; nothing is left where that fails.

    With a `key`, what an interrupt or a kill leaves is there again when the same key is given; one process at a time.
    Raises BadInput if `path` is a file, a folder that is not empty, or a mount point, which no rename can replace.
    """
    path = path.absolute()
    if os.path.ismount(path):
        raise BadInput(f"{path} is a mount point; name a folder inside it")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise BadInput(f"{path} exists and is not an empty folder; give --out a new one or remove it")
    part = path.with_name(f".{path.name}.{key}.part") if key else part_of(path)
    try:
        part.mkdir(parents=True, exist_ok=bool(key))
        yield part
        if path.is_dir():
            path.rmdir()  # Windows does not rename onto an empty folder
        part.rename(path)
    except BaseException as end:
        if not (key and isinstance(end, KeyboardInterrupt)):
            shutil.rmtree(part, ignore_errors=True)
        raise


# ------------------------------------------------------------------------------------- what the cache holds
def kept_folder(path: Path, write: Callable[[Path], object]) -> Path:
    """A folder of the cache, written by `write(folder)` where it is missing or damaged: one process does, others wait.

    Raises BadInput where the cache cannot be written.
    """
    from filelock import FileLock

    if is_whole(path):
        return path  # before the lock, so that a read-only cache will do
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not is_whole(path):
                sweep(path)
                part = part_of(path)
                try:
                    part.mkdir()
                    write(part)
                    seal(part, path)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise BadInput(f"cannot write the cache {path} ({why(error)}); set HDMAP_CACHE to another folder") from None
    return path


def seal(part: Path, path: Path) -> None:
    """Let a folder become one of the cache, with the check sums of its files, in place of what is there."""
    (part / SUMS).write_text(json.dumps({name: check_sum(part / name) for name in _files(part)}), encoding="utf-8")
    remove(path)
    part.rename(path)


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache holds the files that it was sealed with, no more and no less, as they were."""
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        return sums == {name: check_sum(folder / name) for name in _files(folder)}
    except (OSError, ValueError, RecursionError):
        return False


def _files(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / SUMS]


def check_sum(path: Path) -> int:
    """Of a file's content."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            value = zlib.crc32(block, value)
    return value


def write_kept(path: Path, text: str) -> None:
    """Write a file of the cache, its check sum in the first line."""
    write_whole(path, f"{zlib.crc32(text.encode())}\n{text}")


def read_kept(path: Path) -> str | None:
    """What `write_kept` wrote; None where it is missing or damaged."""
    try:
        kept, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return text if kept == str(zlib.crc32(text.encode())) else None


def why(error: OSError) -> str:
    """Why a disk failed, in words."""
    return "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
