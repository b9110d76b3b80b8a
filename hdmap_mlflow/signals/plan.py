"""The recordings of a spec, checked as far as the heads of their files tell: a wrong spec fails in seconds."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.record import check_record, suffix_of
from hdmap_mlflow.signals.spec import Channel, Even, MeshLine, Record, Spec


@dataclass(frozen=True)
class Recording:
    """One file of a record: its `number` in the build, and the name of its recording."""

    number: int
    path: Path
    name: str
    record: Record

    @property
    def channels(self) -> list[Channel]:
        """The signals, in the order of their domains, and then the channel of the phase where it has one."""
        phase = self.record.phase
        own = None if isinstance(phase, Even) else phase.channel
        return [*self.record.signals.values(), *([own] if own else [])]

    @property
    def phase_channels(self) -> slice:
        """Which of the channels tell the phase: the last, the first signal's, or none."""
        phase, signals = self.record.phase, len(self.record.signals)
        if isinstance(phase, Even):
            return slice(0, 0)
        return slice(0, 1) if isinstance(phase, MeshLine) and not phase.channel else slice(signals, signals + 1)


def plan(spec: Spec, source: Path) -> list[Recording]:
    """Every recording, in the order of the spec and of the names. BadInput: no file, a file used twice, its head."""
    if not source.is_dir():
        raise BadInput(f"source folder {source} does not exist; give the folder that the spec's files start from")
    recordings: list[Recording] = []
    for i, record in enumerate(spec.records):
        for path in _files(record, source, f"records.{i}.files"):
            name = record.recording or path.relative_to(source).as_posix().removesuffix(suffix_of(path))
            recordings.append(Recording(len(recordings), path, name, record))
    _refuse_doubles(recordings)
    _refuse_one_side(recordings)
    if spec.overlap:
        _refuse_lone(recordings)
    with tempfile.TemporaryDirectory() as scratch:
        for one in recordings:
            check_record(one.path, one.channels, one.record.rate, Path(scratch))
    return recordings


def _files(record: Record, source: Path, key: str) -> Iterator[Path]:
    for pattern in record.files:
        try:
            found = sorted(path for path in source.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError):  # pathlib says the latter of an absolute pattern
            raise BadInput(f"{key}: {pattern!r} is no path below the source folder, nor a glob; correct it") from None
        if not found:
            raise BadInput(f"{key}: no file {source / pattern}; the spec's files start from the folder {source}")
        yield from found


def _refuse_doubles(recordings: list[Recording]) -> None:
    """No sample may be in two maps of a domain: a test would hold training maps."""
    pieces: dict[tuple[Path, str], list[tuple[float, float]]] = {}
    for one in recordings:
        first, end = one.record.seconds or (0.0, math.inf)
        for domain in one.record.signals:
            before = pieces.setdefault((one.path, domain), [])
            if any(first < other_end and other_first < end for other_first, other_end in before):
                raise BadInput(f"{one.path} is used twice for {domain}; name it once, or give pieces with `seconds`")
            before.append((first, end))


def _refuse_one_side(recordings: list[Recording]) -> None:
    sides: dict[tuple[str, str], str] = {}
    for one in recordings:
        for domain in one.record.signals:
            side = one.record.role.partition("/")[0]
            if sides.setdefault((domain, one.name), side) != side:
                raise BadInput(
                    f"{one.path}: recording {one.name!r} of {domain} is in train and in test, which would be no "
                    "independent test; keep it on one side, or name its pieces with `recording`"
                )


def _refuse_lone(recordings: list[Recording]) -> None:
    """Splits and intervals keep a recording together where there are several; maps that overlap need that."""
    names: dict[tuple[str, str, str], set[str]] = {}
    for one in recordings:
        for domain in one.record.signals:
            names.setdefault((domain, one.record.role, one.record.group), set()).add(one.name)
    for (domain, role, group), known in names.items():
        if len(known) == 1:
            state = f" ({group})" if group else ""
            raise BadInput(
                f"overlap: {domain}/{role}{state} has one recording, {min(known)}, so that maps which share "
                "samples would come to both sides of the validation split; add a recording, or set overlap: 0"
            )
