"""The meshes that have passed, over a record: from pulses, from an angle, from even sampling, or from the mesh line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.ndimage import median_filter

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.readers import BLOCK
from hdmap_mlflow.signals.record import Open
from hdmap_mlflow.signals.spec import Angle, Even, MeshLine, Pair, Phase, Planetary, Pulses

KNOTS_PER_MESH = 8  # more of them follow no motion of a gear
NEIGHBOURS = 31  # pulses whose median distance says what a distance should be
SPREAD = 0.3  # share by which a pulse's distance may differ from that of its neighbours
FORGOTTEN = 32  # knots after which a spline has forgotten where it began: .27^32 is below 1e-18
FEWEST = 3  # pulses, or other knots, that say how a shaft turns
SEARCHED = 2**20  # samples of a record in which a mesh line is looked for
STANDS_OUT = 6  # magnitude of a mesh line, in medians of its band; of noise alone, the largest of 1,500 is 3.2
ATTENUATION = 60  # dB, of what lies outside the band of a mesh line
Passed = Callable[[float], None]  # told the share that is done


@dataclass(frozen=True)
class Meshes:
    """Moments of a record, in samples, and the meshes of the first planet, or of the pair, that have passed by then.

    Both rise. Between them lies a cubic spline whose slopes are limited so that it rises, too (Hyman, SIAM Journal on
    Scientific and Statistical Computing 4, 1983).
    """

    time: NDArray[np.float64]
    mesh: NDArray[np.float64]
    pulses: int = 0
    missing: int = 0
    extra: int = 0

    def when(self, mesh: NDArray[np.float64]) -> NDArray[np.float64]:
        """The moments, in samples, at which some rising mesh counts within the record are passed."""
        near = np.searchsorted(self.mesh, (mesh[0], mesh[-1]))
        part = slice(max(int(near[0]) - FORGOTTEN, 0), int(near[1]) + FORGOTTEN)
        knots, times = self.mesh[part], self.time[part]
        steepest = 3 * np.diff(times) / np.diff(knots)
        steepest = np.minimum(np.append(steepest, np.inf), np.insert(steepest, 0, np.inf))
        slopes = CubicSpline(knots, times)(knots, 1)
        return CubicHermiteSpline(knots, times, np.clip(slopes, 0, steepest))(mesh)

    def frequencies(self, step: float, rate: float) -> NDArray[np.float64]:
        """Meshes a second over each `step` meshes of the record; over all of it where it has fewer."""
        step = min(step, self.mesh[-1] - self.mesh[0])
        passed = self.mesh[0] + step * np.arange(int((self.mesh[-1] - self.mesh[0]) / step) + 1)
        return step / np.diff(np.interp(passed, self.mesh, self.time)) * rate


@dataclass(frozen=True)
class Measured:
    """The channel of a phase reference, from sample `first` to `end`; `passed` is told the share that was read."""

    record: Open
    first: int
    end: int
    rate: float
    passed: Passed

    def blocks(self, size: int = 0) -> Iterator[tuple[int, NDArray[np.float64]]]:
        for start, block in self.record.blocks(self.first, self.end, size or BLOCK):
            yield start, block[:, 0]
            self.passed((start + len(block) - self.first) / (self.end - self.first))

    def at(self, sample: float) -> str:
        return f"{sample / self.rate:.6g} s"

    def refuse(self, what: str) -> BadInput:
        name = f"{self.record.arrays[0][0]} " if self.record.arrays else ""
        return BadInput(f"{self.record.path}: {name}{what}")


def count(measured: Measured, phase: Phase, gears: Planetary | Pair, planet: int = 0) -> Meshes:
    """The meshes of a planet, or of the pair, over a piece of a record. BadInput where the reference does not say."""
    meshes = PHASES[type(phase)](measured, phase, gears.per_turn)
    if len(meshes.time) < 2 or meshes.mesh[-1] - meshes.mesh[0] < gears.per_turn:
        raise measured.refuse("turns less than once; record longer, or correct `ratio`")
    behind = planet * gears.ring / gears.planets if isinstance(gears, Planetary) else 0.0
    return replace(meshes, mesh=meshes.mesh - behind)


# ------------------------------------------------------------------------------------------------ pulses
def _pulses(measured: Measured, phase: Pulses, per_turn: int) -> Meshes:
    sign = 1 if phase.edge == "rising" else -1
    levels = _levels(measured) if phase.low is None or phase.high is None else (phase.low, phase.high)
    low, high = sorted(sign * level for level in levels)
    found, state, last = [], 0, 0.0  # 1 above high, -1 below low, 0 nothing yet
    for start, block in measured.blocks():
        x = sign * block
        marks = (x > high).astype(np.int8) - (x < low)
        places = np.maximum.accumulate(np.where(marks, np.arange(len(x)), -1))
        states = np.where(places >= 0, marks[places], state)
        rises = np.flatnonzero((states == 1) & (np.concatenate(([state], states[:-1])) == -1))
        before = np.concatenate(([last], x[:-1]))[rises]
        found.append(start + rises - 1 + (high - before) / (x[rises] - before))
        state, last = int(states[-1]), float(x[-1])
    times = np.concatenate(found)
    found.clear()  # an hour of an encoder has 10 million pulses
    if len(times) < FEWEST:
        raise measured.refuse(
            f"has {len(times)} pulses past {high * sign:.4g} in {measured.at(measured.end - measured.first)}; give "
            "`low` and `high` as the pulses have them, or name another channel"
        )
    kept, steps, extra = _repaired(measured, times, phase)
    mesh = np.concatenate(([0], np.cumsum(steps))) / phase.per_turn * phase.ratio * per_turn
    thin = max(1, int(phase.per_turn / (phase.ratio * per_turn * KNOTS_PER_MESH)))
    return Meshes(_thinned(kept, thin), _thinned(mesh, thin), len(times), int((steps - 1).sum()), extra)


def _thinned(values: NDArray, thin: int) -> NDArray:
    """Means of so many neighbours each: what a pulse is off by, such as half a sample, bears less."""
    return values[: len(values) // thin * thin].reshape(-1, thin).mean(axis=1)


def _levels(measured: Measured) -> tuple[float, float]:
    """Where a pulse begins and ends: 40 and 60 % of the way between what is usual for its low and its high."""
    length = measured.end - measured.first
    ends = [(block.min(), block.max()) for _, block in measured.blocks(max(1, min(BLOCK, length // 16)))]
    groups = np.array_split(np.array(ends), min(16, len(ends)))  # a spike is in few of them, a pulse in all
    low = float(np.median([group[:, 0].min() for group in groups]))
    high = float(np.median([group[:, 1].max() for group in groups]))
    if low == high:
        raise measured.refuse(f"is {low:g} all the time: there are no pulses in it; name another channel")
    return low + 0.4 * (high - low), low + 0.6 * (high - low)


def _repaired(measured: Measured, times: NDArray, phase: Pulses) -> tuple[NDArray, NDArray[np.int32], int]:
    """Pulses without those too many, the steps from one to the next (2 where one is missing), and how many went."""
    shares = _shares(times)
    short = np.flatnonzero(shares < 1 - SPREAD)
    allowed = phase.repair * len(times)
    if len(short) <= 2 * allowed:  # each that is too many makes two short distances at most
        if extra := _too_many(times, shares, short):
            shares = _shares(times := np.delete(times, extra))
        steps = np.rint(shares).astype(np.int32)
        missing = int((steps - 1).sum())
        if 0 < (amiss := missing + len(extra)) > allowed or (steps < 1).any():
            share = f"{amiss / len(times):.2%} of them, {phase.repair:.2%} are repaired"
            raise measured.refuse(
                f"lacks {missing} pulses and has {len(extra)} too many ({share}); mend the reference, or raise `repair`"
            )
        if (odd := np.abs(shares - steps) > SPREAD).any():
            place = int(np.argmax(odd))
            raise measured.refuse(
                f"has irregular pulses: the distance after {measured.at(times[place])} is {shares[place]:.2f} of its "
                "neighbours'; leave the place out with `seconds`, or give `low` and `high` as the pulses have them"
            )
        return times, steps, len(extra)
    raise measured.refuse(
        f"has about {len(short) // 2} pulses too many in {len(times)}, {phase.repair:.2%} are repaired; give `low` and "
        "`high` as the pulses have them, or mend the reference"
    )


def _shares(times: NDArray) -> NDArray:
    """Each distance between pulses, in medians of its neighbourhood."""
    distance = np.diff(times).astype(np.float32)
    return distance / median_filter(
        distance, size=min(NEIGHBOURS, len(distance) - 1 + len(distance) % 2), mode="nearest"
    )


def _too_many(times: NDArray, shares: NDArray, short: NDArray) -> list[int]:
    """Of the two pulses at each short distance, the one without which the neighbours' distance is more regular."""
    gone: list[int] = []
    for k in short.tolist():
        if k in gone[-1:]:
            continue
        if 0 < k < len(times) - 2:
            scale = (times[k + 1] - times[k]) / shares[k]
            without = [(times[k + 1] - times[k - 1]) / scale, (times[k + 2] - times[k]) / scale]
            off = [abs(share - max(np.rint(share), 1)) for share in without]
            gone.append(k + int(off[1] <= off[0]))
        else:
            gone.append(k + int(k > 0))
    return gone


