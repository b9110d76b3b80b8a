"""One scale for the scores of a source and of another machine, of which healthy maps are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from hdmap_mlflow.adaptation.adapter import FitScores, Rule
from hdmap_mlflow.adaptation.chain import check, words
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.metrics import raw, thresholds


@dataclass(frozen=True)
class Scale:
    """Adapters of scores, fitted to a machine: what brings its raw scores there, and the thresholds by name."""

    rules: Sequence[Rule]
    thresholds: Mapping[str, float]
    least: float  # the smallest score that the rules take

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Raw scores of the machine's maps, (n,), on the scale."""
        scores = np.maximum(scores, self.least)
        for rule in self.rules:
            scores = rule(scores)
        return scores


def of_machine(chain: Sequence[str], source: pd.DataFrame, normals: np.ndarray) -> Scale:
    """The scale of adapters of scores for a machine with the scores `normals`, (k,), of healthy maps.

    `source` is the source's table of scores; its validation maps set the thresholds, on the same scale, but for those
    that an adapter says itself. Raises BadInput for adapters that change the model, and for scores that do not do.
    """
    check(chain, len(normals))
    if changing := [name for name in chain if not ADAPTERS[name].of_scores]:
        able = ", ".join(name for name, adapter in ADAPTERS.items() if adapter.of_scores)
        raise BadInput(
            f"{words(chain)}: {changing[0]} changes the model, which takes the source's maps, too (hdmap adapt has "
            f"them); here give {able}"
        )
    val = source[source["split"] == "val"]
    scored, own = raw(val)[1], raw(val[val["label"] == 0])[1]
    logs = positive = bool((source["score"] > 0).all() and (normals > 0).all())
    rules = list[Rule]()
    for name in chain:
        fit = cast(FitScores, ADAPTERS[name].fit)
        rule, of_source = fit(normals, own, positive), fit(own, own, positive)
        rules.append(rule)
        normals, own, scored, positive = rule(normals), of_source(own), of_source(scored), False
    limits = {**thresholds(val.assign(score=scored)), **ADAPTERS[chain[-1]].thresholds}
    return Scale(rules, limits, float(np.finfo(float).tiny) if logs else -np.inf)
