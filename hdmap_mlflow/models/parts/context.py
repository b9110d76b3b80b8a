"""A patch and what stands beside it: a row of a health data map is one planet tooth as it meets every ring tooth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


@dataclass(frozen=True)
class RowContext:
    """The features of a patch, joined with their mean over the 2k + 1 patches about it in its row, for each k.

    "CPD" of the maps' authors (taewanHwang/anomalib), k = 2 and 3. At the ends of a row the mean is over what is there.
    """

    reach: tuple[int, ...] = ()

    @property
    def kinds(self) -> int:
        """How many features come of one."""
        return 1 + len(self.reach)

    def mean(self, maps: Tensor, kind: int) -> Tensor:
        """Features (B, C, h, w) of one kind: 0 is the patch's own, those after it have a `reach` each."""
        if not kind:
            return maps
        k = self.reach[kind - 1]
        return avg_pool2d(maps, (1, 2 * k + 1), stride=1, padding=(0, k), count_include_pad=False)

    def joined(self, maps: Tensor) -> Tensor:
        """Features of every kind, (B, C, h, w) to (B, kinds x C, h, w)."""
        return torch.cat([self.mean(maps, kind) for kind in range(self.kinds)], dim=1) if self.reach else maps
