"""A record at even mesh angles: first what would alias is taken away, then a cubic spline is evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.ndimage import map_coordinates, spline_filter1d

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.angle import Meshes
from hdmap_mlflow.signals.readers import BLOCK
from hdmap_mlflow.signals.record import Open
from hdmap_mlflow.signals.spec import Spec

ATTENUATION = 80  # dB, of what would alias
SMOOTH = 1 / 8  # of the sampling rate: up to there a cubic spline is off by (1/7)^4 at most
EDGE = 32  # samples after which a spline has forgotten where it began: .27^32 is below 1e-18


@dataclass(frozen=True)
class Lowpass:
    """A linear-phase filter for a record that is sampled `up` times as densely."""

    taps: NDArray[np.float64]
    up: int

    @property
    def reach(self) -> int:
        """Samples on both sides of a moment that its value depends on."""
        return math.ceil(len(self.taps) // 2 / self.up) + EDGE

    def __call__(self, samples: NDArray[np.float64], moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Filtered values at moments counted from the first of the samples (n, channels): (moments, channels)."""
        dense = np.zeros((len(samples) * self.up, samples.shape[1]))
        dense[:: self.up] = samples * self.up
        smooth = signal.oaconvolve(dense, self.taps[:, None], mode="valid", axes=0)
        places = (moments * self.up - len(self.taps) // 2)[None]
        spline = spline_filter1d(smooth, order=3, axis=0)
        return np.stack([map_coordinates(one, places, order=3, prefilter=False) for one in spline.T], axis=1)


def lowpass(path: Path, frequencies: NDArray[np.float64], rate: float, spec: Spec) -> Lowpass:
    """What keeps `orders` of the mesh wherever the record is fast and bars what aliases wherever it is slow.

    `frequencies`: meshes a second, as they vary. BadInput where the record, at `path`, was sampled too slowly for that,
    or its speed varies too much.
    """
    slow, fast, orders = float(frequencies.min()), float(frequencies.max()), spec.kept_orders
    keep, bar = orders * fast, min(spec.samples / 2 * slow, rate / 2)
    if keep >= 0.98 * rate / 2:
        raise BadInput(
            f"{path} aliases: {rate:g} Hz hold {rate / 2 / fast:.3g} harmonics of {fast:.4g} meshes a second, of which "
            f"{orders:g} are to be kept; lower `orders`, or record faster"
        )
    if keep >= 0.98 * bar:
        raise BadInput(
            f"{path} varies too much in speed for one filter: {slow:.4g} to {fast:.4g} meshes a second; {orders:g} "
            f"orders of {spec.samples} samples bear a factor below {spec.samples / 2 / orders:.3g}: cut it with "
            "`seconds`, lower `orders`, or raise `samples`"
        )
    up = math.ceil(keep / (SMOOTH * rate))
    if bar == rate / 2 and up == 1:
        return Lowpass(np.ones(1), 1)
    taps, beta = signal.kaiserord(ATTENUATION, (bar - keep) / (up * rate / 2))
    return Lowpass(signal.firwin(taps // 2 * 2 + 1, (keep + bar) / 2, window=("kaiser", beta), fs=up * rate), up)


def turns(
    record: Open, meshes: Meshes, filtered: Lowpass, first: int, count: int, per_turn: int, samples: int
) -> Iterator[NDArray[np.float64]]:
    """`count` turns of `per_turn` meshes, from mesh `first` on, a few at once: (turns, meshes, samples, channels)."""
    each = (meshes.time[-1] - meshes.time[0]) / (meshes.mesh[-1] - meshes.mesh[0]) * per_turn
    step = max(1, int(BLOCK / each))
    for turn in range(0, count, step):
        part = min(step, count - turn)
        moments = meshes.when(first + turn * per_turn + np.arange(part * per_turn * samples) / samples)
        start = math.floor(moments[0]) - filtered.reach
        block = record.read(start, math.ceil(moments[-1]) + filtered.reach + 1)
        yield filtered(block, moments - start).reshape(part, per_turn, samples, -1)


def whole(meshes: Meshes, reach: int, first: int, end: int, per_turn: int) -> tuple[int, int]:
    """Of samples `first` to `end`: the first mesh in the filter's reach, and the turns of `per_turn` meshes from it."""
    low, high = np.interp([first + reach, end - 1 - reach], meshes.time, meshes.mesh)
    begin = math.ceil(low) + 1  # a knot's distance is more than what two interpolations differ by
    return begin, max(0, math.floor((high - 1 - begin) / per_turn))
