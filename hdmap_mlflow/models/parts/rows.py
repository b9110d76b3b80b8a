"""What stands out of a map's rows or columns: a damaged tooth is a whole line of a health data map."""

from __future__ import annotations

import torch
from torch import Tensor


def ratios(maps: Tensor) -> Tensor:
    """Mean of each row over the median row mean: maps (..., H, W) to (..., H), blind to a map's gain.

    NaN or infinite where the median is 0, negative where it is below 0: there is no ratio then.
    """
    means = maps.mean(dim=-1)
    return means / means.quantile(0.5, dim=-1, keepdim=True)


def deviations(maps: Tensor) -> Tensor:
    """Robust z of each row mean: its distance from the median in units of 1.4826 MAD, (..., H, W) to (..., H)."""
    means = maps.mean(dim=-1)
    apart = means - means.quantile(0.5, dim=-1, keepdim=True)
    spread = 1.4826 * apart.abs().quantile(0.5, dim=-1, keepdim=True)
    return apart / spread.clamp(min=torch.finfo(maps.dtype).tiny)


def row_ratio(maps: Tensor) -> Tensor:
    """The largest ratio of each map (B, H, W), (B,); NaN where the median row mean is not above 0."""
    means = maps.mean(dim=-1)
    median = means.quantile(0.5, dim=-1)
    return torch.where(median > 0, means.amax(dim=-1) / median, torch.nan)
