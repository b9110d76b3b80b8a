"""Distances to the nearest healthy patches of a bank. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hdmap_mlflow.adaptation.maps import Maps, read
from hdmap_mlflow.annotations import Model
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.parts.coreset import further, greedy
from hdmap_mlflow.models.parts.nearest import Nearest

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

BLOCK = 2**24  # distances that are held at once
RATIO, LEAST = 0.02, 256  # of the patches of some maps that a bank of their own takes, and how many at least
SHARE = 0.05  # of the patches of some maps that a bank takes up which holds others; at least one of each, on average
SOURCE, NOBODY = -1, -2  # whose a row of the source's bank is; and which map is left out where none is


class Neighbours:
    """Distance to the nearest row of a bank (N, C); `whose` (N,) says which of the k maps a row is of, or SOURCE.

    With `density`, a distance counts in units of the one from that row to its own nearest (Wilkinghoff, ICASSP 2025,
    K = 1).
    """

    def __init__(self, rows: Tensor, whose: Tensor, density: bool = False, source: Neighbours | None = None) -> None:
        self.rows, self.whose, self.density, self.source = rows, whose, density, source

    @classmethod
    def of_maps(cls, maps: Maps) -> Neighbours:
        """Patches that are far apart stand for all of some maps."""
        rows = maps.flat()
        picked = greedy(rows, min(len(rows), max(LEAST, int(RATIO * len(rows)))), 0)
        return cls(rows[picked], _whose(maps)[picked])

    @classmethod
    def of_source(cls, model: Model, source: DataLoader, device: str) -> Neighbours:
        """A fitted model's own bank, or one of the source's healthy maps where it has none."""
        bank = getattr(model.model, "memory_bank", None)
        rows = bank.to(device) if isinstance(bank, Tensor) else cls.of_maps(read(model, source, device)).rows
        return cls(rows, torch.full((len(rows),), SOURCE, device=device))

    def with_maps(self, maps: Maps) -> Neighbours:
        """And of some maps' patches: a share, each the farthest from the rows that are there and those before it."""
        rows = maps.flat()
        picked = further(rows, max(len(maps.features), int(SHARE * len(rows))), self.patches(maps).flatten())
        whose = torch.cat([self.whose, _whose(maps)[picked]])
        return Neighbours(torch.cat([self.rows, rows[picked]]), whose, source=self)

    def dense(self) -> Neighbours:
        """The same with local density normalised."""
        return Neighbours(self.rows, self.whose, density=True, source=self.source)

    def patches(self, maps: Maps, leave: int = NOBODY) -> Tensor:
        """The distances of some maps' patches, (B, h, w), as of a bank without one of the k maps."""
        flat, weights = maps.flat(), self._weights(torch.tensor([leave], device=self.rows.device))[0]
        if self.on_cpu() and flat.dtype == torch.float32:
            return maps.shaped(self.search(flat, weights)[0])
        least = []
        for block in flat.split(max(1, BLOCK // len(self.rows))):
            squared = torch.addmm(self.squares, block, self.rows.T, alpha=-2)  # |y|^2 - 2 x y
            squared.add_(block.square().sum(dim=1, keepdim=True)).mul_(weights)[:, weights.isinf()] = torch.inf
            least.append(squared.amin(dim=1))
        return maps.shaped(torch.cat(least).clamp(min=0).sqrt())

    def leaving(self, maps: Maps) -> Tensor:
        """The same of the k maps themselves, each as of a bank without it."""
        count = len(maps.features)
        if self.on_cpu() and maps.features.dtype == torch.float32:
            return maps.shaped(self.search(maps.flat(), self._weights(torch.arange(count)), _whose(maps))[0])
        return torch.cat([self.patches(maps.of(i), i) for i in range(count)])

    def on_cpu(self) -> bool:
        """Whether rows are chosen before they are measured: a GPU measures all sooner."""
        return self.rows.device.type == "cpu" and self.rows.dtype == torch.float32

    @staticmethod
    def together(memories: Sequence[Neighbours]) -> Callable[[Maps], list[Tensor]]:
        """The patches of some maps by each of several memories that hold the same source: all rows are searched once.

        That is half of the time of three searches, for most rows are the source's.
        """
        shared = [one.whose == SOURCE for one in memories]
        more = [one.rows[~of] for one, of in zip(memories, shared, strict=True)]
        rows = torch.cat([memories[0].rows[shared[0]], *more])
        sets = torch.full((len(memories), len(rows)), torch.inf)
        at = len(rows) - sum(map(len, more))
        for weights, memory, of, own in zip(sets, memories, shared, more, strict=True):
            counted = memory._weights(torch.tensor([NOBODY]))[0]
            weights[: of.sum()], weights[at : at + len(own)] = counted[of], counted[~of]
            at += len(own)
        search = Nearest(rows)
        return lambda maps: [maps.shaped(one) for one in search(maps.flat(), sets)[0]]

    @cached_property
    def search(self) -> Nearest:
        """Of the nearest row, on a CPU."""
        return Nearest(self.rows)

    @cached_property
    def squares(self) -> Tensor:
        """The squared lengths of the rows, (N,)."""
        return self.rows.square().sum(dim=1)

    @cached_property
    def gaps(self) -> Gaps:
        """Between its rows; those between the source's rows alone are there once they have been measured."""
        count = len(self.source.rows) if self.source else 0
        of_maps = Gaps.of(self.rows[count:], self.rows, self.whose, first=count)
        if not self.source:
            return of_maps
        alone = self.source.gaps.nearest
        nearest, neighbour, other = Gaps.of(self.rows[:count], self.rows[count:], self.whose[count:])
        nearer = nearest < alone
        of_source = alone.minimum(nearest), neighbour.where(nearer, SOURCE), alone.minimum(other).where(nearer, alone)
        return Gaps(*map(torch.cat, zip(of_source, of_maps, strict=True)))

    def _weights(self, leave: Tensor) -> Tensor:
        """What a squared distance to each row counts, (D, N), without a map (D,): infinitely much to the rows of it."""
        left = self.whose == leave[:, None]
        if left.all(dim=1).any():
            raise BadInput("the healthy maps of the target are alike, one stands for all of them; give others")
        if not self.density:
            return torch.ones_like(left, dtype=self.rows.dtype).masked_fill(left, torch.inf)
        nearest, neighbour, other = self.gaps
        radius = other.where(neighbour == leave[:, None], nearest)
        # Rows that are the same, as of a map that is there twice, would make a fault of all that is near them.
        apart = nearest[nearest > 0]
        least = 1e-3 * float(apart.median()) if len(apart) else 1
        return radius.clamp(min=least).square().reciprocal().masked_fill(left, torch.inf)


class Gaps(NamedTuple):
    """Of some rows, (n,): the distance to the nearest of a bank, whose that is, and to the nearest of another map."""

    nearest: Tensor
    neighbour: Tensor
    other: Tensor

    @classmethod
    def of(cls, asked: Tensor, rows: Tensor, whose: Tensor, first: int | None = None) -> Gaps:
        """Of rows that are none of the bank's; or that stand there from the place `first` on, and are not their own."""
        parts = []
        for at in torch.arange(len(asked), device=rows.device).split(max(1, BLOCK // len(rows))):
            apart = torch.cdist(asked[at], rows)
            if first is not None:
                apart[torch.arange(len(at), device=rows.device), first + at] = torch.inf
            nearest, place = _least(apart, rows, asked[at])
            neighbour = whose[place]
            apart[(whose == neighbour[:, None]) & (neighbour[:, None] != SOURCE)] = torch.inf
            parts.append((nearest, neighbour, _least(apart, rows, asked[at])[0]))
        return cls(*map(torch.cat, zip(*parts, strict=True)))


def _whose(maps: Maps) -> Tensor:
    """Of which of some maps each of their patches is, (B h w,)."""
    places = torch.arange(len(maps.features), device=maps.features.device)
    return places.repeat_interleave(maps.features[0, 0].numel())


def _least(apart: Tensor, rows: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The least distances of some rows, and to which of others. Of differences: rows alike are 0 apart."""
    least, place = apart.min(dim=1)
    return (asked - rows[place]).norm(dim=1).where(least < torch.inf, torch.inf), place
