"""Memories of healthy patches that adapters fill, and a model that scores by one of them. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.data.datamodule import on_device
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.scoring import image_scores
from hdmap_mlflow.models.own.padim import RIDGE
from hdmap_mlflow.models.parts.coreset import greedy
from hdmap_mlflow.models.parts.nearest import Nearest
from hdmap_mlflow.names import PUBLISHED

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

BLOCK = 2**24  # distances that are held at once
RATIO, LEAST = 0.02, 256  # of the patches of some maps that their bank takes, and how many it takes at least
SOURCE = -1  # whose a row of the source's bank is: of no map that can be left out


class Maps(NamedTuple):
    """Features of maps (n, C, h, w), and their native size."""

    features: Tensor
    size: Sequence[int]


def batches(model: Model, loader: Iterable[Batch], device: str) -> Iterator[Maps]:
    """The features of a loader's maps, batch by batch; the loader may have them already."""
    model.to(device).eval()
    for batch in loader:
        if not isinstance(batch, Maps):
            with torch.inference_mode():
                images = model.pre_processor.transform(on_device(batch.image, device))
                batch = Maps(model.features(images), batch.image.shape[-2:])
        yield batch


def read(model: Model, loader: Iterable[Batch], device: str) -> Maps:
    """The features of all of a loader's maps, in its order."""
    parts = [*batches(model, loader, device)]
    return Maps(torch.cat([one.features for one in parts]), parts[0].size)


