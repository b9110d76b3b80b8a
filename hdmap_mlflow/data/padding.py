"""Maps brought to a model's size with their aspect kept: what they do not fill is padded, and cut off again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize


class Padded(nn.Module):
    """Maps (..., H, W) in the middle of `size`, as large as fits; about them 0, or with `noise` what looks like them.

    The noise is the same for every map but for its level and spread, which are the map's own: a score depends on no
    other map and no seed. What has the size already is returned as it is.
    """

    def __init__(self, size: Sequence[int], interpolation: str, noise: bool) -> None:
        super().__init__()
        self.size, self.interpolation = (size[0], size[1]), InterpolationMode(interpolation)
        pattern = torch.randn(self.size, generator=torch.Generator().manual_seed(0)) if noise else None
        self.register_buffer("pattern", pattern, persistent=False)

    def forward(self, maps: Tensor, *masks: Tensor | None) -> Any:
        """Maps (..., H, W) to (..., *size); with what torchvision's resize is given beside them, masks or None."""
        padded = self._padded(maps, self.interpolation, self.pattern)
        return (padded, *map(self._mask, masks)) if masks else padded

    def _mask(self, mask: Tensor | None) -> Tensor | None:
        if mask is None:
            return None
        return self._padded(mask.to(torch.uint8), InterpolationMode.NEAREST_EXACT).to(mask.dtype)

    def _padded(self, maps: Tensor, interpolation: InterpolationMode, pattern: object = None) -> Tensor:
        if maps.shape[-2:] == self.size:
            return maps
        scale = min(full / side for full, side in zip(self.size, maps.shape[-2:], strict=True))
        inner = [max(1, round(side * scale)) for side in maps.shape[-2:]]
        small = resize(maps, inner, interpolation, antialias=True)
        out = maps.new_zeros(*maps.shape[:-2], *self.size)
        if isinstance(pattern, Tensor):
            spread, level = torch.std_mean(maps, (-2, -1), correction=0, keepdim=True)
            out = level + spread * pattern.to(maps)
        top, left = ((full - side) // 2 for full, side in zip(self.size, inner, strict=True))
        out[..., top : top + inner[0], left : left + inner[1]] = small
        return out


def canvas(padded: Sequence[int], native: Sequence[int]) -> tuple[int, int]:
    """Of maps of a native size the size with their padding, in native pixels; `padded` is that of what shows them."""
    scale = min(full / side for full, side in zip(padded, native, strict=True))
    height, width = (max(side, round(full / scale)) for full, side in zip(padded, native, strict=True))
    return height, width


def middle(maps: Tensor, native: Sequence[int]) -> Tensor:
    """The maps themselves (..., *native) in those with their padding (..., H, W), see `canvas`."""
    top, left = ((full - side) // 2 for full, side in zip(maps.shape[-2:], native, strict=True))
    return maps[..., top : top + native[0], left : left + native[1]]
