"""PaDiM in memory that does not grow with the training maps: mean and covariance from sums, in one pass.

anomalib 2.7 keeps every embedding until the end. Here each batch adds its sums and products, taken about the mean of
the first batch so that nothing cancels; the result is the same to rounding. Features are chosen before they are brought
to one size, not after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from anomalib.models.image import Padim as _Padim
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.models.parts.blur import SeparableBlur
from hdmap_mlflow.models.parts.context import RowContext
from hdmap_mlflow.models.parts.features import Features

ALONE = RowContext()  # a patch without its neighbours
RIDGE = 0.01 + 1e-5  # what anomalib adds to the diagonal of every covariance


class Moments:
    """Mean and covariance of vectors (B, C, P) at each of P places, from batches as they come.

    Holds P x C x C numbers in double precision, whatever the number of batches.
    """

    def __init__(self, first: Tensor) -> None:
        _, channels, places = first.shape
        self.count = 0
        self.origin = first.mean(dim=0)
        self.total = torch.zeros(channels, places, dtype=torch.float64, device=first.device)
        self.products = torch.zeros(places, channels, channels, dtype=torch.float64, device=first.device)

    def add(self, batch: Tensor) -> None:
        """Take a batch (B, C, P)."""
        shifted = by_place(batch - self.origin)
        self.count += len(batch)
        self.total += shifted.sum(dim=1).T
        self.products += torch.bmm(shifted.transpose(1, 2), shifted)

    def mean(self) -> Tensor:
        """(C, P)."""
        return (self.origin + self.total / self.count).to(self.origin)

    def covariance(self) -> Tensor:
        """(P, C, C), over count - 1."""
        total = self.total.T
        centred = self.products - total[:, :, None] * total[:, None, :] / self.count
        return (centred / (self.count - 1)).to(self.origin)


def embed(model: Model, features: Mapping[str, Tensor], context: RowContext = ALONE) -> Tensor:
    """The chosen channels of all layers at the first layer's size, (B, n_features, H, W), in the order of `model.idx`.

    The values of anomalib's `generate_embedding`, which enlarges every channel and then drops most of them. With a row
    context every channel is there once more for each of its means, and `model.idx` chooses among all of these.
    """
    size, total = features[model.layers[0]].shape[-2:], sum(maps.shape[1] for maps in features.values())
    channel, kind = model.idx % total, model.idx // total
    parts, places, first = [], [], 0
    for layer in model.layers:
        maps = features[layer]
        for which in range(context.kinds):
            here = ((channel >= first) & (channel < first + maps.shape[1]) & (kind == which)).nonzero()[:, 0]
            if len(here):  # torch enlarges no empty maps
                enlarged = interpolate(maps.index_select(1, channel[here] - first), size, mode="nearest")
                parts.append(context.mean(enlarged, which))
                places.append(here)
        first += maps.shape[1]
    return torch.cat(parts, dim=1).index_select(1, torch.cat(places).argsort())


def by_place(batch: Tensor) -> Tensor:
    """A batch (B, C, P) as (P, B, C): what the product of a place multiplies lies side by side."""
    maps, channels, places = batch.shape
    return batch.reshape(maps * channels, places).T.contiguous().view(places, maps, channels)


def squared_distances(maps: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """Squared Mahalanobis distances (B, H, W) of maps (B, C, H, W) to the Gaussians of their P places.

    These are means (P, C) and inverse covariances (P, C, C). The numbers are those of anomalib's `compute_distance`,
    whose products take four times as long: what they multiply does not lie side by side.
    """
    apart = by_place(maps.flatten(2)) - mean[:, None]
    squared = torch.bmm(apart, inverse).mul_(apart).sum(2).T
    return squared.reshape(maps.shape[0], *maps.shape[2:])  # not its len, which an export takes for a constant


def distances(embedding: Tensor, stats: Sequence[Tensor]) -> Tensor:
    """Distances (B, 1, H, W) in the place of anomalib's `compute_distance`; its means are (C, P)."""
    return squared_distances(embedding, stats[0].T, stats[1])[:, None].clamp(0).sqrt()


class Padim(_Padim):
    """Defard et al., PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection, ICPR 2021.

    Args:
        row_context: how many neighbours to each side of a patch its row's means are over (see `RowContext`). They are
            further channels to draw `n_features` from: memory and time stay what they are.
    """

    model: Model

    def __init__(self, *args: Any, row_context: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model.feature_extractor = Features(self.model.feature_extractor)
        self.model.anomaly_map_generator.blur = SeparableBlur(self.model.anomaly_map_generator.blur)
        self.model.anomaly_map_generator.compute_distance = distances
        context = RowContext(tuple(row_context))
        if row_context:
            channels = self.model.n_features_original * context.kinds
            self.model.idx = torch.randperm(channels)[: self.model.n_features]
        self.patch_features = nn.Identity()  # which all features pass, so that adapters can keep them
        self.model.generate_embedding = lambda layers: self.patch_features(embed(self.model, layers, context))
        self.moments: Moments | None = None

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) of images (B, 3, H, W), those that the Gaussians are of."""
        return self.model.generate_embedding(self.model.feature_extractor(images))

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> Any:
        """Add a batch of healthy maps to the sums."""
        embedding = self.model(batch.image).flatten(2)
        self.model.memory_bank.clear()
        self.moments = self.moments or Moments(embedding)
        self.moments.add(embedding)
        return torch.zeros((), requires_grad=True, device=self.device)

    def fit(self) -> None:
        """Turn the sums into a Gaussian a place. Raises ValueError for fewer than two maps."""
        if self.moments is None or self.moments.count < 2:
            raise ValueError("PaDiM needs two training maps or more")
        covariance = self.moments.covariance()
        covariance.diagonal(dim1=1, dim2=2).add_(RIDGE)
        gaussian = self.model.gaussian
        gaussian.mean, gaussian.inv_covariance = self.moments.mean(), torch.linalg.inv(covariance)
        self.moments = None
