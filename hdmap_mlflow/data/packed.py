"""Packed maps: what was read and checked once, as one memory-mapped array per domain in the user's cache.

The first run of a domain decodes and checks every file, and packs the maps as it goes; later runs map the array. An
entry is found by the files' names, sizes and times, and trusted only if its check sums hold: a stale or damaged one is
read anew. The table of a packed domain has one more column, `row`: a map's place in the array.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from hdmap_mlflow.errors import NoSpace
from hdmap_mlflow.files import cache_dir, is_whole, part_of, remove, seal, sweep, why

FORMAT = 3  # part of every key: raise it when what is stored changes


class Packed:
    """Maps (N, H, W), float32, on disk; worker processes share one copy.

    The file is open from the start: what another launch removes, or who empties the cache, stays readable here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self._pixels: np.ndarray = np.load(path, mmap_mode="r")

    def __getitem__(self, row: int) -> np.ndarray:
        return np.array(self._pixels[row])

    def __reduce__(self) -> tuple[type[Packed], tuple[Path]]:
        """In a process that was not forked it is opened anew: through this one, where the system lets it (Linux)."""
        held = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")
        return Packed, (held if held.exists() else self.path,)


def entry(folder: Path, files: Iterable[Path]) -> Path:
    """Where a domain's packed maps lie: the name follows from its folder and its files' names, sizes and times."""
    digest = hashlib.blake2b(str(FORMAT).encode(), digest_size=12)
    for file in files:
        stat = file.stat()
        digest.update(f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    where = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=6).hexdigest()
    return cache_dir() / "maps" / f"{where}-{digest.hexdigest()}"


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Starts at the same time pack a domain once: the others wait and then find it."""
    with _space(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(f"{path}.lock")
        guard.acquire()
        sweep(path)
    try:
        yield
    finally:
        guard.release()


def load(path: Path) -> tuple[pd.DataFrame, Packed] | None:
    """The table and the maps of an entry, or None if there is none that is whole."""
    with contextlib.suppress(FileNotFoundError):  # another launch, on changed data, may have removed it
        if is_whole(path):
            table = pd.read_parquet(path / "table.parquet")
            return table.assign(recording=table.get("recording", "")), Packed(path / "pixels.npy")  # of before: none
    with _space(path):
        remove(path)
    return None


class Packer:
    """Writes the maps of one domain, at most `count`, one after the other; nothing is there until `finish`.

    Raises BadInput if the disk is full, and leaves nothing behind.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count, self.row = path, count, 0
        self.part = part_of(path)
        self.pixels: np.ndarray | None = None

    def put(self, pixels: np.ndarray) -> int:
        """Add a map (H, W); returns its row, or -1 for one of another size than the first."""
        with _space(self.path, self.discard):
            if self.pixels is None:
                self.part.mkdir(parents=True, exist_ok=True)
                _reserve(self.part, self.count * pixels.nbytes)
                shape = (self.count, *pixels.shape)
                self.pixels = np.lib.format.open_memmap(self.part / "pixels.npy", "w+", np.float32, shape)
            if pixels.shape != self.pixels.shape[1:]:
                return -1
            self.pixels[self.row] = pixels
        self.row += 1
        return self.row - 1

    def finish(self, table: pd.DataFrame) -> tuple[pd.DataFrame, Packed]:
        """Put the entry in its place, whole, and open it."""
        with _space(self.path, self.discard):
            if isinstance(self.pixels, np.memmap):
                self.pixels.flush()
            table.to_parquet(self.part / "table.parquet")
            for older in self.path.parent.glob(f"{self.path.name.partition('-')[0]}-*"):  # of the same folder
                if older.is_dir():
                    shutil.rmtree(older, ignore_errors=True)
            seal(self.part, self.path)
        return table, Packed(self.path / "pixels.npy")

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.part, ignore_errors=True)


@contextlib.contextmanager
def _space(path: Path, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Raises BadInput with the way out where the cache cannot be written."""
    try:
        yield
    except OSError as error:
        undo()
        raise NoSpace(
            f"maps cannot be packed in {path.parent} ({why(error)}); free some space, set HDMAP_CACHE to "
            "another folder, or give data.packed=false"
        ) from None


def _reserve(folder: Path, size: int) -> None:
    """A full disk shows now, not as a crash of the process when a mapped page finds no room."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
