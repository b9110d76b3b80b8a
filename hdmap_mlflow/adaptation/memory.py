"""A model that scores by a memory of healthy patches, which an adapter fills. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hdmap_mlflow.adaptation.gaussians import Gaussians
from hdmap_mlflow.adaptation.maps import Maps
from hdmap_mlflow.adaptation.neighbours import Neighbours
from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.evaluation.scoring import image_scores
from hdmap_mlflow.names import PUBLISHED

Memory = Neighbours | Gaussians


def kind_of(model: Model) -> type[Neighbours] | type[Gaussians]:
    """The kind of memory that a model has."""
    return Gaussians if hasattr(model.model, "gaussian") else Neighbours


class Predicted(NamedTuple):
    """What a model says of a batch: raw scores (B,) and anomaly maps (B, 1, h, w)."""

    pred_score: Tensor
    anomaly_map: Tensor


def unmoved(maps: Maps) -> Maps:
    """Maps as they are."""
    return maps


class Recalling(nn.Module):
    """A model that scores by a memory: its maps, moved by `move`, and what `how` makes of the patch distances.

    The model itself stays as it is.
    """

    def __init__(
        self,
        model: Model,
        memory: Memory,
        how: Callable[[Tensor], Tensor],
        move: Callable[[Maps], Maps] = unmoved,
    ) -> None:
        super().__init__()
        self.inner, self.memory, self.how, self.move = model, memory, how, move
        self.pre_processor, self.image_score = model.pre_processor, getattr(model, "image_score", PUBLISHED)
        self.padded = getattr(model, "padded", False)

    def predict_step(self, batch: Batch, _index: int = 0) -> Predicted:
        """Of a batch whose images are pre-processed."""
        maps = Maps(self.inner.features(batch.image), batch.image.shape[-2:])
        return self.says(self.memory.patches(self.move(maps)))

    def says(self, patches: Tensor) -> Predicted:
        """What the distances of patches (B, h, w) make of maps."""
        return Predicted(pred_score=self.how(patches), anomaly_map=patches[:, None])

    def own(self, maps: Maps, leaving: bool = False) -> np.ndarray:
        """Scores (k,) of the k maps, moved; `leaving`: each by the memory without it."""
        with torch.inference_mode():
            patches = self.memory.leaving(maps) if leaving else self.memory.patches(maps)
            return image_scores(self, self.says(patches), maps.size).cpu().double().numpy()


def scores(models: Sequence[Recalling], loader: Iterable[Maps]) -> np.ndarray:
    """Scores (models, n) by each of some models of maps whose features are there, batch by batch.

    Memories that hold one source's rows are searched as one.
    """
    memories = [one.memory for one in models]
    neighbours = [one for one in memories if isinstance(one, Neighbours) and one.on_cpu()]
    alike = len(neighbours) == len(models) > 1 and all(one.move is unmoved for one in models)
    together = Neighbours.together(neighbours) if alike else None
    found: list[list[Tensor]] = [[] for _ in models]
    with torch.inference_mode():
        for maps in loader:
            of_all = together(maps) if together else (one.memory.patches(one.move(maps)) for one in models)
            for model, parts, patches in zip(models, found, of_all, strict=True):
                parts.append(image_scores(model, model.says(patches), maps.size))
    return torch.stack([torch.cat(parts) for parts in found]).cpu().numpy()
