"""What a run's raw score says of a machine: its place among those of healthy maps, and whether it is an alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.adaptation.scale import Scale, of_machine
from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.evaluation.metrics import thresholds
from hdmap_mlflow.runs import loose
from hdmap_mlflow.runs.trained import Trained


@dataclass(frozen=True)
class Reading:
    """Healthy maps that are known of the machine (`score`, `image_mean`; `of` says whose), and what an alarm is.

    Without a `scale` the machine is the source: a score counts as it is.
    """

    normals: pd.DataFrame
    of: str
    threshold: float
    scale: Scale | None = None

    def calibrated(self, scores: np.ndarray) -> np.ndarray | None:
        """Scores on a scale of their own: the fitted one, or the source's in sd from its median; None where sd is 0."""
        if self.scale:
            return self.scale(scores)
        known = self.normals["score"].to_numpy(float)
        spread = known.std(ddof=1) if len(known) > 1 else 0.0
        return (scores - np.median(known)) / spread if spread > 0 else None

    def above(self, scores: np.ndarray) -> np.ndarray:
        """Whether raw scores, (n,), reach the threshold."""
        return (self.scale(scores) if self.scale else scores) >= self.threshold

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """`calibrated`, `p_value` and `alarm` of raw scores, (n,)."""
        known, calibrated = np.sort(self.normals["score"].to_numpy(float)), self.calibrated(scores)
        above = len(known) - np.searchsorted(known, scores, side="left")
        out = {} if calibrated is None else {"calibrated": calibrated}
        return out | {"p_value": (1 + above) / (1 + len(known)), "alarm": self.above(scores)}


def of(run: Trained, threshold: str, adapters: Sequence[str] = (), reference: Sequence[Path] = ()) -> Reading:
    """How scores of a run's model are read: as of its source, or of the machine whose healthy maps `reference` are.

    `adapters` are those of scores, in their order; `z` where there is a reference and none is named. Raises BadInput
    for a threshold that is none, for adapters without a reference, and for maps that cannot be scored.
    """
    table = run.record.table(run.record.source)
    if adapters and not reference:
        raise BadInput(f"--adapters {','.join(adapters)} needs healthy maps of the machine; give --reference FOLDER")
    if not reference:
        limits = thresholds(run.record.part("val", run.record.source))
        return Reading(
            run.normals, f"{len(run.normals)} healthy maps of {run.record.source}", _limit(threshold, limits)
        )
    files = loose.find(reference)
    known = pd.concat(loose.score(run, files), ignore_index=True)
    if (broken := known["problem"] != "").any():
        raise BadInput(f"--reference: {known['problem'][broken].iloc[0]}")
    scale = of_machine(adapters or ["z"], table, known["score"].to_numpy(float))
    words = f"{len(files)} healthy maps of --reference"
    return Reading(known, words, _limit(threshold, scale.thresholds), scale)


def _limit(name: str, there: Mapping[str, float]) -> float:
    if name not in there:
        raise BadInput(f"--threshold {name}{nearest(name, there)}: the run has {', '.join(there)}")
    return there[name]
