"""The nearest row of a bank for many points, exactly, with a third of the products of the plain search.

Along the principal axes of the bank, widest first, HEAD coordinates and the length of the rest give a lower bound of a
distance (by Cauchy and Schwarz). Bounds of all rows come from one matrix product; only rows whose bound is below the
distance of the best so far are measured. Distances are of differences: none of the cancelling of |x|^2 - 2xy + |y|^2.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hdmap_mlflow.models.parts.kernel import FASTMATH, compiled

HEAD = 48  # principal axes that are looked at first
GROUP = 32  # rows, at most, whose smallest bound says whether one of them is looked at
WIDE = 32  # numbers that a processor takes side by side: rows and groups are padded to it, a remainder costs as much
BLOCK = 2**21  # bounds that are held at once: 8 MB, which stay in the processor's cache
TINY = np.float32(1e-30)  # a bound that is 0 or below has no product with an infinite weight
SLACK = 1e-5  # of the squared lengths: keeps rounding from passing over a row


class Nearest:
    """Finds the nearest rows of a bank (N, C), float32 on a CPU, N at least 1."""

    def __init__(self, bank: Tensor) -> None:
        self.mean = bank.mean(dim=0)
        centred = bank - self.mean
        self.turn = torch.linalg.eigh((centred.T @ centred).double())[1].flip(1).to(bank)
        self.turn = pad(self.turn, (0, -bank.shape[1] % WIDE))
        rows = centred @ self.turn
        self.groups = -(-len(rows) // (GROUP * WIDE)) * WIDE
        lengths, self.more = rows.square().sum(dim=1), -len(rows) % self.groups
        self.rows = pad(rows, (0, 0, 0, self.more))
        self.alike = torch.ones(1, len(self.rows))
        own = torch.full_like(self.alike[0], 1 - SLACK)  # what a point's squared length counts
        least = pad(lengths - SLACK * lengths.max(), (0, self.more), value=torch.inf)
        self.side = torch.cat([-2 * _ends(self.rows), own[:, None], least[:, None]], dim=1).T.contiguous()

    def __call__(
        self, points: Tensor, weights: Tensor | None = None, of: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of points (n, C): the distances (n,) to their nearest rows, and the places (n,) of these in the bank.

        With `weights` (N,), above 0, a row's squared distances count so many times, as where density is normalised; a
        row of infinite weight is left out. With several sets of weights (D, N): (D, n) of either, or (n,) where `of`
        (n,) says whose set alone a point is searched with.
        """
        sets = self.alike if weights is None else pad(weights.reshape(-1, weights.shape[-1]), (0, self.more), value=1)
        each = points.new_empty(0, dtype=torch.int64) if of is None else of
        count = len(sets) if of is None else 1
        places, least = (points.new_empty(count, len(points), dtype=kind) for kind in (torch.int64, points.dtype))
        step = min(len(points), max(1, BLOCK // len(self.rows)))
        bounds, groups = points.new_empty(step, len(self.rows)), points.new_empty(step, self.groups)
        for at in range(0, len(points), step):
            part = slice(at, at + step)
            turned = (points[part] - self.mean) @ self.turn
            squares = turned.square().sum(dim=1, keepdim=True)
            ends = torch.cat([_ends(turned), squares, torch.ones_like(squares)], dim=1)
            below = torch.mm(ends, self.side, out=bounds[: len(ends)])
            found = below, groups, turned, self.rows, sets, each[part], places[:, part], least[:, part]
            _search(*(one.numpy() for one in found))
        shape = (-1,) if weights is None or weights.ndim == 1 or of is not None else (count, -1)
        return least.sqrt_().reshape(shape), places.reshape(shape)


def _ends(points: Tensor) -> Tensor:
    """The first coordinates and the length of the others, (n, HEAD + 1)."""
    return torch.cat([points[:, :HEAD], points[:, HEAD:].norm(dim=1, keepdim=True)], dim=1)


@numba.njit(fastmath=FASTMATH, cache=True)
def _apart(point: np.ndarray, row: np.ndarray) -> np.float32:
    """Their squared distance."""
    total = np.float32(0)
    for k in range(len(point)):
        gap = point[k] - row[k]
        total += gap * gap
    return total


@compiled
def _search(
    bounds: np.ndarray,
    groups: np.ndarray,
    points: np.ndarray,
    rows: np.ndarray,
    sets: np.ndarray,
    of: np.ndarray,
    places: np.ndarray,
    least: np.ndarray,
) -> None:
    """Of each set of weights (D, N) the row nearest to each point, and its squared distance; or of a point's own set.

    A row counts where its bound is below the best. A group is of rows that lie apart, so that the smallest bounds of
    all groups (n, G) are taken side by side.
    """
    total, apart = bounds.shape[1], groups.shape[1]
    for i in numba.prange(len(points)):
        bound, smallest = bounds[i], groups[i]
        for j in range(total):
            bound[j] = max(bound[j], TINY)
        first, count = (of[i], 1) if len(of) else (0, len(sets))
        for d in range(count):
            weights = sets[first + d]
            smallest[:] = np.inf
            for at in range(0, total, apart):
                part, counted = bound[at : at + apart], weights[at : at + apart]
                for group in range(apart):
                    smallest[group] = min(smallest[group], part[group] * counted[group])
            place = int(np.argmin(smallest))
            for j in range(place, total, apart):
                place = j if bound[j] * weights[j] < bound[place] * weights[place] else place
            best = _apart(points[i], rows[place]) * weights[place]
            for group in range(apart):
                if smallest[group] < best:
                    for j in range(group, total, apart):
                        if bound[j] * weights[j] < best:
                            distance = _apart(points[i], rows[j]) * weights[j]
                            if distance < best:
                                best, place = distance, j
            places[d, i], least[d, i] = place, best
