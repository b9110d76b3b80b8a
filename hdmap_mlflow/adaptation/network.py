"""adabn: the batch statistics of a network, moved with the target's. log_z: maps brought to one level and contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdmap_mlflow.adaptation.adapter import Adapted, OnTarget
from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

FOLDS = 4  # parts of the k maps, each scored by a network that has seen the others


def adabn(model: Model, source: DataLoader, device: str) -> OnTarget:
    """AdaBN: every BatchNorm layer gets the target's mean and variance (Li et al., Pattern Recognition 2018).

    They are set relative to the source's own, so that what a layer hands on of the target is distributed as the
    source's: a trained network's running statistics are the source's, and this is AdaBN to the letter; those of a
    frozen backbone are its pretraining's, and stay so for the source. The k maps' own scores are those of networks
    that have seen the other parts of them.
    """
    from hdmap_mlflow.adaptation import wrapped

    model.to(device).eval()
    healthy = wrapped.Renewed(model).moments(wrapped.read(model, source, device))

    def on(target: DataLoader | None) -> Adapted:
        if target is None:
            return Adapted(model, np.empty(0))
        maps = wrapped.read(model, target, device)
        places = np.arange(len(maps.images))
        own = np.empty(len(places))
        for fold in range(min(FOLDS, len(places))):
            mine = places % FOLDS == fold
            own[mine] = wrapped.Renewed(model).renew(maps.part(~mine), healthy).score(maps.part(mine))
        return Adapted(wrapped.Renewed(model).renew(maps, healthy), own)

    return on


def log_z(model: Model, source: DataLoader, device: str) -> OnTarget:
    """Every map's log gets the mean and the sd that the source's healthy maps have on average; no target map is used.

    So the level and the contrast of a map are gone, and it is still a map that the model can read, in its unit. What is
    not above 0 counts as the smallest value that is, of the source. The k maps are only scored.
    """
    from hdmap_mlflow.adaptation import wrapped
    from hdmap_mlflow.evaluation import scoring

    adapted = wrapped.Levelled(model, source)

    def on(target: DataLoader | None) -> Adapted:
        if target is None:
            return Adapted(adapted, np.empty(0))
        return Adapted(adapted, scoring.score(adapted, target, "", "", device, False).table["score"].to_numpy(float))

    return on
