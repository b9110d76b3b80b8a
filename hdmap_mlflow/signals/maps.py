"""An averaged signal as an HDMAP-style map: a pixel for every pair of teeth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.signals.difference import difference
from hdmap_mlflow.signals.gears import Pair, Planetary
from hdmap_mlflow.signals.spec import Spec

PIXELS: dict[str, Callable[[NDArray], NDArray]] = {
    "rms": lambda meshes: np.sqrt(np.square(meshes).mean(axis=1)),
    "peak": lambda meshes: np.abs(meshes).max(axis=1),
}


@dataclass(frozen=True)
class Map:
    """One map of one signal.

    pixels: (rows, columns) float32, in the unit of the record. average, difference: (period, samples), from mesh `mesh`
    on. halves: maps of its odd and of its even periods, (2, rows, columns), and `split_half`, the correlation of their
    differences; of a single period there are none, and it is None.
    """

    mesh: int
    pixels: NDArray[np.float32]
    average: NDArray[np.float64]
    difference: NDArray[np.float64]
    halves: NDArray[np.float32]
    split_half: float | None


def make(mesh: int, sums: NDArray[np.float64], periods: int, first: tuple[int, int], spec: Spec) -> Map:
    """A map of `periods`, of which `sums` has those of even and of odd number, (2, period, samples)."""
    average = sums.sum(axis=0) / periods
    rest = difference(average, spec)
    if periods == 1:
        return Map(mesh, arranged(rest, mesh, first, spec), average, rest, np.empty((0, 0, 0), np.float32), None)
    halves = [
        difference(half / count, spec) for half, count in zip(sums, ((periods + 1) // 2, periods // 2), strict=True)
    ]
    maps = np.stack([arranged(half, mesh, first, spec) for half in halves])
    alike = float(np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1])
    return Map(mesh, arranged(rest, mesh, first, spec), average, rest, maps, alike)


def arranged(signal: NDArray[np.float64], mesh: int, first: tuple[int, int], spec: Spec) -> NDArray[np.float32]:
    """The pixels of a period's meshes, which begin with number `mesh`, at their teeth."""
    rows, columns = cells(mesh, first, spec.gears)
    out = np.full((spec.gears.rows, spec.gears.columns), np.nan, np.float32)
    out[rows, columns] = PIXELS[spec.pixel](signal)
    assert np.isfinite(out).all(), "every pair of teeth meets once a period"
    return out


def cells(mesh: int, first: tuple[int, int], gears: Planetary | Pair) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each mesh of the period that begins with number `mesh`; `first` are those of mesh 0."""
    numbers = mesh + np.arange(gears.period)
    return (numbers + first[0]) % gears.rows, (numbers + first[1]) % gears.columns
