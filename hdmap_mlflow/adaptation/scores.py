"""Adapters that move a target's scores onto the scale of the source: pure functions, numpy in and out."""

from __future__ import annotations

import numpy as np

from hdmap_mlflow.adaptation.adapter import Rule
from hdmap_mlflow.errors import BadInput

PRIOR = 8  # how many maps of the target the source's spread counts for


def z(normals: np.ndarray, source: np.ndarray, positive: bool) -> Rule:
    """Shrunk z: log score less the k normals' median, over an sd between the source's and theirs.

    sd^2 = (8 sd_source^2 + (k - 1) sd_k^2) / (7 + k), all of log scores; works from k = 1. Where not all scores of a
    run are positive, the score itself takes the place of its log.
    """
    scale = np.log if positive else np.asarray
    mine, k = scale(normals), len(normals)
    variance = (PRIOR * _variance(scale(source)) + (k - 1) * _variance(mine)) / (PRIOR - 1 + k)
    middle, spread = np.median(mine), _some(np.sqrt(variance))
    return lambda score: (scale(score) - middle) / spread


def robust_z(normals: np.ndarray, source: np.ndarray, positive: bool) -> Rule:
    """Score less the k normals' median, over 1.4826 times their median absolute deviation."""
    middle = np.median(normals)
    spread = _some(1.4826 * np.median(np.abs(normals - middle)))
    return lambda score: (score - middle) / spread


def conformal(normals: np.ndarray, source: np.ndarray, positive: bool) -> Rule:
    """1 - p with p = (1 + #{normals >= score}) / (k + 1): alarms at alpha, p <= alpha, need k >= 1 / alpha - 1.

    On exchangeable maps false alarms are at most alpha, whatever the distribution of the scores.
    """
    ordered, k = np.sort(normals), len(normals)
    return lambda score: 1 - (1 + k - np.searchsorted(ordered, score, side="left")) / (k + 1)


def _variance(scores: np.ndarray) -> float:
    return float(scores.var(ddof=1)) if len(scores) > 1 else 0.0


def _some(spread: float) -> float:
    if not spread > 0:
        raise BadInput("the scores of the healthy maps do not differ (sd 0), so nothing can be measured by them")
    return float(spread)
