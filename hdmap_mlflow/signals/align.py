"""Which planet tooth comes first in a recording: found by the pattern that the healthy teeth of a gearbox repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hdmap_mlflow.errors import BadInput

DISTINCT = 0.1  # by which the correlation at the right shift exceeds that at every other


class Shift(NamedTuple):
    """By how many rows the maps of a recording are moved on, and how well they agree with those before it then."""

    rows: int
    correlation: float


def shifts(recordings: Mapping[str, NDArray[np.floating]], healthy: set[str], domain: str) -> dict[str, Shift]:
    """How far each recording of a domain is moved; the first healthy one stays where it is.

    `recordings` has the mean map of each, (rows, columns), above 0. A healthy one joins the pattern, the mean of their
    logarithms, once it is aligned; others are aligned to it and leave it as it is: their damage is no part of it.
    Raises BadInput for a recording that agrees with the pattern at no shift more than at any other.
    """
    found, pattern, count = dict[str, Shift](), np.zeros(()), 0
    for name in sorted(recordings, key=lambda one: one not in healthy):  # stable: the healthy ones first
        log = np.log(np.maximum(recordings[name], np.finfo(np.float32).tiny))
        log = log - log.mean()
        found[name] = _best(name, domain, log, pattern) if count else Shift(0, 1.0)
        if name in healthy:
            pattern, count = pattern + np.roll(log, found[name].rows, axis=0), count + 1
    return found


def _best(name: str, domain: str, log: NDArray[np.floating], pattern: NDArray[np.floating]) -> Shift:
    flat = pattern.ravel()
    alike = np.array([np.corrcoef(np.roll(log, rows, axis=0).ravel(), flat)[0, 1] for rows in range(len(log))])
    rows = int(alike.argmax())
    second = np.delete(alike, rows).max()
    if not alike[rows] - second >= DISTINCT:
        raise BadInput(
            f"{name} of {domain} cannot be aligned: at its best shift it agrees with the healthy recordings by "
            f"{alike[rows]:.2f}, at another by {second:.2f}; raise averages, or set align: none"
        )
    return Shift(rows, float(alike[rows]))
