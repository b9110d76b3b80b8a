"""Greedy coreset selection, exact, without most of the work of the plain loop.

k-center greedy: Sener and Savarese, Active Learning for Convolutional Neural Networks, ICLR 2018. Two things spare
work. The triangle inequality (Elkan, Using the Triangle Inequality to Accelerate k-Means, ICML 2003): a point nearer to
its centre than half the distance between that centre and a new one cannot be nearer to the new one, so it is not
measured. And along the principal axes, widest first, a few terms of a squared distance mostly say that it is too large.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch
from torch import Tensor

from hdmap_mlflow.models.parts.kernel import FASTMATH, compiled

HEAD = 16  # principal axes that are looked at first: a cache line
STRIDE = 32  # further axes between two looks at an unfinished sum
CHUNK = 64  # points that come in at once
SAFETY = 1 - 1e-4  # keeps rounding from skipping a point that the plain loop would have moved


def greedy(features: Tensor, count: int, start: int) -> Tensor:
    """Indices (count,) of the points, each the farthest from those before it, in the order of their selection.

    `features` (N, D), float32, on any device; `start` is the first pick. The picks are those of the plain loop up to
    ties in floating point. Raises ValueError unless 1 <= count <= N.
    """
    return _picked(features, count, start, torch.full_like(features[:, 0], torch.inf))


def further(features: Tensor, count: int, covered: Tensor) -> Tensor:
    """As `greedy`, going on from a coreset that is there, to which the points' distances are `covered` (N,)."""
    order = covered.argsort(descending=True)
    return order[_picked(features[order], count, 0, covered[order])]


def _picked(features: Tensor, count: int, start: int, covered: Tensor) -> Tensor:
    """The picks from points whose distances to those that were picked before, the largest first, are `covered`."""
    if not 1 <= count <= len(features):
        raise ValueError(f"a coreset of {len(features)} points has 1 to {len(features)}, not {count}")
    if features.device.type == "cpu":
        turned = _principal(features)
        head, tail = turned[:, :HEAD].contiguous(), turned[:, HEAD:].contiguous()
        return torch.from_numpy(_pruned(head.numpy(), tail.numpy(), count, start, covered.square().numpy()))
    picked = torch.full((count,), start, device=features.device)
    distance = torch.minimum(covered, torch.linalg.vector_norm(features - features[start], dim=1))
    for i in range(1, count):  # one pass over the points per pick costs a GPU less than to choose among them
        distance[picked[i - 1]] = 0
        picked[i] = distance.argmax()
        distance = torch.minimum(distance, torch.linalg.vector_norm(features - features[picked[i]], dim=1))
    return picked


def _principal(features: Tensor) -> Tensor:
    """The points turned to their principal axes, widest first; distances stay what they are."""
    centred = features - features.mean(dim=0)
    _, axes = torch.linalg.eigh((centred.T @ centred).double())
    return centred @ axes.flip(1).float()


@numba.njit(fastmath=FASTMATH, cache=True)
def _below(head: np.ndarray, tail: np.ndarray, point: int, other: int, least: np.float32) -> np.float32:
    """The squared distance of two points, or a part of it that is no less than `least`."""
    first, rest = head.shape[1], tail.shape[1]
    total = np.float32(0)
    for d in range(first):
        total += (head[point, d] - head[other, d]) ** 2
    begin = 0
    while begin < rest and total < least:
        for d in range(begin, min(begin + STRIDE, rest)):
            total += (tail[point, d] - tail[other, d]) ** 2
        begin += STRIDE
    return total


