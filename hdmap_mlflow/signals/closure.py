"""Whether the meshes that the reference counts are those of the vibration: by how much one drifts against the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HARMONICS = 3  # of the mesh, that are looked at
AROUND = 3  # lines of a turn on both sides of each: planets that pass a sensor move the line to their multiples
BLOCKS = 64  # of turns, whose lines are summed before their phase is unwrapped
ENDS = 8  # parts of the record whose mean phases are compared


class Closure(NamedTuple):
    """Meshes by which the vibration runs ahead of the reference at most, and how clear its line is, 0 to 1."""

    drift: float
    clear: float


def lines(turns: NDArray[np.float64], around: int) -> NDArray[np.complex128]:
    """The lines near the mesh harmonics of turns (turns, meshes, samples, channels): (turns, 3, lines, channels)."""
    count, meshes, samples, channels = turns.shape
    spectrum = np.fft.rfft(turns.reshape(count, meshes * samples, channels), axis=1)
    return np.stack(
        [spectrum[:, h * meshes - around : h * meshes + around + 1] for h in range(1, HARMONICS + 1)], axis=1
    )


def closure(of_turns: NDArray[np.complex128], meshes: int) -> Closure | None:
    """From the lines of all turns, (turns, 3, lines, channels): that of the lowest harmonic which is clear somewhere.

    A higher one turns faster, so that it says less of a large drift. None where none is clear.
    """
    count, harmonics, _, channels = of_turns.shape
    for h in range(harmonics):
        each = [_followed(of_turns[:, h, :, c], meshes, h + 1) for c in range(channels)]
        best = max(each, key=lambda one: one.clear)
        if best.clear > min(max(0.3, 3 / np.sqrt(count)), 0.8):  # turns of noise alone agree by 1 / sqrt(count)
            return best
    return None


def _followed(of_turns: NDArray[np.complex128], meshes: int, harmonic: int) -> Closure:
    """The phase of the pattern that the lines of the turns have in common, from turn to turn."""
    count, width = of_turns.shape
    _, patterns = np.linalg.eigh(of_turns.conj().T @ of_turns)
    pattern = patterns[:, -1]
    line = of_turns @ pattern
    power = float((np.abs(line) ** 2).sum()) * (count - 1) / count
    if power == 0:
        return Closure(0.0, 0.0)
    order = harmonic * meshes + float(np.abs(pattern) ** 2 @ (np.arange(width) - width // 2))
    neighbours = (line[1:] * line[:-1].conj()).sum()
    step, turn = np.angle(neighbours), np.arange(count)
    slow = line * np.exp(-1j * step * turn)  # what is left of a drift is slow enough for sums
    blocks = np.array_split(turn, min(BLOCKS, count))
    at = np.array([block.mean() + 0.5 for block in blocks])
    phase = np.unwrap([np.angle(slow[block].sum()) for block in blocks]) + step * at
    parts = np.array_split(np.arange(len(blocks)), min(ENDS, len(blocks)))
    means = np.array([phase[part].mean() for part in parts])
    slope = np.polyfit(at, phase, 1)[0]  # which carries the outer parts to the ends of the record
    means[0] -= slope * at[parts[0]].mean()
    means[-1] += slope * (count - at[parts[-1]].mean())
    drift = float(max(means - means[0], key=abs)) / (2 * np.pi) * meshes / order
    return Closure(drift, min(float(np.abs(neighbours)) / power, 1.0))
