"""The channels of a record, whatever its file: a reader for each suffix, none of which holds a record in memory.

A MATLAB 5 variable is the exception: it can only be loaded whole, and has 2 GB at most.
"""

from __future__ import annotations

import csv
import io
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.signals.spec import Channel

BLOCK = 2**20  # samples read at once
Part = slice | tuple[slice, ...]


class Array(Protocol):
    """Numbers in a file, of which slices are read; its longer side is time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, part: Part, /) -> NDArray: ...


@dataclass(frozen=True)
class Contents:
    """What a file holds: its arrays, read when they are looked up, all names, and the rate that it states, in Hz."""

    get: Callable[[str], Array]
    names: list[str]
    rate: float | None = None
    table: int = 0  # its columns, where it is a table; the names are theirs


@dataclass(frozen=True)
class _Flat:
    """An array that lies in a file as in memory. It is read, not mapped: mapped pages count as the program's memory."""

    file: IO[bytes]
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0
    fortran: bool = False

    def __getitem__(self, part: Part) -> NDArray:
        rows, columns = (*(part if isinstance(part, tuple) else (part,)), slice(None), slice(None))[:2]
        if not self.shape:
            return self._run(0, 1).reshape(())
        if len(self.shape) == 1:
            return self._run(*rows.indices(self.shape[0])[:2])
        if self.fortran:
            turned = _Flat(self.file, self.dtype, self.shape[::-1], self.offset)
            return turned[columns, rows].T
        (a, b, _), (c, d, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        width = self.shape[1]
        if (c, d) == (0, width):
            return self._run(a * width, b * width).reshape(b - a, width)
        return np.stack([self._run(row * width + c, row * width + d) for row in range(a, b)])

    def _run(self, first: int, end: int) -> NDArray:
        self.file.seek(self.offset + first * self.dtype.itemsize)
        wanted = (end - first) * self.dtype.itemsize
        if len(content := self.file.read(wanted)) < wanted:
            raise ValueError("it ends before its last sample")
        return np.frombuffer(content, self.dtype)


def _npy_array(file: IO[bytes]) -> _Flat:
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return _Flat(file, dtype, shape, file.tell(), fortran)


def _spool(scratch: Path, stack: ExitStack) -> IO[bytes]:
    """A nameless file that is gone when it is closed, or its process is."""
    return stack.enter_context(TemporaryFile(dir=scratch))


def _npy(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    array = _npy_array(stack.enter_context(path.open("rb")))
    return Contents({"": array}.__getitem__, [])


class _Member:
    """An array of a packed archive, unpacked to a scratch file when it is read."""

    def __init__(self, open_member: Callable[[], IO[bytes]], file: IO[bytes]) -> None:
        with open_member() as member:
            head = _npy_array(member)
        self.shape, self.dtype, self.open_member, self.file = head.shape, head.dtype, open_member, file

    @cached_property
    def _flat(self) -> _Flat:
        with self.open_member() as member:
            shutil.copyfileobj(member, self.file, BLOCK)
        self.file.seek(0)
        return _npy_array(self.file)

    def __getitem__(self, part: Part) -> NDArray:
        return self._flat[part]


def _npz(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    members: dict[str, _Member] = {}  # one array, one scratch file

    def get(name: str) -> Array:
        name = name or (names[0] if len(names) == 1 else "")
        if name not in members:
            members[name] = _Member(partial(archive.open, f"{name}.npy"), _spool(scratch, stack))
        return members[name]

    return Contents(get, names)


class _Table:
    """Columns of a table. Those at the places `there` are copied to a scratch file, in one pass, when they are read."""

    dtype = np.dtype(np.float64)

    def __init__(self, there: list[int], width: int, blocks: Callable[[], Iterable[NDArray]], file: IO[bytes]) -> None:
        self.there, self.width, self.blocks, self.file = there, width, blocks, file

    @cached_property
    def _flat(self) -> _Flat:
        length = 0
        for block in self.blocks():
            self.file.write(block.astype(np.float64).tobytes())
            length += len(block)
        return _Flat(self.file, self.dtype, (length, len(self.there)))

    @property
    def shape(self) -> tuple[int, int]:
        return self._flat.shape[0], self.width

    def __getitem__(self, part: Part) -> NDArray:
        values = self._flat[part]
        out = np.zeros((len(values), self.width))
        out[:, self.there] = values
        return out


def _places(channels: Sequence[Channel], names: list[str], width: int) -> list[int]:
    """Of the columns that are asked for; a name that is not there is not this function's to refuse."""
    named = {names.index(one.variable) for one in channels if one.variable in names}
    return sorted(named | {one.column or 0 for one in channels if not one.variable and (one.column or 0) < width})


def _csv(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    import pyarrow as pa
    from pyarrow import csv as arrow

    with pa.input_stream(path) as raw:  # unpacks .gz
        head = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="").readline(BLOCK).rstrip("\r\n")
    delimiter = max(",;\t", key=head.count)
    cells = [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter), [])]
    names = [] if all(map(_is_number, cells)) else cells

    there = _places(channels, names, len(cells))
    places = [str(place) for place in range(len(cells))]
    wanted = [places[place] for place in there]

    def blocks() -> Iterator[NDArray]:
        batches = arrow.open_csv(
            stack.enter_context(pa.input_stream(path)),
            arrow.ReadOptions(
                block_size=2**22, skip_rows=int(bool(names)), column_names=[*map(str, range(len(cells)))]
            ),
            arrow.ParseOptions(delimiter=delimiter),
            arrow.ConvertOptions(include_columns=wanted, column_types=dict.fromkeys(wanted, pa.float64())),
        )
        for batch in batches:
            yield np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)

    table = _Table(there, len(cells), blocks, _spool(scratch, stack))
    return Contents({"": table}.__getitem__, names, table=len(cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    from pyarrow.parquet import ParquetFile

    file = stack.enter_context(ParquetFile(path))
    names = file.schema_arrow.names

    there = _places(channels, names, len(names))

    def blocks() -> Iterator[NDArray]:
        for batch in file.iter_batches(BLOCK, columns=[names[place] for place in there]):
            yield np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)

    table = _Table(there, len(names), blocks, _spool(scratch, stack))
    return Contents({"": table}.__getitem__, names, table=len(names))


# --------------------------------------------------------------------------------- arrays that libraries read
def _h5(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    import h5py

    file, names = stack.enter_context(h5py.File(path)), []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)

    def get(name: str) -> Array:
        if (name := name or (names[0] if len(names) == 1 else "")) not in names:
            raise KeyError(name)
        return file[name]

    return Contents(get, [name for name in names if not name.startswith("#")])  # "#refs#" of MATLAB


def _mat(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    import h5py
    from scipy.io import loadmat, whosmat

    if h5py.is_hdf5(path):
        return _h5(path, channels, scratch, stack)
    names = [name for name, _, _ in whosmat(path, appendmat=False)]

    def get(name: str) -> Array:
        first, *fields = (name or (names[0] if len(names) == 1 else "")).split("/")
        found = loadmat(path, variable_names=[first], appendmat=False, simplify_cells=bool(fields))[first]
        for field in fields:
            found = found[field]
        return np.asarray(found)

    return Contents(get, names)


@dataclass(frozen=True)
class _Sliced:
    """What a library reads by slices of time, with the shape that it has."""

    slices: Callable[[int, int], NDArray]
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float64)

    def __getitem__(self, part: Part) -> NDArray:
        rows = part if isinstance(part, slice) else part[0]
        return self.slices(*rows.indices(self.shape[0])[:2])


def _wav(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    import soundfile

    file = stack.enter_context(soundfile.SoundFile(path))

    def slices(first: int, end: int) -> NDArray:
        file.seek(first)
        return file.read(end - first, always_2d=True)

    array = _Sliced(slices, (file.frames, file.channels))
    return Contents({"": array}.__getitem__, [], float(file.samplerate))


def _tdms(path: Path, channels: Sequence[Channel], scratch: Path, stack: ExitStack) -> Contents:
    from nptdms import TdmsFile, log

    log.log_manager.set_level(logging.CRITICAL)  # what it says of a damaged file is said in one line
    file = stack.enter_context(TdmsFile.open(path))
    found = {f"{group.name}/{channel.name}": channel for group in file.groups() for channel in group.channels()}
    steps = [found[one.variable].properties.get("wf_increment") for one in channels if one.variable in found]

    def get(name: str) -> Array:
        channel = found[name or (next(iter(found)) if len(found) == 1 else "")]
        return _Sliced(lambda first, end: channel[first:end], (len(channel),), channel.dtype)

    return Contents(get, list(found), 1 / steps[0] if steps and steps[0] else None)


READERS: Mapping[str, Callable[[Path, Sequence[Channel], Path, ExitStack], Contents]] = {
    ".mat": _mat,
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".csv.gz": _csv,
    ".parquet": _parquet,
    ".h5": _h5,
    ".wav": _wav,
    ".tdms": _tdms,
}
