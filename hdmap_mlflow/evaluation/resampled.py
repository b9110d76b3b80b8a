"""Intervals of figures whose variance has no formula: a bootstrap of the maps, or of whole recordings."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import bootstrap, rankdata

from hdmap_mlflow.evaluation.intervals import Interval, width
from hdmap_mlflow.evaluation.pooled import PARTIAL, partial_auroc

RESAMPLES = 200


def average_precision(fault: np.ndarray, good: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over the fault maps of the precision of an alarm at each one's score, (..., n) and (..., m) -> (...).

    It is scikit-learn's, for many resamples at once: a call of that for each costs more than all the rest.
    """
    faults, every = fault.shape[axis], np.concatenate([fault, good], axis=axis)
    alarms = every.shape[axis] + 1 - rankdata(every, "min", axis=axis)[..., :faults]
    return ((faults + 1 - rankdata(fault, "min", axis=axis)) / alarms).mean(axis=axis)


def ap_interval(label: np.ndarray, score: np.ndarray, recording: np.ndarray | None = None) -> Interval:
    """Average precision with an interval on the logit scale from a bootstrap's standard error.

    The bootstrap is stratified by label, with 200 resamples, seeded; it draws maps, or whole recordings.
    """
    fault, good = score[label == 1], score[label == 0]
    value = float(average_precision(fault, good))
    if min(_sizes(label, recording)) < 2:
        return Interval(value, 0.0, 1.0)
    if recording is not None:
        return _interval(value, _spread(_precisions(label, score, drawn(label, recording))), label, recording)
    spread = bootstrap(
        (fault, good), average_precision, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).standard_error
    return _interval(value, spread, label, None)


def pauroc_interval(label: np.ndarray, score: np.ndarray, recording: np.ndarray | None = None) -> Interval:
    """Partial AUROC (`pooled.partial_auroc`) with an interval as that of the average precision."""
    value = partial_auroc(label, score)
    if min(_sizes(label, recording)) < 2:
        return Interval(value, 0.0, 1.0)
    units = np.arange(len(label)) if recording is None else recording
    return _interval(value, _spread(partial_aurocs(label, score, drawn(label, units))), label, recording)


def drawn(label: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """How often each resample of the recordings of each class holds a map, (200, n)."""
    rng = np.random.default_rng(0)
    out = np.zeros((RESAMPLES, len(label)), int)
    for one in (0, 1):
        names, codes = np.unique(recording[label == one], return_inverse=True)
        out[:, label == one] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, codes]
    return out


def _sizes(label: np.ndarray, recording: np.ndarray | None) -> tuple[int, int]:
    """Fault and good maps, or recordings of them."""
    units = np.arange(len(label)) if recording is None else recording
    return len(np.unique(units[label == 1])), len(np.unique(units[label == 0]))


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1))


def _interval(value: float, spread: float, label: np.ndarray, recording: np.ndarray | None) -> Interval:
    """On the logit scale; with recordings Student's, and the standard error is that of so few.

    Perfect separation has no spread; there the binomial one of Boyd, Eng and Page, Area Under the Precision-Recall
    Curve (ECML 2013) is taken, half a map (or recording) below 1.
    """
    faults, goods = _sizes(label, recording)
    degrees = float("inf") if recording is None else min(faults, goods) - 1.0
    if recording is not None:
        spread *= np.sqrt((degrees + 1) / degrees)
    centre = value
    if spread < 1e-12:  # rounding alone makes more than 0
        centre = min(value, 1 - 1 / (2 * faults))
        spread = np.sqrt(centre * (1 - centre) / faults)
    half = width(degrees) * spread / (centre * (1 - centre))
    high = 1.0 if value > 1 - 1e-12 else float(expit(logit(centre) + half))
    return Interval(value, float(expit(logit(centre) - half)), high)


def _precisions(label: np.ndarray, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The average precision of each resample; `counts` as of `drawn`."""
    order = np.argsort(-score, kind="stable")
    last = np.searchsorted(-score[order], -score[order], side="right") - 1  # of the maps with the same score
    every, fault = counts[:, order], counts[:, order] * label[order]
    precision = fault.cumsum(axis=1)[:, last] / np.maximum(every.cumsum(axis=1)[:, last], 1)
    return (precision * fault).sum(axis=1) / fault.sum(axis=1)


def partial_aurocs(label: np.ndarray, score: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The partial AUROC of each resample, McClish's as of `partial_auroc`; `counts` as of `drawn`."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of the maps with the same score
    rates = []
    for one in (0, 1):
        alarms = (counts[:, order] * (label[order] == one)).cumsum(axis=1)[:, last]
        rates.append(np.pad(alarms / alarms[:, -1:], ((0, 0), (1, 0))))
    fpr, tpr = rates
    steps, inside = np.diff(fpr, axis=1), np.diff(np.minimum(fpr, PARTIAL), axis=1)
    share = np.divide(inside, steps, out=np.zeros_like(steps), where=steps > 0)  # of a step that lies inside
    area = (inside * (tpr[:, :-1] + share * np.diff(tpr, axis=1) / 2)).sum(axis=1)
    chance = PARTIAL**2 / 2
    return (1 + (area - chance) / (PARTIAL - chance)) / 2
