"""How sure a figure is: confidence intervals, and paired tests of two models on the same maps.

The maps are the sample and the fitted models are taken as they are; how much a figure moves with the training seed is
another question, which the standard deviation over seeds answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import betabinom, binomtest, bootstrap, norm, rankdata

LEVEL = 0.95
Z = norm.ppf((1 + LEVEL) / 2)  # half the width of an interval, in standard errors
RESAMPLES = 200


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval at 95 %."""

    value: float
    low: float
    high: float

    def bounds(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Comparison:
    """Mean AUROC of one model less that of another, its 95 % interval and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Placements:
    """DeLong's structural components: for a fault map the share of good maps it beats, and the mirror for a good map.

    The mean of either is the AUROC. Components of several models on the same maps may be averaged or subtracted.
    """

    fault: np.ndarray
    good: np.ndarray

    @property
    def auroc(self) -> float:
        return float(self.fault.mean())

    @property
    def variance(self) -> float:
        """Of the AUROC; NaN where a class has a single map."""
        if min(len(self.fault), len(self.good)) < 2:
            return float("nan")
        return float(self.fault.var(ddof=1) / len(self.fault) + self.good.var(ddof=1) / len(self.good))


def placements(label: np.ndarray, scores: np.ndarray) -> Placements:
    """Components of one model's scores, (n,), or the mean over several models', (models, n); both classes needed.

    Mid-ranks as in Sun and Xu, Fast Implementation of DeLong's Algorithm, IEEE Signal Processing Letters 21 (2014).
    """
    table = np.atleast_2d(scores)
    fault, good = table[:, label == 1], table[:, label == 0]
    ranks = rankdata(table, axis=1)
    beats = (ranks[:, label == 1] - rankdata(fault, axis=1)) / good.shape[1]
    beaten = 1 - (ranks[:, label == 0] - rankdata(good, axis=1)) / fault.shape[1]
    return Placements(beats.mean(axis=0), beaten.mean(axis=0))


def auroc_interval(label: np.ndarray, scores: np.ndarray) -> Interval:
    """AUROC (of several models: their mean) with DeLong's interval on the logit scale, which stays inside (0, 1).

    Perfect separation has no DeLong variance; there Newcombe's (Statistics in Medicine 25, 2006, method 5) is taken.
    """
    parts = placements(label, scores)
    auroc, variance = parts.auroc, parts.variance
    if not variance > 0:
        return Interval(auroc, *_newcombe(auroc, len(parts.fault), len(parts.good)))
    half = Z * np.sqrt(variance) / (auroc * (1 - auroc))
    return Interval(auroc, float(expit(logit(auroc) - half)), float(expit(logit(auroc) + half)))


def _newcombe(auroc: float, faults: int, goods: int) -> tuple[float, float]:
    z, star = Z, (faults + goods) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + star * ((1 - t) / (2 - t) + t / (1 + t))) / (faults * goods)
        return abs(t - auroc) - z * np.sqrt(spread)

    low = 0.0 if auroc <= 0 else brentq(excess, 0, auroc - 1e-9)  # at 0 and 1 the spread is none
    high = 1.0 if auroc >= 1 else brentq(excess, auroc + 1e-9, 1)
    return float(low), float(high)


def average_precision(fault: np.ndarray, good: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over the fault maps of the precision of an alarm at each one's score, (..., n) and (..., m) -> (...).

    It is scikit-learn's, for many resamples at once: a call of that for each costs more than all the rest.
    """
    faults, every = fault.shape[axis], np.concatenate([fault, good], axis=axis)
    alarms = every.shape[axis] + 1 - rankdata(every, "min", axis=axis)[..., :faults]
    return ((faults + 1 - rankdata(fault, "min", axis=axis)) / alarms).mean(axis=axis)


def ap_interval(label: np.ndarray, score: np.ndarray) -> Interval:
    """Average precision with an interval on the logit scale from a bootstrap's standard error.

    The bootstrap is stratified by label, with 200 resamples, seeded. Perfect separation has no spread; there the
    binomial one of Boyd, Eng and Page, Area Under the Precision-Recall Curve (ECML 2013) is taken, half a map below 1.
    """
    fault, good = score[label == 1], score[label == 0]
    value = float(average_precision(fault, good))
    if min(len(fault), len(good)) < 2:
        return Interval(value, 0.0, 1.0)
    spread = bootstrap(
        (fault, good), average_precision, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).standard_error
    centre = value
    if spread < 1e-12:  # rounding alone makes more than 0
        centre = min(value, 1 - 1 / (2 * len(fault)))
        spread = np.sqrt(centre * (1 - centre) / len(fault))
    half = Z * spread / (centre * (1 - centre))
    high = 1.0 if value > 1 - 1e-12 else float(expit(logit(centre) + half))
    return Interval(value, float(expit(logit(centre) - half)), high)


def rate_interval(hits: int, of: int) -> Interval:
    """A share such as an FPR at a fixed threshold, with Wilson's interval."""
    found = binomtest(hits, of).proportion_ci(LEVEL, "wilson")
    return Interval(hits / of, float(found.low), float(found.high))


def rate_expected(maps: int, above: int, tried: int) -> tuple[float, float]:
    """Bounds, 95 %, of the share above a threshold that `tried` further maps of the same kind show.

    The threshold is a score of one of `maps`, `above` of which lie above it. The share in the long run is then
    Beta(above + 1, maps - above), whatever the scores' distribution (David and Nagaraja, Order Statistics, 2003).
    """
    low, high = betabinom(tried, above + 1, maps - above).interval(LEVEL)
    return float(low / tried), float(high / tried)


def mean_interval(cells: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Interval:
    """Mean AUROC over domains with a normal interval; `cells` maps a domain to its labels and scores (models, n).

    Domains hold different maps and are independent; models on the same maps are not, and are taken together.
    """
    parts = [placements(label, scores) for label, scores in cells.values()]
    value, spread = np.mean([p.auroc for p in parts]), np.sqrt(sum(map(_sure_variance, parts))) / len(parts)
    half = Z * spread
    return Interval(float(value), float(max(value - half, 0)), float(min(value + half, 1)))


def _sure_variance(parts: Placements) -> float:
    """DeLong's variance, or where it vanishes (perfect separation) what Newcombe's interval amounts to."""
    if parts.variance > 0:
        return parts.variance
    low, high = _newcombe(parts.auroc, len(parts.fault), len(parts.good))
    return float(((high - low) / (2 * Z)) ** 2)


def compare(cells: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Comparison:
    """Paired DeLong test of two models' mean AUROC over domains.

    `cells` maps a domain to its labels (n,) and to each model's scores (runs, n) of the same maps in the same order.
    Where the paired variance is undefined (a class of a single map), or vanishes although the models differ, it is
    that of unpaired models: a difference is never certain.
    """
    difference, variance = 0.0, 0.0
    for label, one, other in cells.values():
        a, b = placements(label, one), placements(label, other)
        both = Placements(a.fault - b.fault, a.good - b.good)
        alike = abs(both.auroc) < 1e-12 and both.variance == 0
        difference += both.auroc / len(cells)
        paired = both.variance if both.variance > 0 or alike else _sure_variance(a) + _sure_variance(b)
        variance += paired / len(cells) ** 2
    if not variance > 0:
        return Comparison(difference, difference, difference, 1.0)
    spread = np.sqrt(variance)
    half = Z * spread
    p = float(2 * norm.sf(abs(difference) / spread))
    return Comparison(difference, float(difference - half), float(difference + half), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests, in the order given."""
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values))))
    out = np.empty(len(p_values))
    out[order] = np.minimum(adjusted, 1)
    return out.tolist()
