"""How sure a figure is: confidence intervals, and paired tests of two models on the same maps.

The recordings of the maps are the sample where they are given, one per map, as names or codes: maps of one recording
resemble one another, and an interval that takes them for independent is too narrow. Without them the maps are the
sample. The fitted models are taken as they are; how much a figure moves with the training seed is another question,
which the standard deviation over seeds answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import betabinom, binomtest, bootstrap, norm, rankdata, t

LEVEL = 0.95
Z = norm.ppf((1 + LEVEL) / 2)  # half the width of an interval, in standard errors
RESAMPLES = 200
POWER = 0.8  # of a test on the smallest difference that it is said to tell


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

    @property
    def detectable(self) -> float:
        """The smallest true difference that such data tell at 5 % with a power of 80 %."""
        return (self.high - self.low) / 2 * (1 + norm.ppf(POWER) / Z)


@dataclass(frozen=True)
class Placements:
    """DeLong's structural components: for a fault map the share of good maps it beats, and the mirror for a good map.

    The mean of either is the AUROC. Components of several models on the same maps may be averaged or subtracted.
    `recordings` are the codes, from 0, of the recordings of the fault maps and of the good maps.
    """

    fault: np.ndarray
    good: np.ndarray
    recordings: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def auroc(self) -> float:
        return float(self.fault.mean())

    @property
    def sizes(self) -> tuple[int, int]:
        """How many independent units the fault and the good maps are: recordings, or maps."""
        fault, good = self.recordings or (self.fault, self.good)
        return (len(fault), len(good)) if self.recordings is None else (len(np.unique(fault)), len(np.unique(good)))

    @property
    def degrees(self) -> float:
        """Of freedom of the variance: recordings of the smaller class less one; infinite where maps are the sample."""
        return float("inf") if self.recordings is None else max(min(self.sizes) - 1, 1)

    def variances(self) -> tuple[float, float, float]:
        """What the fault maps, the good maps and recordings with maps of both add to the variance of the AUROC.

        NaN where a class has a single map or recording. With recordings they are those of Obuchowski, Nonparametric
        Analysis of Clustered ROC Curve Data (Biometrics 53, 1997), which are DeLong's where a recording is one map.
        """
        faults, goods = self.sizes
        if min(faults, goods) < 2:
            return (float("nan"),) * 3
        if self.recordings is None:
            return float(self.fault.var(ddof=1) / faults), float(self.good.var(ddof=1) / goods), 0.0
        every = np.concatenate(self.recordings)
        fault, good = (
            np.bincount(codes, part - part.mean(), every.max() + 1) / len(part)
            for codes, part in zip(self.recordings, (self.fault, self.good), strict=True)
        )
        both = len(np.unique(every))
        return (
            float(fault @ fault * faults / (faults - 1)),
            float(good @ good * goods / (goods - 1)),
            float(2 * (fault @ good) * both / (both - 1)),
        )

    @property
    def variance(self) -> float:
        """Of the AUROC; NaN where a class has a single map or recording."""
        return sum(self.variances())


def placements(label: np.ndarray, scores: np.ndarray, recording: np.ndarray | None = None) -> Placements:
    """Components of one model's scores, (n,), or the mean over several models', (models, n); both classes needed.

    Mid-ranks as in Sun and Xu, Fast Implementation of DeLong's Algorithm, IEEE Signal Processing Letters 21 (2014).
    """
    table = np.atleast_2d(scores)
    fault, good = table[:, label == 1], table[:, label == 0]
    ranks = rankdata(table, axis=1)
    beats = (ranks[:, label == 1] - rankdata(fault, axis=1)) / good.shape[1]
    beaten = 1 - (ranks[:, label == 0] - rankdata(good, axis=1)) / fault.shape[1]
    codes = None if recording is None else np.unique(recording, return_inverse=True)[1]
    of_class = None if codes is None else (codes[label == 1], codes[label == 0])
    return Placements(beats.mean(axis=0), beaten.mean(axis=0), of_class)


def width(degrees: float) -> float:
    """Half the width of an interval, in standard errors: Student's t, or the normal quantile for infinite degrees."""
    return Z if np.isinf(degrees) else float(t.ppf((1 + LEVEL) / 2, degrees))