# ----------------------------------------------------------------------------------- an angle, even sampling
def _angle(measured: Measured, phase: Angle, per_turn: int) -> Meshes:
    turn = {"turns": 1.0, "degrees": 360.0, "radians": 2 * math.pi}[phase.unit]
    found: list[NDArray] = []
    times: list[NDArray] = []
    thin, last = 0, None
    for start, block in measured.blocks():
        angle = np.unwrap(block if last is None else np.concatenate(([last], block)), period=turn)[last is not None :]
        last = angle[-1]
        if not thin:  # samples for a knot: the mean over them bears noise
            speed = abs(angle[-1] - angle[0]) / turn * phase.ratio * per_turn / max(len(angle) - 1, 1)
            thin = max(1, min(int(1 / (KNOTS_PER_MESH * speed)), len(angle) // FEWEST)) if speed else 1
        found.append(_thinned(angle, thin))
        times.append(_thinned(start + np.arange(len(angle)), thin))
    time, mesh = np.concatenate(times), np.concatenate(found) / turn * phase.ratio * per_turn
    return Meshes(time, _rising(measured, time, mesh if mesh[-1] > mesh[0] else -mesh))


def _rising(measured: Measured, time: NDArray, mesh: NDArray) -> NDArray:
    if (back := np.diff(mesh) <= 0).any() or len(mesh) < 2:
        place = measured.at(time[int(np.argmax(back))])
        raise measured.refuse(f"stands still or runs back at {place}; leave the place out with `seconds`")
    return mesh


def _even(measured: Measured, phase: Even, per_turn: int) -> Meshes:
    time = np.array([measured.first, measured.end - 1], dtype=np.float64)
    return Meshes(time, time / phase.per_turn * phase.ratio * per_turn)


# ------------------------------------------------------------------------------------------ the mesh line
def _mesh_line(measured: Measured, phase: MeshLine, per_turn: int) -> Meshes:
    """The unwrapped phase of a band, whose outer quarters fade, shifted to 0 Hz and thinned to 4 times its width."""
    (low, high), rate = phase.between, measured.rate
    if high >= rate / 2:
        raise measured.refuse(f"has nothing at {high:g} Hz, it is sampled at {rate:g} Hz; correct `between`")
    _stands_out(measured, low, high)
    width, centre = high - low, (low + high) / 2
    taps, beta = signal.kaiserord(ATTENUATION, width / 4 / (rate / 2))
    half = taps // 2
    thin = max(1, int(rate / (4 * width)))
    lowpass = signal.firwin(2 * half + 1, 0.375 * width, window=("kaiser", beta), fs=rate)
    size = max(BLOCK // thin, 1) * thin
    found, times = [], []
    for start in range(measured.first + half, measured.end - half, size):
        end = min(start + size, measured.end - half)
        samples = np.arange(start - half, end + half)
        turned = measured.record.read(start - half, end + half)[:, 0] * np.exp(-2j * np.pi * centre / rate * samples)
        found.append(signal.oaconvolve(turned, lowpass, mode="valid")[::thin])
        times.append(np.arange(start, end, thin))
        measured.passed((end - measured.first) / (measured.end - measured.first))
    if sum(map(len, times)) < FEWEST:
        raise measured.refuse(f"is too short for a band of {width:g} Hz; widen `between`, or record longer")
    time, line = np.concatenate(times).astype(np.float64), np.unwrap(np.angle(np.concatenate(found)))
    if (lost := np.abs(np.diff(line)) > np.pi / 2).any():
        place = measured.at(time[int(np.argmax(lost))])
        raise measured.refuse(
            f"loses the mesh line at {place}; choose another channel, another band `between`, or leave the place out "
            "with `seconds`"
        )
    mesh = (centre * time / rate + line / (2 * np.pi)) / phase.harmonic
    return Meshes(time, _rising(measured, time, mesh))


def _stands_out(measured: Measured, low: float, high: float) -> None:
    x = measured.record.read(measured.first, min(measured.end, measured.first + SEARCHED))[:, 0]
    line = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    at = np.fft.rfftfreq(len(x), 1 / measured.rate)
    band = line[(at >= low) & (at <= high)]
    if len(band) < FEWEST or band.max() < STANDS_OUT * np.median(band):
        raise measured.refuse(
            f"has no line that stands out between {low:g} and {high:g} Hz; correct `between`, or take another channel"
        )


PHASES: dict[type, Callable[[Measured, Any, int], Meshes]] = {
    Pulses: _pulses,
    Angle: _angle,
    Even: _even,
    MeshLine: _mesh_line,
}
