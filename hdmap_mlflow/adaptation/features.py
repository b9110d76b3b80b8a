"""Adapters of models that compare features with those of healthy maps. Heavy imports stay inside the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdmap_mlflow.adaptation.adapter import Adapted, OnTarget
from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

PRIOR = 1  # how many maps of the target the source's variances count for


def k_bank(model: Model, source: DataLoader, device: str) -> OnTarget:
    """A memory of the k maps alone, and the largest distance: the baseline that every adapter must beat."""
    from hdmap_mlflow.adaptation import maps, memory

    def on(target: DataLoader | None) -> Adapted:
        if target is None:
            return Adapted(model, np.empty(0))
        read = maps.read(model, target, device)
        adapted = memory.Recalling(model, memory.kind_of(model).of_maps(read), lambda patches: patches.amax((1, 2)))
        return Adapted(adapted, adapted.own(read, leaving=True))

    return on


def merge(model: Model, source: DataLoader, device: str) -> OnTarget:
    """The model's memory and that of the k maps as one, local density normalised; mean of the top 10 % of patches.

    Wilkinghoff, ICASSP 2025. Without a map of the target: the memory as it is, and the same mean.
    """
    from hdmap_mlflow.adaptation import maps, memory
    from hdmap_mlflow.evaluation.scoring import top_mean

    healthy = memory.kind_of(model).of_source(model, source, device)

    def on(target: DataLoader | None) -> Adapted:
        if target is None:
            return Adapted(memory.Recalling(model, healthy, top_mean), np.empty(0))
        read = maps.read(model, target, device)
        adapted = memory.Recalling(model, healthy.with_maps(read).dense(), top_mean)
        return Adapted(adapted, adapted.own(read, leaving=True))

    return on


def coral(model: Model, source: DataLoader, device: str) -> OnTarget:
    """Diagonal CORAL: every channel of the target's features gets the source's mean and spread, then as `merge`.

    The k maps' variance is shrunk to the source's, which counts for a map of its own. Each of the k maps is scored
    as the moments of the others move it.
    """
    import torch

    from hdmap_mlflow.adaptation import maps, memory
    from hdmap_mlflow.evaluation.scoring import top_mean

    bank = memory.kind_of(model).of_source(model, source, device).dense()
    healthy = maps.Moments.of(maps.read(model, source, device).features)

    def on(target: DataLoader | None) -> Adapted:
        if target is None:
            return Adapted(memory.Recalling(model, bank, top_mean), np.empty(0))
        read = maps.read(model, target, device)
        places = np.arange(len(read.features))

        def move(of: np.ndarray, chosen: maps.Maps) -> maps.Maps:
            seen = maps.Moments.of(read.features[of])
            variance = (PRIOR * healthy.variance + len(of) * seen.variance) / (PRIOR + len(of))
            return seen._replace(variance=variance).onto(healthy, chosen)

        adapted = memory.Recalling(model, bank, top_mean, lambda chosen: move(places, chosen))
        moved = [move(places[places != i], read.of(int(i))).features for i in places]
        return Adapted(adapted, adapted.own(read._replace(features=torch.cat(moved))))

    return on
