"""The Gaussian blur of anomaly maps as two matrix products, where anomalib's takes 1,089 products a pixel."""

from __future__ import annotations

from anomalib.models.components import GaussianBlur2d
from torch import Tensor, eye, nn
from torch.nn.functional import conv2d, pad


class SeparableBlur(nn.Module):
    """The same blur as a `GaussianBlur2d` of one channel, to rounding; takes and gives maps (B, 1, H, W)."""

    column: Tensor
    row: Tensor

    def __init__(self, blur: GaussianBlur2d) -> None:
        super().__init__()
        kernel = blur.kernel  # (1, 1, k, k), the outer product of two that each add up to 1
        self.register_buffer("column", kernel.sum(dim=3, keepdim=True).clone(), persistent=False)
        self.register_buffer("row", kernel.sum(dim=2, keepdim=True).clone(), persistent=False)
        self.padding, self.mode = blur.padding_shape, blur.border_type

    def forward(self, maps: Tensor) -> Tensor:
        """Blur maps whose border is continued as anomalib continues it: a linear map of columns, and one of rows."""
        (left, right, top, bottom), (height, width) = self.padding, maps.shape[-2:]
        heights, widths = (eye(side, dtype=maps.dtype, device=maps.device)[None, None] for side in (height, width))
        down = conv2d(pad(heights, (0, 0, top, bottom), mode=self.mode), self.column)
        across = conv2d(pad(widths, (left, right, 0, 0), mode=self.mode), self.row)
        return down @ maps @ across
