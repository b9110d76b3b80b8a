"""A model with other batch statistics, and one that gets its maps at another level. Heavy: imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.scoring import image_scores
from hdmap_mlflow.models.parts.engine import at_rest
from hdmap_mlflow.models.parts.features import Features
from hdmap_mlflow.names import PUBLISHED

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

BATCH = 32
GAIN = (1e-3, 1e3)  # a channel that is constant on one side has no ratio of variances
Moments = Mapping[str, tuple[Tensor, Tensor]]  # of a layer, by its name: mean and variance of what comes in, (C,)


def layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """BatchNorm layers with running statistics, by name."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None
    }


class Inputs(NamedTuple):
    """Maps as a network gets them, (n, 3, H, W), their native size, and what a batch of them is made with."""

    images: Tensor
    size: Sequence[int]
    batch: Callable[..., Batch]

    def part(self, places: np.ndarray) -> Inputs:
        return self._replace(images=self.images[torch.from_numpy(places)])

    def batches(self) -> Iterator[Batch]:
        return (self.batch(image=images) for images in self.images.split(BATCH))


def read(model: Model, loader: DataLoader, device: str) -> Inputs:
    """All maps of a loader, in its order."""
    parts = [(model.pre_processor.transform(batch.image), batch.image.shape[-2:], type(batch)) for batch in loader]
    return Inputs(torch.cat([images for images, *_ in parts]).to(device), *parts[0][1:])


class Renewed(nn.Module):
    """A model whose BatchNorm layers have other statistics while it scores; the model itself keeps its own."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.inner, self.layers = model, layers(model)
        self.pre_processor, self.image_score = model.pre_processor, getattr(model, "image_score", PUBLISHED)
        self.padded = getattr(model, "padded", False)
        self.first = self.statistics = {name: _statistics(part) for name, part in self.layers.items()}

    def moments(self, maps: Inputs, healthy: Moments | None = None) -> Moments:
        """What reaches every layer of some maps; given the source's, layers are renewed one after another for it."""
        seen: dict[str, list[Tensor]] = {name: [] for name in self.layers}

        def watch(name: str, layer: _BatchNorm, arriving: tuple[Tensor, ...]) -> None:
            axes = [axis for axis in range(arriving[0].ndim) if axis != 1]
            variance, mean = torch.var_mean(arriving[0], axes, correction=0)
            seen[name].append(torch.stack([mean, variance + mean.square(), torch.ones_like(mean)]) * len(arriving[0]))
            if healthy:
                layer.running_mean, layer.running_var = self._renewed(name, (mean, variance), healthy[name])

        hooks = [part.register_forward_pre_hook(partial(watch, name)) for name, part in self.layers.items()]
        try:
            for batch in maps.batches():
                self.predict_step(batch)
        finally:
            for hook in hooks:
                hook.remove()
        sums = {name: torch.stack(parts).sum(dim=0) for name, parts in seen.items() if parts}
        return {name: (mean / n, square / n - (mean / n).square()) for name, (mean, square, n) in sums.items()}

    def renew(self, maps: Inputs, healthy: Moments) -> Renewed:
        """With the statistics that hand on these maps as the source's healthy maps are handed on."""
        moments = self.moments(maps, healthy)
        renewed = {name: self._renewed(name, of, healthy[name]) for name, of in moments.items()}
        self.statistics = self.first | renewed
        return self

    def _renewed(self, name: str, of: tuple[Tensor, Tensor], healthy: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        (mean, variance), (source, spread), (first, width) = of, healthy, self.first[name]
        gain = (variance / spread.clamp(min=torch.finfo(spread.dtype).tiny)).clamp(*GAIN)
        return mean - (source - first) * gain.sqrt(), width * gain

    @contextlib.contextmanager
    def _lent(self) -> Iterator[None]:
        """The statistics in the model's layers, and no features from a cache, which are those of its own."""
        caches = [part for part in self.inner.modules() if isinstance(part, Features)]
        stores = [part.store for part in caches]
        try:
            for part in caches:
                part.store = None
            for name, layer in self.layers.items():
                layer.running_mean, layer.running_var = self.statistics[name]
            with at_rest(self.inner):
                yield
        finally:
            for part, store in zip(caches, stores, strict=True):
                part.store = store
            for name, layer in self.layers.items():
                layer.running_mean, layer.running_var = self.first[name]

    def predict_step(self, batch: Batch, index: int = 0) -> STEP_OUTPUT:
        """What the model makes of a batch, with the new statistics."""
        with torch.inference_mode(), self._lent():
            return self.inner.predict_step(batch, index)

    def score(self, maps: Inputs) -> np.ndarray:
        """Scores (n,) of maps."""
        found = [self.predict_step(batch) for batch in maps.batches()]
        return torch.cat([image_scores(self, one, maps.size) for one in found]).cpu().double().numpy()


def _statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None
    return layer.running_mean, layer.running_var


class Levelled(nn.Module):
    """A model whose maps are brought to one mean and sd of their log, those of the source's healthy maps on average."""

    def __init__(self, model: Model, source: DataLoader) -> None:
        super().__init__()
        maps = torch.cat([batch.image[:, :1] for batch in source])
        if not (maps > 0).any():
            raise BadInput("log_z needs maps with values above 0, and the source's have none")
        self.inner, self.floor = model, float(maps[maps > 0].min())
        mean, sd = self._log(maps)[1:]
        self.mean, self.sd = float(mean.mean()), float(sd.mean())
        self.image_score, self.padded = getattr(model, "image_score", PUBLISHED), getattr(model, "padded", False)
        self.pre_processor = SimpleNamespace(transform=self._transform)

    def _log(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of maps (B, C, H, W): the log, and its mean and sd, (B, 1, 1, 1)."""
        log = maps.clamp(min=self.floor).log()
        variance, mean = torch.var_mean(log, (1, 2, 3), correction=0, keepdim=True)
        return log, mean, variance.sqrt().clamp(min=torch.finfo(log.dtype).tiny)

    def _transform(self, maps: Tensor) -> Tensor:
        log, mean, sd = self._log(maps)
        return self.inner.pre_processor.transform(((log - mean) / sd * self.sd + self.mean).exp())

    def predict_step(self, batch: Batch, index: int = 0) -> STEP_OUTPUT:
        """What the model makes of a batch of such maps."""
        return self.inner.predict_step(batch, index)
