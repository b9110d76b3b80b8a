"""When single scores become an alarm, and how far what is scored has drifted from what a model knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from hdmap_mlflow.errors import BadInput

LONGEST = 1000  # maps that a rule looks back on


@dataclass(frozen=True)
class Rule:
    """An alarm is raised while at least `least` of the `last` maps are above the threshold: single maps are noisy."""

    least: int = 3
    last: int = 5

    @classmethod
    def parse(cls, text: str) -> Rule:
        """`3of5`. Raises BadInput for what is no such rule."""
        match = re.fullmatch(r"(\d{1,4})of(\d{1,4})", text.strip())
        if not match or not 1 <= int(match[1]) <= int(match[2]) <= LONGEST:
            raise BadInput(f"--alarm {text:.40}: give MofN, such as 3of5, with 1 <= M <= N <= {LONGEST}")
        return cls(int(match[1]), int(match[2]))

    def __call__(self, above: Sequence[bool] | np.ndarray) -> np.ndarray:
        """For each map in order, (n,) bool, whether there is an alarm once it was seen."""
        counted = np.concatenate([np.zeros(self.last, int), np.cumsum(np.asarray(above, int))])
        return counted[self.last :] - counted[: len(above)] >= self.least

    def __str__(self) -> str:
        return f"{self.least}of{self.last}"


def drift(known: pd.DataFrame, new: pd.DataFrame) -> dict[str, float]:
    """How far new maps lie from those a model knows, without labels: tables with `score` and `image_mean`.

    `score_distance`: Wasserstein distance of the scores in units of their sd among the known maps; `intensity`: that of
    the maps' means in units of their mean among the known ones (0.5: half as bright again). Absent where a unit is 0.
    """
    units = {"score": known["score"].std(), "image_mean": abs(known["image_mean"].mean())}
    names = {"score": "score_distance", "image_mean": "intensity"}
    return {
        names[column]: float(wasserstein_distance(known[column], new[column]) / unit)
        for column, unit in units.items()
        if unit > 0
    }