def auroc_interval(label: np.ndarray, scores: np.ndarray, recording: np.ndarray | None = None) -> Interval:
    """AUROC (of several models: their mean) with DeLong's interval on the logit scale, which stays inside (0, 1).

    With recordings the variance is Obuchowski's and the quantile Student's. Perfect separation has no such variance;
    there Newcombe's interval (Statistics in Medicine 25, 2006, method 5) is taken.
    """
    parts = placements(label, scores, recording)
    auroc, variance = parts.auroc, parts.variance
    if not variance > 0:
        return Interval(auroc, *_newcombe(auroc, *parts.sizes))
    half = width(parts.degrees) * np.sqrt(variance) / (auroc * (1 - auroc))
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


def ap_interval(label: np.ndarray, score: np.ndarray, recording: np.ndarray | None = None) -> Interval:
    """Average precision with an interval on the logit scale from a bootstrap's standard error.

    The bootstrap is stratified by label, with 200 resamples, seeded; it draws maps, or whole recordings. Perfect
    separation has no spread; there the binomial one of Boyd, Eng and Page, Area Under the Precision-Recall Curve (ECML
    2013) is taken, half a map (or recording) below 1.
    """
    fault, good = score[label == 1], score[label == 0]
    value, degrees = float(average_precision(fault, good)), float("inf")
    faults = len(fault)
    if recording is not None:
        faults, goods = (len(np.unique(recording[label == one])) for one in (1, 0))
        degrees = min(faults, goods) - 1
    if min(len(fault), len(good), degrees + 1) < 2:
        return Interval(value, 0.0, 1.0)
    if recording is None:
        spread = bootstrap(
            (fault, good), average_precision, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
        ).standard_error
    else:
        spread = _spread_over_recordings(label, score, recording) * np.sqrt((degrees + 1) / degrees)
    centre = value
    if spread < 1e-12:  # rounding alone makes more than 0
        centre = min(value, 1 - 1 / (2 * faults))
        spread = np.sqrt(centre * (1 - centre) / faults)
    half = width(degrees) * spread / (centre * (1 - centre))
    high = 1.0 if value > 1 - 1e-12 else float(expit(logit(centre) + half))
    return Interval(value, float(expit(logit(centre) - half)), high)


def _spread_over_recordings(label: np.ndarray, score: np.ndarray, recording: np.ndarray) -> float:
    """Standard deviation of the AP over resamples of the recordings of each class."""
    rng = np.random.default_rng(0)
    drawn = np.zeros((RESAMPLES, len(label)), int)  # how often a resample holds a map
    for one in (0, 1):
        names, codes = np.unique(recording[label == one], return_inverse=True)
        drawn[:, label == one] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)[:, codes]
    order = np.argsort(-score, kind="stable")
    last = np.searchsorted(-score[order], -score[order], side="right") - 1  # of the maps with the same score
    every, fault = drawn[:, order], drawn[:, order] * label[order]
    precision = fault.cumsum(axis=1)[:, last] / np.maximum(every.cumsum(axis=1)[:, last], 1)
    return float(((precision * fault).sum(axis=1) / fault.sum(axis=1)).std(ddof=1))


def rate_interval(alarm: np.ndarray, recording: np.ndarray | None = None) -> Interval:
    """A share such as an FPR at a fixed threshold, with Wilson's interval; `alarm` is bool, (n,).

    With recordings the maps count as so many fewer as the design effect says, corrected for the degrees of freedom
    (Korn and Graubard, Survey Methodology 24, 1998). Where no alarm, or every map, is one, the recordings are counted.
    """
    rate, count = float(np.mean(alarm)), len(alarm)
    if recording is None:
        found = binomtest(int(np.sum(alarm)), count).proportion_ci(LEVEL, "wilson")
        return Interval(rate, float(found.low), float(found.high))
    codes = np.unique(recording, return_inverse=True)[1]
    recordings = codes.max() + 1
    if recordings < 2:
        return Interval(rate, 0.0, 1.0)
    excess = np.bincount(codes, alarm - rate) / count
    variance = float(excess @ excess) * recordings / (recordings - 1)
    units = min(rate * (1 - rate) / variance, count) if variance > 0 else recordings
    units *= (t.ppf((1 + LEVEL) / 2, count - 1) / width(recordings - 1)) ** 2
    return Interval(rate, *_wilson(rate, units))


def rate_expected(maps: int, above: int, tried: int) -> tuple[float, float]:
    """Bounds, 95 %, of the share above a threshold that `tried` further maps of the same kind show.

    The threshold is a score of one of `maps`, `above` of which lie above it. The share in the long run is then
    Beta(above + 1, maps - above), whatever the scores' distribution (David and Nagaraja, Order Statistics, 2003).
    """
    low, high = betabinom(tried, above + 1, maps - above).interval(LEVEL)
    return float(low / tried), float(high / tried)


