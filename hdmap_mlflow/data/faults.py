"""Synthetic faults for health data maps: scaled CutPaste, a bright band added to a healthy map.

After CutPaste (Li et al., CVPR 2021), with what HDMAP needs of it: the patch is normalised and scaled by a severity,
and it is added, because a damaged tooth adds vibration energy to what the mesh already shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hdmap_mlflow.errors import BadInput


@dataclass(frozen=True)
class CutPaste:
    """A patch of the map, over its largest absolute value, times a severity, added at another place of the same map.

    Nothing is clipped: a map may exceed 1, and a clipped fault would no longer have the severity on its label.

    Args:
        width: smallest and largest patch width, pixels.
        height: smallest and largest patch height, pixels; or leave it out and give `ratio`.
        ratio: smallest and largest height / width, for patches whose height follows their width (at least 1 pixel).
        count: how many places get the patch. They share patch and severity, and do not add up where they overlap.
        severity: bounds of the uniform law of the severity, >= 0: the peak that is added, in the unit of the maps.
        relative: the severity is in units of the map's level (`map_level`) instead, for maps of any gain.
        probability: share of maps that get a fault.

    Raises BadInput if a range is empty or out of bounds.
    """

    width: tuple[int, int]
    height: tuple[int, int] | None = None
    ratio: tuple[float, float] | None = None
    count: int = 1
    severity: tuple[float, float] = (0.0, 1.0)
    relative: bool = False
    probability: float = 1.0

    def __post_init__(self) -> None:
        if (self.height is None) == (self.ratio is None):
            raise BadInput("a patch takes its height from either height (pixels) or ratio (height / width); give one")
        _check_range("patch width", self.width, 1)
        if self.height is not None:
            _check_range("patch height", self.height, 1)
        if self.ratio is not None:
            _check_range("patch ratio (height / width)", self.ratio, 0, above=True)
        _check_range("severity", self.severity, 0)
        if self.severity[1] == 0:
            raise BadInput("severity has an upper bound of 0, so no fault would show; give a positive one")
        if not 1 <= self.count <= 4:
            raise BadInput(f"patch count is {self.count}; give 1 to 4")
        if not 0 <= self.probability <= 1:
            raise BadInput(f"fault probability is {self.probability}; give 0 to 1")

    def paste(self, image: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """One map (C, H, W) -> the map with its fault, mask (1, H, W), severity (scalar); see `paste_batch`."""
        images, masks, severities = self.paste_batch(image[None], generator)
        return images[0], masks[0], severities[0]

    def paste_batch(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (B, C, H, W) -> new maps, masks (B, 1, H, W) of 0 and 1, severities (B,); floats of the maps' type.

        A map without a fault comes back as it was, with severity 0 and an empty mask; so does a map whose patch is
        all zeros. The generator alone decides (torch's global one if none is given), on any device alike.
        Raises BadInput if the largest patch does not fit the maps.
        """
        batch, _, height, width = images.shape
        self.check_fits(height, width)
        source_device = generator.device if generator is not None else "cpu"
        # A fixed number of draws a map, in double precision so that a place index never rounds up to the count.
        draws = torch.rand(batch, 5 + self.count, generator=generator, dtype=torch.float64, device=source_device).cpu()
        w = _whole(draws[:, 0], *self.width)
        h = _whole(draws[:, 1], *self.height) if self.height else self._height_of(w, draws[:, 1])
        columns = width - w + 1
        places = columns * (height - h + 1)
        source = _whole(draws[:, 2], 0, places - 1)
        # Another place: a step of 1 to places - 1 from the source.
        targets = (source[:, None] + _whole(draws[:, 5:], 1, (places - 1)[:, None])) % places[:, None]
        low, high = self.severity
        severity = (low + (high - low) * draws[:, 3]) * (draws[:, 4] < self.probability)
        severity = severity.to(images)

        def rectangle(place: Tensor) -> tuple[Tensor, Tensor]:
            """Mask (B, 1, H, W) of a patch at these places, and its first pixel's index (B,), on the maps' device."""
            top, left = place // columns, place % columns
            rows, cols = torch.arange(height), torch.arange(width)
            in_rows = (rows >= top[:, None]) & (rows < (top + h)[:, None])
            in_cols = (cols >= left[:, None]) & (cols < (left + w)[:, None])
            in_rows, in_cols = in_rows.to(images.device), in_cols.to(images.device)
            return (in_rows[:, :, None] & in_cols[:, None, :])[:, None], (top * width + left).to(images.device)

        cut, first = rectangle(source)
        peak = (images.abs() * cut).amax(dim=(1, 2, 3))
        severity = severity * (peak > 0)
        amount = severity * map_level(images) if self.relative else severity
        scale = amount / torch.where(peak > 0, peak, 1)
        pixels = torch.arange(height * width, device=images.device)
        masks = torch.zeros_like(cut)
        added = torch.zeros_like(images)
        for target in targets.unbind(1):
            there, begin = rectangle(target)
            # One shift of the flat index takes every pixel of the target to its own in the source.
            index = (pixels + (first - begin)[:, None]).clamp(0, height * width - 1)
            moved = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)).view_as(images)
            added += moved * (there & ~masks)
            masks |= there
        masks = masks & (severity > 0)[:, None, None, None]
        return images + added * scale[:, None, None, None], masks.to(images.dtype), severity

    def _height_of(self, width: Tensor, draw: Tensor) -> Tensor:
        assert self.ratio is not None
        low, high = self.ratio
        return (width * (low + (high - low) * draw)).round().long().clamp(min=1)

    def check_fits(self, height: int, width: int) -> None:
        """Raises BadInput if the largest patch does not fit a map of this size."""
        widest = self.width[1]
        tallest = self.height[1] if self.height else max(1, round(self.ratio[1] * widest))  # type: ignore[index]
        if tallest > height or widest > width:
            raise BadInput(
                f"a fault patch of up to {tallest}x{widest} (height x width) does not fit "
                f"a map of {height}x{width}; lower the patch's ranges"
            )


def map_level(images: Tensor) -> Tensor:
    """Level (B,) of each map (B, C, H, W): the median of its absolute values, which a thin band does not move."""
    return images.abs().flatten(1).median(dim=1).values


def _whole(draw: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Whole numbers, uniform on low ... high inclusive, from draws in [0, 1)."""
    return low + (draw * (high - low + 1)).long()


def _check_range(name: str, bounds: tuple[float, float], least: float, above: bool = False) -> None:
    if len(bounds) != 2 or bounds[0] > bounds[1] or bounds[0] < least or (above and bounds[0] == least):
        rule = f"{'>' if above else '>='} {least:g}"
        raise BadInput(f"{name} range is {list(bounds)}; give [smallest, largest] with smallest {rule}")


# The band of a damaged planet tooth at the maps' own 31 x 95: one or two rows, broken, up to a few times the level.
NATIVE = CutPaste(width=(10, 80), height=(1, 2), severity=(0.5, 4.0), relative=True)
