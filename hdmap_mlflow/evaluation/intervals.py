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
from scipy.stats import betabinom, binomtest, norm, rankdata, t

from hdmap_mlflow.evaluation.sample import enough

LEVEL = 0.95
Z = norm.ppf((1 + LEVEL) / 2)  # half the width of an interval, in standard errors
POWER = 0.8  # of a test on the smallest difference that it is said to tell


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval at 95 %; `few`: of too few recordings to be shown as one."""

    value: float
    low: float
    high: float
    few: bool = False

    def bounds(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True)
class Comparison:
    """Mean AUROC of one model less that of another, its 95 % interval and the two-sided p-value.

    `few`: of too few recordings for an interval and a test to be shown as such.
    """

    difference: float
    low: float
    high: float
    p: float
    few: bool = False

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
    half, few = width(degrees) * spread, _few(cells, known)
    if not np.isinf(degrees) and 0 < value < 1:
        half /= value * (1 - value)
        return Interval(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)), few)
    return Interval(float(value), float(max(value - half, 0)), float(min(value + half, 1)), few)


def _few(cells: Mapping[str, tuple[np.ndarray, ...]], recordings: Recordings) -> bool:
    """Whether a class of some domain has fewer recordings than an interval needs."""
    return not all(enough(label, recordings.get(domain)) for domain, (label, *_) in cells.items())


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
        alike = abs(both.auroc) < 1e-12 and both.variance < 1e-24  # means over models round
        difference += 0.0 if alike else both.auroc / len(cells)
        classes = list(zip(both.variances()[:2], (max(size - 1, 1) for size in both.sizes), strict=True))
        paired, degrees = (
            0.0 if alike else both.variance,
            both.degrees if known.get(domain) is None else _degrees(classes),
        )
        if not paired > 0 and not alike:
            paired, degrees = _sure_variance(a) + _sure_variance(b), both.degrees
        spreads.append((paired / len(cells) ** 2, degrees))
    variance, few = sum(paired for paired, _ in spreads), _few(cells, known)
    if not variance > 0:
        return Comparison(difference, difference, difference, 1.0, few)
    degrees, spread = _degrees(spreads), np.sqrt(variance)
    half, ratio = width(degrees) * spread, abs(difference) / spread
    p = float(2 * (norm.sf(ratio) if np.isinf(degrees) else t.sf(ratio, degrees)))
    return Comparison(difference, float(difference - half), float(difference + half), p, few)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several tests, in the order given."""
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values))))
    out = np.empty(len(p_values))
    out[order] = np.minimum(adjusted, 1)
    return out.tolist()