@compiled
def _pruned(head: np.ndarray, tail: np.ndarray, count: int, start: int, covered: np.ndarray) -> np.ndarray:
    """The picks from points with first axes `head` (N, HEAD) and others `tail`; distances are squared.

    Points whose distances to earlier picks are `covered` (N,), the largest first, are seen one after another: while one
    that is seen is farther than the next is covered, the next is not the farthest.
    """
    first, (points, rest) = head.shape[1], tail.shape
    picked, distance = np.empty(count, np.int64), covered.copy()
    owner = np.full(points, count, np.int32)  # nobody's: a point that may always move
    reach = np.zeros(count + 1, np.float32)  # a point of centre c may move only if its distance exceeds reach[c]
    picked[0], seen = start, 0
    for i in range(count):
        new = picked[i]
        for c in numba.prange(i):
            other = picked[c]
            apart = np.float32(0)
            for d in range(first):
                apart += (head[other, d] - head[new, d]) ** 2
            for d in range(rest):
                apart += (tail[other, d] - tail[new, d]) ** 2
            reach[c] = apart * np.float32(0.25 * SAFETY)
        for p in numba.prange(seen):
            if distance[p] > reach[owner[p]]:
                total = _below(head, tail, p, new, distance[p])
                if total < distance[p]:
                    distance[p], owner[p] = total, i
        distance[new] = -1
        if i + 1 == count:
            break
        far = np.argmax(distance[:seen]) if i else start
        while seen < points and covered[seen] > distance[far]:
            more = min(points, seen + max(CHUNK, seen // 8))
            for p in numba.prange(seen, more):
                for j in range(i + 1):
                    if p != picked[j]:
                        total = _below(head, tail, p, picked[j], distance[p])
                        if total < distance[p]:
                            distance[p], owner[p] = total, j
            seen = more
            far = np.argmax(distance[:seen])
        picked[i + 1] = far
    return picked


class StreamingCoreset:
    """A coreset of more points than the memory holds: `size` points, from batches as they come.

    Points are gathered until there are `size + buffer`; these are reduced to `size`, and gathering goes on. As long as
    all points fit, they are reduced once, at the end, and in the published way: by their distances in a random
    projection. Those of a longer stream are compared as they are.
    """

    def __init__(self, size: int, buffer: int) -> None:
        self.size, self.limit = size, size + buffer
        self.points: Tensor | None = None
        self.held = 0
        self.streams = False

    def add(self, points: Tensor) -> None:
        """Take points (n, D); those before are reduced first where there is no room."""
        if self.points is None:
            self.points = points.new_empty(self.limit, points.shape[1])
        while len(points):
            if self.held == self.limit:
                self._reduce(self.points)
                self.streams = True
            part, points = points.split([n := min(len(points), self.limit - self.held), len(points) - n])
            self.points[self.held : self.held + n] = part
            self.held += n

    def result(self) -> Tensor:
        """The coreset (size, D), or all points where there are no more than that."""
        assert self.points is not None
        if self.held > self.size:
            points = self.points[: self.held]
            self._reduce(points if self.streams else project(points))
        return self.points[: self.held].clone()

    def _reduce(self, measured: Tensor) -> None:
        """Keep `size` of the points held, by the distances between the rows of `measured`."""
        assert self.points is not None
        start = int(torch.randint(high=len(measured), size=(1,), device=measured.device))
        self.points[: self.size] = self.points[greedy(measured.float(), self.size, start)]
        self.held = self.size


class Shares:
    """A coreset of several domains that each fill an equal share of it, whatever the spread of their points."""

    def __init__(self, size: int, buffer: int, domains: Sequence[str]) -> None:
        n = len(domains)
        self.of = {one: StreamingCoreset(max(1, (size + i) // n), buffer // n) for i, one in enumerate(domains)}

    def add(self, domain: str, points: Tensor) -> None:
        """Take points (n, D) of a domain."""
        self.of[domain].add(points)

    def result(self) -> Tensor:
        """The coreset (size, D), domain by domain."""
        return torch.cat([share.result() for share in self.of.values() if share.held])


def project(points: Tensor) -> Tensor:
    """Points (N, D) in fewer dimensions, distances nearly kept: the sparse random projection of the published code.

    Li, Hastie and Church, Very Sparse Random Projections, KDD 2006; the number of dimensions is the
    Johnson-Lindenstrauss bound at a distortion of 0.9, as in PatchCore. Half precision is measured in single.
    """
    from anomalib.models.components.dimensionality_reduction import SparseRandomProjection

    return SparseRandomProjection(eps=0.9).fit(points).transform(points).float()
