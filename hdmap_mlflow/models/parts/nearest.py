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
GROUP = 32  # rows whose smallest bound says whether one of them is looked at
BLOCK = 2**20  # bounds that are held at once: 4 MB, which stay in the processor's cache
SLACK = 1e-5  # of the squared lengths: keeps rounding from passing over a row


class Nearest:
    """Finds the nearest rows of a bank (N, C), float32 on a CPU, N at least 1.

    With `weights` (N,), above 0, a row's squared distances count so many times, as where density is normalised.
    """

    def __init__(self, bank: Tensor, weights: Tensor | None = None) -> None:
        self.mean = bank.mean(dim=0)
        centred = bank - self.mean
        self.turn = torch.linalg.eigh((centred.T @ centred).double())[1].flip(1).to(bank)
        rows = centred @ self.turn
        lengths, more = rows.square().sum(dim=1), -len(rows) % GROUP
        self.rows = pad(rows, (0, 0, 0, more))
        self.weights = pad(torch.ones_like(lengths) if weights is None else weights, (0, more), value=1)
        self.least = pad(lengths - SLACK * lengths.max(), (0, more), value=torch.inf) * self.weights
        own = torch.full_like(self.weights, 1 - SLACK)  # what a point's squared length counts
        self.side = (torch.cat([-2 * _ends(self.rows), own[:, None]], dim=1) * self.weights[:, None]).T.contiguous()

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Of points (n, C): the distances (n,) to their nearest rows, and the places (n,) of these in the bank."""
        points = (points - self.mean) @ self.turn
        ends = torch.cat([_ends(points), points.square().sum(dim=1, keepdim=True)], dim=1)
        places = torch.empty(len(points), dtype=torch.int64)
        step = max(1, BLOCK // len(self.rows))
        bounds = points.new_empty(min(step, len(points)), len(self.rows))
        for at in range(0, len(points), step):
            part = slice(at, at + step)
            below = torch.addmm(self.least, ends[part], self.side, out=bounds[: len(ends[part])])
            least = below.unflatten(1, (GROUP, -1)).amin(dim=1)  # of rows that lie apart, as this is quick
            _search(*(one.numpy() for one in (below, least, points[part], self.rows, self.weights, places[part])))
        return ((points - self.rows[places]).square().sum(dim=1) * self.weights[places]).sqrt(), places


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
    bounds: np.ndarray, least: np.ndarray, points: np.ndarray, rows: np.ndarray, weights: np.ndarray, out: np.ndarray
) -> None:
    """The place in `out` (n,) of the row nearest to each point; a row counts where its bound is below the best."""
    total, groups = len(rows), least.shape[1]
    for i in numba.prange(len(points)):
        place = int(np.argmin(least[i]))
        for j in range(place, total, groups):
            place = j if bounds[i, j] < bounds[i, place] else place
        best = _apart(points[i], rows[place]) * weights[place]
        for group in range(groups):
            if least[i, group] < best:
                for j in range(group, total, groups):
                    if bounds[i, j] < best:
                        distance = _apart(points[i], rows[j]) * weights[j]
                        if distance < best:
                            best, place = distance, j
        out[i] = place