def _wilson(rate: float, units: float) -> tuple[float, float]:
    """Wilson's interval for a share of a number of independent units that need not be whole."""
    shrink = 1 + Z**2 / units
    centre = (rate + Z**2 / (2 * units)) / shrink
    half = Z / shrink * np.sqrt(rate * (1 - rate) / units + (Z / (2 * units)) ** 2)
    return float(max(centre - half, 0)), float(min(centre + half, 1))


def _degrees(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own: Satterthwaite's (Biometrics Bulletin 2, 1946)."""
    spread = sum(variance**2 / degrees for variance, degrees in parts)
    return sum(variance for variance, _ in parts) ** 2 / spread if spread > 0 else float("inf")


Recordings = Mapping[str, np.ndarray]  # of a domain's maps


def with_seeds(of_maps: Interval, sd: float, seeds: int) -> Interval:
    """An interval that holds both the maps and the training seeds: their variances are summed.

    `sd` is that of the figure over two seeds or more (ddof 1); its part has Student's width.
    """
    part = float(t.ppf((1 + LEVEL) / 2, seeds - 1)) * sd / np.sqrt(seeds)
    low, high = (float(np.hypot(end - of_maps.value, part)) for end in (of_maps.low, of_maps.high))
    return Interval(of_maps.value, max(of_maps.value - low, 0.0), min(of_maps.value + high, 1.0))


def mean_interval(cells: Mapping[str, tuple[np.ndarray, np.ndarray]], recordings: Recordings | None = None) -> Interval:
    """Mean AUROC over domains with a normal interval; `cells` maps a domain to its labels and scores (models, n).

    Domains hold different maps and are independent; models on the same maps are not, and are taken together. With
    recordings, of which there are few, the interval is Student's and on the logit scale.
    """
    known = recordings or {}
    parts = [placements(label, scores, known.get(domain)) for domain, (label, scores) in cells.items()]
    variances = [_sure_variance(p) for p in parts]
    value, spread = float(np.mean([p.auroc for p in parts])), np.sqrt(sum(variances)) / len(parts)
    degrees = _degrees([(v, p.degrees) for v, p in zip(variances, parts, strict=True)])
    half = width(degrees) * spread
    if not np.isinf(degrees) and 0 < value < 1:
        half /= value * (1 - value)
        return Interval(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))
    return Interval(float(value), float(max(value - half, 0)), float(min(value + half, 1)))


def _sure_variance(parts: Placements) -> float:
    """DeLong's variance, or where it vanishes (perfect separation) what Newcombe's interval amounts to."""
    if parts.variance > 0:
        return parts.variance
    low, high = _newcombe(parts.auroc, *parts.sizes)
    return float(((high - low) / (2 * Z)) ** 2)


def compare(
    cells: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], recordings: Recordings | None = None
) -> Comparison:
    """Paired DeLong test of two models' mean AUROC over domains; with recordings Obuchowski's, and Student's t.

    `cells` maps a domain to its labels (n,) and to each model's scores (runs, n) of the same maps in the same order.
    Where the paired variance is undefined (a class of a single map), or vanishes although the models differ, it is
    that of unpaired models: a difference is never certain.
    """
    known = recordings or {}
    difference, spreads = 0.0, []
    for domain, (label, one, other) in cells.items():
        a, b = placements(label, one, known.get(domain)), placements(label, other, known.get(domain))
        both = Placements(a.fault - b.fault, a.good - b.good, a.recordings)
        alike = abs(both.auroc) < 1e-12 and both.variance == 0
        difference += both.auroc / len(cells)
        classes = list(zip(both.variances()[:2], (max(size - 1, 1) for size in both.sizes), strict=True))
        paired, degrees = both.variance, both.degrees if known.get(domain) is None else _degrees(classes)
        if not paired > 0 and not alike:
            paired, degrees = _sure_variance(a) + _sure_variance(b), both.degrees
        spreads.append((paired / len(cells) ** 2, degrees))
    variance = sum(paired for paired, _ in spreads)
    if not variance > 0:
        return Comparison(difference, difference, difference, 1.0)
    degrees, spread = _degrees(spreads), np.sqrt(variance)
    half, ratio = width(degrees) * spread, abs(difference) / spread
    p = float(2 * (norm.sf(ratio) if np.isinf(degrees) else t.sf(ratio, degrees)))
    return Comparison(difference, float(difference - half), float(difference + half), p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests, in the order given."""
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values))))
    out = np.empty(len(p_values))
    out[order] = np.minimum(adjusted, 1)
    return out.tolist()
