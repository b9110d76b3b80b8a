"""One recording, read once or twice in pieces: its meshes counted, its signals summed over the periods of the gears."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.angle import FEWEST, Measured, count
from hdmap_mlflow.signals.closure import AROUND, closure, lines
from hdmap_mlflow.signals.gears import Planetary
from hdmap_mlflow.signals.plan import Recording
from hdmap_mlflow.signals.record import Open, open_record
from hdmap_mlflow.signals.resample import lowpass, turns, whole
from hdmap_mlflow.signals.spec import Even, Spec


@dataclass(frozen=True)
class Recorded:
    """What is known of a recording: Hz, seconds, pulses; `speed` is the reference shaft's, `ripple` its sd / mean.

    `closure`: meshes that the vibration counts more than the reference; None where it has no clear line of the mesh.
    """

    rate: float
    seconds: float
    speed: float
    ripple: float
    periods: float
    pulses: int
    missing: int
    extra: int
    closure: float | None


@dataclass(frozen=True)
class Sums:
    """The averaged periods of one map: their `sums`, those of even and of odd number, (2, period, samples, channels).

    `number` of the map, the `mesh` that it begins with, its `start` in seconds, its speed in Hz and its ripple.
    """

    number: int
    mesh: int
    start: float
    speed: float
    ripple: float
    sums: NDArray[np.float64]


def average(
    recording: Recording, spec: Spec, scratch: Path, take: Callable[[Sums], None], passed: Callable[[float], None]
) -> Recorded:
    """Hand the sums of every map to `take`, in order; `passed` is told the share of the recording that is done.

    Memory does not grow with the length of the recording. Raises BadInput where it cannot be mapped.
    """
    record, gears, path = recording.record, spec.gears, recording.path
    with open_record(path, recording.channels, record.rate, scratch) as opened:
        rate = opened.rate or (record.phase.per_turn if isinstance(record.phase, Even) else None)
        if rate is None:
            raise BadInput(f"{path} does not say its sampling rate; give the record's `rate` in Hz")
        first, end = _piece(opened, rate, record.seconds)
        phase = Measured(opened.of(recording.phase_channels), first, end, rate, lambda at: passed(at / 2))
        meshes = count(phase, record.phase, gears, spec.planet)
        frequencies = meshes.frequencies(gears.per_turn, rate)
        filtered = lowpass(path, frequencies, rate, spec)
        begin, turn_count = whole(meshes, filtered.reach, first, end, gears.columns)
        per_period = gears.period // gears.columns
        count_of_maps = spec.maps(turn_count // per_period)
        if not count_of_maps:
            raise BadInput(
                f"{path} holds {turn_count / per_period:.2f} periods of {gears.period:,} meshes, each of "
                f"{gears.period / frequencies.mean():.3g} s, and a map is of {spec.averages}; record longer, or lower "
                "`averages`"
            )
        used = ((count_of_maps - 1) * spec.hop + spec.averages) * per_period
        edges = np.interp(begin + gears.columns * np.arange(used + 1.0), meshes.mesh, meshes.time)
        speeds = gears.columns / np.diff(edges) * rate / gears.per_turn
        of_turns = []

        def parts() -> Iterator[NDArray[np.float64]]:
            around = max(AROUND, gears.planets if isinstance(gears, Planetary) else 0)
            signals, done = opened.of(slice(0, len(record.signals))), 0
            for part in turns(signals, meshes, filtered, begin, used, gears.columns, spec.samples):
                of_turns.append(lines(part, around))
                yield part
                passed((1 + (done := done + len(part)) / used) / 2)

        for number, sums in _summed(parts(), spec, count_of_maps):
            at = number * spec.hop * per_period
            own = speeds[at : at + spec.averages * per_period]
            mean = float(own.mean())
            mesh = begin + at * gears.columns
            take(Sums(number, mesh, float(edges[at] / rate), mean, float(own.std() / mean), sums))
    found = closure(np.concatenate(of_turns), gears.columns)
    drift = found.drift if found else None
    if spec.closure is not None:
        _check(path, drift, used, gears.columns, spec.closure)
    mean = float(speeds.mean())
    return Recorded(
        rate=rate,
        seconds=(end - first) / rate,
        speed=mean,
        ripple=float(speeds.std() / mean),
        periods=turn_count / per_period,
        pulses=meshes.pulses,
        missing=meshes.missing,
        extra=meshes.extra,
        closure=drift,
    )


def _piece(opened: Open, rate: float, seconds: tuple[float, float] | None) -> tuple[int, int]:
    first, end = (round(moment * rate) for moment in seconds or (0, opened.length / rate))
    if seconds and end > opened.length:
        raise BadInput(f"{opened.path} lasts {opened.length / rate:.6g} s; `seconds` ask for {seconds[1]:g}")
    if end - first < FEWEST:
        raise BadInput(f"{opened.path} holds {end - first} samples to build maps of; record longer")
    return first, end


def _summed(parts: Iterable[NDArray[np.float64]], spec: Spec, maps: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Number and sums of each map whose last turn has come; where maps overlap, a turn is in several."""
    per_period, columns = spec.gears.period // spec.gears.columns, spec.gears.columns
    growing: dict[int, NDArray[np.float64]] = {}
    for i, turn in enumerate(turn for part in parts for turn in part):
        period, place = divmod(i, per_period)
        oldest = max(0, math.ceil((period - spec.averages + 1) / spec.hop))
        for number in range(oldest, min(period // spec.hop + 1, maps)):
            if number not in growing:
                growing[number] = np.zeros((2, spec.gears.period, *turn.shape[1:]))
            own = period - number * spec.hop
            growing[number][own % 2, place * columns : (place + 1) * columns] += turn
            if own == spec.averages - 1 and place == per_period - 1:
                yield number, growing.pop(number)


def _check(path: Path, drift: float | None, turns: int, meshes: int, limit: float) -> None:
    """Raise BadInput where the turns that were counted, times the teeth, are not the meshes that were heard."""
    if drift is None:
        raise BadInput(
            f"{path}: the vibration has no clear line at {meshes} meshes a turn by which to check the reference; "
            "correct the numbers of teeth, `per_turn` or `ratio`, or set closure: null where it has none"
        )
    if abs(drift) > limit:
        raise BadInput(
            f"{path}: {turns:,} turns of {meshes} teeth are {turns * meshes:,} meshes, the vibration counts "
            f"{turns * meshes + drift:,.2f}: the reference drifts by {drift:+.2f} meshes, {limit:g} are allowed; "
            "correct `per_turn` or `ratio`, take a shorter piece with `seconds`, or raise `closure`"
        )
