"""Features of maps: read from a model, and moved from one domain to another. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.data.datamodule import on_device

if TYPE_CHECKING:
    from torch.utils.data import DataLoader


class Maps(NamedTuple):
    """Features of maps (B, C, h, w), and their native size."""

    features: Tensor
    size: Sequence[int]

    def flat(self) -> Tensor:
        """One row per patch, (B h w, C)."""
        return self.features.movedim(1, -1).flatten(0, -2)

    def shaped(self, patches: Tensor) -> Tensor:
        """What holds of every patch, (B h w,), as maps (B, h, w)."""
        return patches.reshape(len(self.features), *self.features.shape[-2:])

    def of(self, i: int) -> Maps:
        """One of them, alone."""
        return Maps(self.features[i : i + 1], self.size)


def batches(model: Model, loader: Iterable[Batch], device: str) -> Iterator[Maps]:
    """The features of a loader's maps, batch by batch; the loader may have them already."""
    model.to(device).eval()
    for batch in loader:
        if not isinstance(batch, Maps):
            with torch.inference_mode():
                images = model.pre_processor.transform(on_device(batch.image, device))
                batch = Maps(model.features(images), batch.image.shape[-2:])
        yield batch


def read(model: Model, loader: DataLoader, device: str) -> Maps:
    """The features of all of a loader's maps, in its order."""
    parts = [*batches(model, loader, device)]
    return Maps(torch.cat([one.features for one in parts]), parts[0].size)


class Moments(NamedTuple):
    """Mean and variance of every channel, (C, 1, 1), over the patches of maps."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of maps (n, C, h, w)."""
        variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        return cls(mean[:, None, None], variance[:, None, None])

    def onto(self, other: Moments, maps: Maps) -> Maps:
        """Maps with these moments, moved so that they have the other's."""
        floor = torch.finfo(maps.features.dtype).tiny
        gain = (other.variance / self.variance.clamp(min=floor)).sqrt()
        return Maps((maps.features - self.mean) * gain + other.mean, maps.size)
