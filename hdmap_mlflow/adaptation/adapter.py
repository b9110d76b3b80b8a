"""What is to be known of an adapter, and what one that changes the model gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Rule = Callable[[np.ndarray], np.ndarray]  # raw scores (n,) -> adapted scores (n,)
# (scores of the k maps, scores of the source's healthy maps, whether all scores of the run are positive) -> rule
FitScores = Callable[[np.ndarray, np.ndarray, bool], Rule]


class Adapted(NamedTuple):
    """An adapted model, which `evaluation.scoring.score` takes, and the k maps' own raw scores, (k,).

    Where the k maps are part of the model, each one's score is that of a model without it.
    """

    model: Model
    own: np.ndarray


# The k maps of a target, or None for k = 0 -> the model for it. For k = 0, and for the source, that is the adapter's
# way of scoring without a map of the target.
OnTarget = Callable[["DataLoader | None"], Adapted]
# (fitted model, healthy maps of the source, device) -> what works on every target; the model stays as it is.
FitModel = Callable[[Model, "DataLoader", str], OnTarget]


@dataclass(frozen=True)
class Adapter:
    """One way to repair the transfer to a target.

    `needs` says what it changes: `scores` takes `FitScores`; the others `FitModel`, and come first in a chain, one at
    most. `protocol` is `k_normals` where it takes healthy maps of the target, `least` or more of them, else
    `source_only`. `thresholds` are those at the nominal false alarms of 1 % and 5 %, by name, where the adapter
    itself says them; empty: quantiles of the source's healthy validation maps.
    """

    title: str
    paper: str
    needs: Literal["scores", "features", "network", "maps"]
    fit: FitScores | FitModel
    protocol: Literal["source_only", "k_normals"] = "k_normals"
    least: int = 1
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def of_scores(self) -> bool:
        return self.needs == "scores"
