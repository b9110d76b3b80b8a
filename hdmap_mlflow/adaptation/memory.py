"""A model that scores by a memory of healthy patches, which an adapter fills. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


class Recalling(nn.Module):
    """A model that scores by a memory: its maps, moved by `move`, and what `how` makes of the patch distances.

    The model itself stays as it is.
    """

    def __init__(
        self,
        model: Model,
        memory: Memory,
        how: Callable[[Tensor], Tensor],
        move: Callable[[Maps], Maps] = lambda maps: maps,
    ) -> None:
        super().__init__()
        self.inner, self.memory, self.how, self.move = model, memory, how, move
        self.pre_processor, self.image_score = model.pre_processor, getattr(model, "image_score", PUBLISHED)
        self.padded = getattr(model, "padded", False)

    def predict_step(self, batch: Batch, _index: int = 0) -> Predicted:
        """Of a batch whose images are pre-processed."""
        return self.recall(self.move(Maps(self.inner.features(batch.image), batch.image.shape[-2:])))

    def recall(self, maps: Maps, leave: int | None = None) -> Predicted:
        """The same of maps that have been moved."""
        patches = self.memory.patches(maps, leave)
        return Predicted(pred_score=self.how(patches), anomaly_map=patches[:, None])

    def scores(self, loader: Iterable[Maps]) -> np.ndarray:
        """Scores (n,) of maps whose features are there, batch by batch."""
        return self._scores((maps, self.recall(self.move(maps))) for maps in loader)

    def own(self, maps: Iterable[Maps], leaving: bool = False) -> np.ndarray:
        """Scores (k,) of the k maps, moved, one by one; `leaving`: each by the memory without it."""
        found = self._scores((one, self.recall(one, i if leaving else None)) for i, one in enumerate(maps))
        return found.astype(np.float64)

    def _scores(self, found: Iterable[tuple[Maps, Predicted]]) -> np.ndarray:
        with torch.inference_mode():
            return torch.cat([image_scores(self, one, maps.size) for maps, one in found]).cpu().numpy()
