"""What a healthy gear does at every turn, taken away from an averaged signal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.signals.gears import Pair, Planetary
from hdmap_mlflow.signals.spec import Spec


def difference(average: NDArray[np.float64], spec: Spec) -> NDArray[np.float64]:
    """An averaged signal (period, samples) less what its kind of difference takes away."""
    return DIFFERENCES[spec.difference](average, spec.gears, spec.sidebands)


def _turns(average: NDArray, gears: Planetary | Pair, sidebands: int) -> NDArray:
    """Less the mean over the turns of ring or wheel: mesh harmonics and all that the carrier or the wheel repeats."""
    turns = average.reshape(gears.period // gears.columns, -1)
    return (turns - turns.mean(axis=0)).reshape(average.shape)


def _narrow(average: NDArray, gears: Planetary | Pair, sidebands: int) -> NDArray:
    """Less the mesh harmonics, and so many lines of either gear on both sides of each and of zero."""
    lines = np.fft.rfft(average.ravel())
    harmonics = np.arange(0, average.size // 2 + 1, gears.period)[:, None]
    for teeth in (gears.rows, gears.columns):
        gone = (harmonics + np.arange(-sidebands, sidebands + 1) * (gears.period // teeth)).ravel()
        lines[gone[(gone >= 0) & (gone < len(lines))]] = 0
    return np.fft.irfft(lines, average.size).reshape(average.shape)


def _none(average: NDArray, gears: Planetary | Pair, sidebands: int) -> NDArray:
    """Less the mean alone: a sensor's offset is no vibration."""
    return average - average.mean()


DIFFERENCES: dict[str, Callable[[NDArray, Planetary | Pair, int], NDArray]] = {
    "turns": _turns,
    "narrow": _narrow,
    "none": _none,
}
