"""Distances to Gaussians of healthy patches, one at each place of a map. Heavy: imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hdmap_mlflow.adaptation.maps import Maps
from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.own.padim import RIDGE, squared_distances

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class Gaussians:
    """Mahalanobis distance to a Gaussian at each of P places, of `count` maps: mean (P, C), scatter (P, C, C).

    The distance of a map that is left out follows from the whole Gaussian by a rank-one update.
    """

    def __init__(self, mean: Tensor, scatter: Tensor, count: int) -> None:
        self.mean, self.scatter, self.count = mean, scatter, count
        self.inverses: dict[int, Tensor] = {}

    @classmethod
    def of_maps(cls, maps: Maps) -> Gaussians:
        """Of some maps."""
        values = maps.features.flatten(2).permute(2, 1, 0)  # places, channels, maps
        centred = values - values.mean(dim=2, keepdim=True)
        return cls(values.mean(dim=2), centred @ centred.mT, values.shape[2])

    @classmethod
    def of_source(cls, model: Model, source: DataLoader, device: str) -> Gaussians:
        """A fitted model's own, which counts for as many maps as there are healthy ones of the source."""
        gaussian, count = model.model.gaussian.to(device), len(source.dataset)  # type: ignore[arg-type]
        covariance = torch.linalg.inv(gaussian.inv_covariance)
        covariance.diagonal(dim1=1, dim2=2).sub_(RIDGE)
        return cls(gaussian.mean.T, covariance * max(1, count - 1), count)

    def with_maps(self, maps: Maps) -> Gaussians:
        """And of some maps."""
        other = Gaussians.of_maps(maps)
        count, apart = self.count + other.count, other.mean - self.mean
        between = self.count * other.count / count * apart[:, :, None] * apart[:, None, :]
        mean = self.mean + other.count / count * apart
        return Gaussians(mean, self.scatter + other.scatter + between, count)

    def dense(self) -> Gaussians:
        """The same: a covariance is a density."""
        return self

    def patches(self, maps: Maps) -> Tensor:
        """The distances of some maps' patches, (B, h, w)."""
        inverse = self._inverse(max(1, self.count - 1))
        return squared_distances(maps.features, self.mean, inverse).clamp(min=0).sqrt()

    def leaving(self, maps: Maps) -> Tensor:
        """The same of maps that it holds, each as of the others."""
        n, fewer = self.count, max(1, self.count - 2)
        squared = squared_distances(maps.features, self.mean, self._inverse(fewer))
        squared = (n / (n - 1)) ** 2 * squared / (1 - n / ((n - 1) * fewer) * squared)
        return squared.clamp(min=0).sqrt()

    def _inverse(self, freedom: int) -> Tensor:
        """Of the covariance, the scatter over `freedom`, with its ridge; kept."""
        if freedom not in self.inverses:
            covariance = self.scatter / freedom
            covariance.diagonal(dim1=1, dim2=2).add_(RIDGE)
            self.inverses[freedom] = torch.linalg.inv(covariance)
        return self.inverses[freedom]
