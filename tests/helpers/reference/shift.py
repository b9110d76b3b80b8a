"""Reference: how far two samples of maps lie apart."""

from __future__ import annotations

import numpy as np


def wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    """The area between the two distribution functions of values."""
    one, other = np.sort(one, axis=None).astype(np.float64), np.sort(other, axis=None).astype(np.float64)
    steps = np.sort(np.concatenate([one, other]))
    first = np.searchsorted(one, steps[:-1], side="right") / len(one)
    second = np.searchsorted(other, steps[:-1], side="right") / len(other)
    return float((np.abs(first - second) * np.diff(steps)).sum())


def intensity(source: np.ndarray, target: np.ndarray) -> float:
    """Wasserstein distance of pixel values, in units of the source's mean pixel."""
    return wasserstein(source, target) / float(source.mean(dtype=np.float64))


def mmd(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared MMD (Gretton et al., JMLR 2012, eq. 3), pair by pair.

    The kernel is exp(-d / w) of the squared distance d, with w the median of d over all pairs of the joint sample.
    """
    joint = [np.asarray(x, np.float64) for x in (*one, *other)]
    n, m = len(one), len(other)
    pairs = {(i, j): float(((joint[i] - joint[j]) ** 2).sum()) for i in range(n + m) for j in range(n + m) if i < j}
    width = float(np.median(list(pairs.values())))

    def kernel(i: int, j: int) -> float:
        return float(np.exp(-pairs[min(i, j), max(i, j)] / width))

    first = sum(kernel(i, j) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    second = sum(kernel(i, j) for i in range(n, n + m) for j in range(n, n + m) if i != j) / (m * (m - 1))
    between = sum(kernel(i, j) for i in range(n) for j in range(n, n + m)) / (n * m)
    return first + second - 2 * between