class Neighbours:
    """Distance to the nearest row of a bank (N, C); `whose` (N,) says which of the k maps a row is of, or SOURCE.

    With `density`, a distance counts in units of the one from that row to its own nearest (Wilkinghoff, ICASSP 2025,
    K = 1).
    """

    def __init__(self, rows: Tensor, whose: Tensor, density: bool = False) -> None:
        self.rows, self.whose, self.density = rows, whose, density
        self.search: Nearest | None = None
        if density:
            self.nearest, self.neighbour, self.other = _two_nearest(rows, whose)

    @classmethod
    def of_maps(cls, features: Tensor) -> Neighbours:
        """Of maps (n, C, h, w): patches that are far apart stand for all of them."""
        rows, (n, _, height, width) = features.movedim(1, -1).flatten(0, -2), features.shape
        picked = greedy(rows, min(len(rows), max(LEAST, int(RATIO * len(rows)))), 0)
        return cls(rows[picked], torch.arange(n, device=rows.device).repeat_interleave(height * width)[picked])

    @classmethod
    def of_source(cls, model: Model, source: DataLoader, device: str) -> Neighbours:
        """A fitted model's own bank, or one of the source's healthy maps where it has none."""
        bank = getattr(model.model, "memory_bank", None)
        rows = bank.to(device) if isinstance(bank, Tensor) else cls.of_maps(read(model, source, device).features).rows
        return cls(rows, torch.full((len(rows),), SOURCE, device=device))

    def with_maps(self, other: Neighbours) -> Neighbours:
        """Of the rows of both."""
        return Neighbours(torch.cat([self.rows, other.rows]), torch.cat([self.whose, other.whose]))

    def dense(self) -> Neighbours:
        """The same with local density normalised."""
        return Neighbours(self.rows, self.whose, density=True)

    def patches(self, features: Tensor, leave: int | None = None) -> Tensor:
        """Features (B, C, h, w) to distances (B, h, w), as of a bank without one of the k maps."""
        flat = features.movedim(1, -1).flatten(0, -2)
        if leave is None and flat.device.type == "cpu" and flat.dtype == self.rows.dtype == torch.float32:
            self.search = self.search or Nearest(self.rows, self._weights())
            return self.search(flat)[0].reshape(len(features), *features.shape[-2:])
        keep = self.whose != (SOURCE - 1 if leave is None else leave)
        if not keep.any():
            raise BadInput("the healthy maps of the target are alike, one stands for all of them; give others")
        # |x - y|^2 w in one product: [-2 x, 1, x^2] [y, y^2, 1] w
        rows, weights = self.rows[keep], self._weights(leave)[keep, None]
        sides = torch.cat([rows, rows.square().sum(1, keepdim=True), torch.ones_like(weights)], 1) * weights
        asked = torch.cat([-2 * flat, torch.ones_like(flat[:, :1]), flat.square().sum(1, keepdim=True)], 1)
        least = [(block @ sides.T).amin(dim=1) for block in asked.split(max(1, BLOCK // len(rows)))]
        return torch.cat(least).clamp(min=0).sqrt().reshape(len(features), *features.shape[-2:])

    def _weights(self, leave: int | None = None) -> Tensor:
        """What a squared distance to each row counts, (N,)."""
        if not self.density:
            return torch.ones_like(self.rows[:, 0])
        radius = self.nearest if leave is None else self.nearest.where(self.neighbour != leave, self.other)
        # Rows that are the same, as of a map that is there twice, would make a fault of all that is near them.
        return 1 / radius.clamp(min=1e-3 * float(self.nearest.median())).square()


def _two_nearest(rows: Tensor, whose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row, (N,): the distance to its nearest, whose that is, and the distance to the nearest of another map."""
    parts = []
    for at in torch.arange(len(rows), device=rows.device).split(max(1, BLOCK // len(rows))):
        apart = torch.cdist(rows[at], rows)
        apart[torch.arange(len(at), device=rows.device), at] = torch.inf
        nearest, place = apart.min(dim=1)
        neighbour = whose[place]
        apart[(whose == neighbour[:, None]) & (neighbour[:, None] != SOURCE)] = torch.inf
        parts.append((nearest, neighbour, apart.amin(dim=1)))
    nearest, neighbour, other = (torch.cat(one) for one in zip(*parts, strict=True))
    return nearest, neighbour, other


class Gaussians:
    """Mahalanobis distance to a Gaussian at each of P places, of `count` maps: mean (P, C), scatter (P, C, C).

    The distance of a map that is left out follows from the whole Gaussian by a rank-one update.
    """

    def __init__(self, mean: Tensor, scatter: Tensor, count: int) -> None:
        self.mean, self.scatter, self.count = mean, scatter, count
        self.inverses: dict[int, Tensor] = {}

    @classmethod
    def of_maps(cls, features: Tensor) -> Gaussians:
        """Of maps (n, C, h, w)."""
        maps = features.flatten(2).permute(2, 1, 0)  # places, channels, maps
        centred = maps - maps.mean(dim=2, keepdim=True)
        return cls(maps.mean(dim=2), centred @ centred.mT, maps.shape[2])

    @classmethod
    def of_source(cls, model: Model, source: DataLoader, device: str) -> Gaussians:
        """A fitted model's own, which counts for as many maps as there are healthy ones of the source."""
        gaussian, count = model.model.gaussian.to(device), len(source.dataset)  # type: ignore[arg-type]
        covariance = torch.linalg.inv(gaussian.inv_covariance)
        covariance.diagonal(dim1=1, dim2=2).sub_(RIDGE)
        return cls(gaussian.mean.T, covariance * max(1, count - 1), count)

    def with_maps(self, other: Gaussians) -> Gaussians:
        """Of the maps of both."""
        count, apart = self.count + other.count, other.mean - self.mean
        between = self.count * other.count / count * apart[:, :, None] * apart[:, None, :]
        mean = self.mean + other.count / count * apart
        return Gaussians(mean, self.scatter + other.scatter + between, count)

    def dense(self) -> Gaussians:
        """The same: a covariance is a density."""
        return self

    def patches(self, features: Tensor, leave: int | None = None) -> Tensor:
        """Features (B, C, h, w) to distances (B, h, w), as of the maps without these where one is to be left out."""
        n, apart = self.count, features.flatten(2).permute(2, 0, 1) - self.mean[:, None]
        fewer = max(1, n - 1 if leave is None else n - 2)
        squared = ((apart @ self._inverse(fewer)) * apart).sum(dim=2)
        if leave is not None:
            squared = (n / (n - 1)) ** 2 * squared / (1 - n / ((n - 1) * fewer) * squared)
        return squared.clamp(min=0).sqrt().T.reshape(len(features), *features.shape[-2:])

    def _inverse(self, freedom: int) -> Tensor:
        """Of the covariance, the scatter over `freedom`, with its ridge; kept."""
        if freedom not in self.inverses:
            covariance = self.scatter / freedom
            covariance.diagonal(dim1=1, dim2=2).add_(RIDGE)
            self.inverses[freedom] = torch.linalg.inv(covariance)
        return self.inverses[freedom]


Memory = Neighbours | Gaussians


def kind_of(model: Model) -> type[Neighbours] | type[Gaussians]:
    """The kind of memory that a model has."""
    return Gaussians if hasattr(model.model, "gaussian") else Neighbours


class Moments(NamedTuple):
    """Mean and variance of every channel, (C, 1, 1), over the patches of maps."""

    mean: Tensor
    variance: Tensor

    def onto(self, other: Moments, features: Tensor) -> Tensor:
        """Features (B, C, h, w) of maps with these moments, moved so that they have the other's."""
        floor = torch.finfo(features.dtype).tiny
        gain = (other.variance / self.variance.clamp(min=floor)).sqrt()
        return (features - self.mean) * gain + other.mean


def moments(features: Tensor) -> Moments:
    """Of maps (n, C, h, w)."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    return Moments(mean[:, None, None], variance[:, None, None])


class Predicted(NamedTuple):
    """What a model says of a batch: raw scores (B,) and anomaly maps (B, 1, h, w)."""

    pred_score: Tensor
    anomaly_map: Tensor


class Recalling(nn.Module):
    """A model that scores by a memory: its features, moved by `move`, and what `how` makes of the patch distances.

    The model itself stays as it is.
    """

    def __init__(
        self,
        model: Model,
        memory: Memory,
        how: Callable[[Tensor], Tensor],
        move: Callable[[Tensor], Tensor] = lambda features: features,
    ) -> None:
        super().__init__()
        self.inner, self.memory, self.how, self.move = model, memory, how, move
        self.pre_processor, self.image_score = model.pre_processor, getattr(model, "image_score", PUBLISHED)
        self.padded = getattr(model, "padded", False)

    def predict_step(self, batch: Batch, _index: int = 0) -> Predicted:
        """Of a batch whose images are pre-processed."""
        return self.recall(self.move(self.inner.features(batch.image)))

    def recall(self, features: Tensor, leave: int | None = None) -> Predicted:
        """The same of moved features (B, C, h, w)."""
        patches = self.memory.patches(features, leave)
        return Predicted(pred_score=self.how(patches), anomaly_map=patches[:, None])

    def scores(self, loader: Iterable[Maps]) -> np.ndarray:
        """Scores (n,) of maps whose features are there, batch by batch."""
        with torch.inference_mode():
            found = [image_scores(self, self.recall(self.move(one.features)), one.size) for one in loader]
            return torch.cat(found).cpu().numpy()

    def score(self, maps: Sequence[Tensor], size: Sequence[int], leaving: bool = False) -> np.ndarray:
        """Scores (n,) of maps of a native size by their moved features (1, C, h, w).

        `leaving`: they are the k maps, and each is scored by the memory without it.
        """
        with torch.inference_mode():
            found = [self.recall(one, i if leaving else None) for i, one in enumerate(maps)]
            return torch.cat([image_scores(self, one, size) for one in found]).cpu().double().numpy()
