"""Adapters of models that compare features with those of healthy maps. Heavy imports stay inside the functions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hdmap_mlflow.adaptation.adapter import Adapted
from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

PRIOR = 1  # how many maps of the target the source's variances count for


def k_bank(model: Model, source: DataLoader, target: DataLoader | None, device: str) -> Adapted:
    """A memory of the k maps alone, and the largest distance: the baseline that every adapter must beat."""
    from hdmap_mlflow.adaptation import bank

    if target is None:
        return Adapted(model, np.empty(0))
    maps = bank.read(model, target, device)
    adapted = bank.Recalling(model, bank.kind_of(model).of_maps(maps.features), lambda patches: patches.amax((1, 2)))
    return Adapted(adapted, adapted.score(maps.features.split(1), maps.size, leaving=True))


def merge(model: Model, source: DataLoader, target: DataLoader | None, device: str) -> Adapted:
    """The model's memory and that of the k maps as one, local density normalised; mean of the top 10 % of patches.

    Wilkinghoff, ICASSP 2025. Without a map of the target: the memory as it is, and the same mean.
    """
    from hdmap_mlflow.adaptation import bank
    from hdmap_mlflow.evaluation.scoring import top_mean

    memory: Any = bank.kind_of(model).of_source(model, source, device)
    if target is None:
        return Adapted(bank.Recalling(model, memory, top_mean), np.empty(0))
    maps = bank.read(model, target, device)
    both = memory.with_maps(bank.kind_of(model).of_maps(maps.features)).dense()
    adapted = bank.Recalling(model, both, top_mean)
    return Adapted(adapted, adapted.score(maps.features.split(1), maps.size, leaving=True))


def coral(model: Model, source: DataLoader, target: DataLoader | None, device: str) -> Adapted:
    """Diagonal CORAL: every channel of the target's features gets the source's mean and spread, then as `merge`.

    The k maps' variance is shrunk to the source's, which counts for a map of its own. Each of the k maps is scored
    as the moments of the others move it.
    """
    from hdmap_mlflow.adaptation import bank
    from hdmap_mlflow.evaluation.scoring import top_mean

    memory = bank.kind_of(model).of_source(model, source, device).dense()
    if target is None:
        return Adapted(bank.Recalling(model, memory, top_mean), np.empty(0))
    healthy, maps = bank.moments(bank.read(model, source, device).features), bank.read(model, target, device)

    def seen(features: Any) -> Any:
        of, k = bank.moments(features), len(features)
        return of._replace(variance=(PRIOR * healthy.variance + k * of.variance) / (PRIOR + k))

    adapted = bank.Recalling(model, memory, top_mean, partial(seen(maps.features).onto, healthy))
    places = np.arange(len(maps.features))
    others = [seen(maps.features[places != i]).onto(healthy, maps.features[places == i]) for i in places]
    return Adapted(adapted, adapted.score(others, maps.size))
