"""Some channels of a record, in pieces, whatever its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.files import reading
from hdmap_mlflow.signals.readers import READERS, Array, Contents
from hdmap_mlflow.signals.spec import Channel

LISTED = 12  # names of variables in a message


@dataclass(frozen=True)
class Open:
    """Some channels of an open file, `length` samples each, and `rate` in Hz where it is known."""

    path: Path
    length: int
    rate: float | None
    arrays: tuple[tuple[str, Array, int, int], ...]  # name, array, axis of time, place across it

    def read(self, first: int, end: int) -> NDArray[np.float64]:
        """Samples first to end, (end - first, channels). BadInput where a sample is not finite, or damaged."""
        out = np.empty((end - first, len(self.arrays)))
        with reading(self.path):
            parts: dict[int, NDArray] = {}
            for i, (_, array, axis, place) in enumerate(self.arrays):
                if id(array) not in parts:  # an array of several channels is read once
                    part = array[first:end] if axis == 0 else array[:, first:end]
                    parts[id(array)] = np.moveaxis(np.asarray(part), axis, 0).reshape(end - first, -1)
                out[:, i] = parts[id(array)][:, place]
        if not (finite := np.isfinite(out)).all():
            sample, channel = np.argwhere(~finite)[0]
            raise BadInput(
                f"{self.path}: {self.arrays[channel][0]} holds NaN, infinity or nothing at sample {first + sample}; "
                "repair the record, or leave the place out with `seconds`"
            )
        return out

    def blocks(self, first: int, end: int, size: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Consecutive blocks of samples first to end: the first one's place, and (n, channels)."""
        for start in range(first, end, size):
            yield start, self.read(start, min(start + size, end))

    def of(self, channels: slice) -> Open:
        """The same file with some of its channels."""
        return Open(self.path, self.length, self.rate, self.arrays[channels])


@contextmanager
def open_record(path: Path, channels: Sequence[Channel], rate: float | str | None, scratch: Path) -> Iterator[Open]:
    """Channels of a file, of one length. What cannot be read in pieces is unpacked once, into a file below `scratch`.

    `rate`: Hz, the name of a variable, or None where the file says. Raises BadInput: unknown suffix or channel, several
    channels where one is meant, no numbers, lengths that differ, no rate, a file that cannot be read.
    """
    with ExitStack() as stack:
        with reading(path, streams="MATLAB's -v7.3, .npy and .h5 are read in pieces"):
            arrays, given = _found(path, channels, rate, scratch, stack)
            lengths = {array.shape[axis]: name for name, array, axis, _ in arrays}
            if len(lengths) > 1:
                each = ", ".join(f"{name} has {length:,}" for length, name in lengths.items())
                raise BadInput(f"{path}: channels differ in length ({each} samples); a record has one")
        yield Open(path, next(iter(lengths)), given, arrays)


def check_record(path: Path, channels: Sequence[Channel], rate: float | str | None, scratch: Path) -> None:
    """Raise BadInput as `open_record` does, as far as the head of the file tells."""
    with ExitStack() as stack, reading(path, streams="MATLAB's -v7.3, .npy and .h5 are read in pieces"):
        _found(path, channels, rate, scratch, stack)


def _found(
    path: Path, channels: Sequence[Channel], rate: float | str | None, scratch: Path, stack: ExitStack
) -> tuple[tuple[tuple[str, Array, int, int], ...], float | None]:
    contents = READERS[suffix_of(path)](path, channels, scratch, stack)
    return tuple(_channel(path, contents, channel) for channel in channels), _rate(path, contents, rate)


def suffix_of(path: Path) -> str:
    """The suffix by which a file's reader is chosen. BadInput where there is none."""
    name = path.name.lower()
    if suffix := max((one for one in READERS if name.endswith(one)), key=len, default=""):
        return suffix
    raise BadInput(f"{path} has a suffix without a reader; a record is {', '.join(READERS)}")


def _channel(path: Path, contents: Contents, channel: Channel) -> tuple[str, Array, int, int]:
    array, column, axis, across = _find(path, contents, channel.variable), channel.column, 0, contents.table
    if across and channel.variable:
        column = contents.names.index(channel.variable)
    if not across:
        if array.dtype.kind not in "fiub":
            raise BadInput(f"{path}: {channel} is {array.dtype}, not real numbers; name another variable")
        axis = int(np.argmax(array.shape)) if array.shape else 0
        if not 1 <= len(array.shape) <= 2 or 0 in array.shape:
            shape = " x ".join(map(str, array.shape)) or "one number"
            raise BadInput(f"{path}: {channel} is {shape}; a channel is a vector, or one of the vectors of a table")
        across = int(np.prod(array.shape)) // array.shape[axis]
    if column is None and across > 1:
        raise BadInput(f"{path}: {channel} holds {across} channels; say which, from 0, with `column`")
    if (column or 0) >= across:
        raise BadInput(f"{path}: {channel} is not there, it has {across} channel{'s' * (across > 1)}, from 0")
    return str(channel), array, axis, column or 0


def _find(path: Path, contents: Contents, name: str) -> Array:
    try:
        return contents.get("" if contents.table and name in contents.names else name)
    except (KeyError, IndexError):
        names = list(contents.names)
        more = f" and {len(names) - LISTED} more" * (len(names) > LISTED)
        has = f"it has: {', '.join(names[:LISTED])}{more}" if names else "it has no names; give a column's number"
        what = f"no '{name}'{nearest(name, names)}" if name else "several variables; name one"
        raise BadInput(f"{path} has {what}; {has}") from None


def _rate(path: Path, contents: Contents, rate: float | str | None) -> float | None:
    if isinstance(rate, str):
        array = _find(path, contents, rate)
        value = float(np.asarray(array[()]).item()) if np.prod(array.shape) == 1 and array.dtype.kind in "fiu" else 0.0
        if not 0 < value < np.inf:
            raise BadInput(f"{path}: {rate} is no sampling rate, one number above 0; give `rate` in Hz")
        return value
    return rate or contents.rate
