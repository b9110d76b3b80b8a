"""What a run says beside its metrics: intervals, groups, and how its thresholds and its scores travel.

Cards are plain dictionaries, written as `cards.json`. What is undefined for a domain is absent, and a run from before
the cards has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.evaluation.confounds import ConfoundCard, confounds
from hdmap_mlflow.evaluation.damage import BandCard, bands
from hdmap_mlflow.evaluation.intervals import auroc_interval, rate_interval
from hdmap_mlflow.evaluation.metrics import METRICS, NORMAL_QUANTILE, decisions, raw, source_interval, thresholds
from hdmap_mlflow.evaluation.sample import MAPS, Dependence, Sample, counts, dependence, enough
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import AUROC

REPAIR_COUNTS = (0, 1, 5, 10, 50)
REPAIR_DRAWS = 200
FEWEST_LEFT = 5  # good maps that must remain to measure a repaired threshold on
SCALE_FROM = 5  # maps from which on the spread of the target's scores is estimated, too
ALARM = 0.01  # AUROC that clamping may cost before the saturation alarm rings

Numbers = dict[str, float]
Bounds = list[float]  # of a 95 % interval: low, high


# Counts of `good` and `fault` maps, and the bounds of each metric that has some. Where recordings are the sample, also
# the counts `good_recordings` and `fault_recordings`, and of the source `shared_recordings` (with validation maps);
# where these are too few for bounds, under `independent_<metric>` those that independent maps would have.
IntervalCard = dict[str, int | Bounds]


class GroupCard(TypedDict):
    maps: int
    image_AUROC: float
    interval: NotRequired[Bounds]  # absent where there are too few recordings


class ThresholdCard(TypedDict):
    threshold: float
    domains: dict[str, dict[str, float | Bounds]]  # `decisions`, and the intervals of FPR and TPR


class SaturationCard(TypedDict):
    image_AUROC: float
    clamped_AUROC: float
    clamped_fraction: float
    alarm: bool


class Cards(TypedDict, total=False):
    """All cards of a run by domain: `groups` by group, too, and `repair` by number of maps; `thresholds` by name."""

    intervals: dict[str, IntervalCard]
    groups: dict[str, dict[str, GroupCard]]
    thresholds: dict[str, ThresholdCard]
    repair: dict[str, dict[str, Numbers]]
    saturation: dict[str, SaturationCard]
    shift: dict[str, Numbers]
    confounds: dict[str, ConfoundCard]
    severity: dict[str, dict[str, BandCard]]  # by band, from the smallest up
    dependence: dict[str, dict[str, Dependence]]  # by class, where files in their order show some
    adaptation: Document  # see `adaptation.outcome`; absent where there are no reference scores


def build(
    source: Scores,
    targets: Sequence[Scores],
    distances: Mapping[str, Mapping[str, float]] | None = None,
    sample: Sample = MAPS,
) -> Cards:
    """All cards of a run from its scores; `distances` are the label-free distances of each domain from the source.

    `sample` says what intervals take for independent.
    """
    val, sources = source.part("val"), source.apart()
    tables = {scores.domain: scores.part("test") for scores in (*sources, *targets)}
    fitted = thresholds(val)
    certainty = {domain: intervals(table, fitted, sample) for domain, table in tables.items()}
    if sample.name == "recordings":
        for one in sources:
            shared = set(one.part("val")["recording"]) & set(tables[one.domain]["recording"])
            certainty[one.domain]["shared_recordings"] = len(shared)
    if len(sources) > 1:
        certainty[source.domain] = _mean_card(source.part("test"), sample)
    return {
        "intervals": certainty,
        "groups": {domain: card for domain, table in tables.items() if (card := groups(table, sample))},
        "thresholds": {name: threshold_card(tables, value, sample) for name, value in fitted.items()},
        "repair": {domain: curve for domain, table in tables.items() if (curve := repair(val, table))},
        "saturation": {domain: found for domain, table in tables.items() if (found := saturation(val, table))},
        "shift": shift_card(tables, [one.domain for one in sources], distances or {}),
        "confounds": {domain: follows for domain, table in tables.items() if (follows := confounds(table))},
        "severity": {d: of for d, table in tables.items() if (of := bands(table, fitted.get("normal_q99"), sample))},
        "dependence": {domain: alike for domain, table in tables.items() if (alike := dependence(table))},
    }


def bounds_of(cards: Cards, domain: str, metric: str = AUROC) -> Bounds | None:
    """The interval of a domain's metric, if it has one."""
    found = cards.get("intervals", {}).get(domain, {}).get(metric)
    return found if isinstance(found, list) else None


def uncleared(bounds: Sequence[float] | None, bars: Mapping[str, float]) -> str | None:
    """The highest of the named bars that an interval's lower bound does not lie above, in words; None if it clears all.

    What has no interval clears none.
    """
    if not bounds:
        return "the AUROC has no interval"
    name, bar = max(bars.items(), key=lambda item: item[1])
    return None if bounds[0] > bar else f"the interval's lower bound {bounds[0]:.3f} is not above {name} ({bar:.3f})"


def _both(table: pd.DataFrame) -> bool:
    return table["label"].nunique() == 2


def intervals(table: pd.DataFrame, fitted: Mapping[str, float], sample: Sample = MAPS) -> IntervalCard:
    """Counts of maps, and 95 % intervals of the metrics that have one in `METRICS`."""
    label = table["label"].to_numpy(int)
    out: IntervalCard = {"good": int((label == 0).sum()), "fault": int((label == 1).sum())}
    units = sample.units(table)
    for one, count in counts(label, units).items():
        out["fault_recordings" if one else "good_recordings"] = count
    for name, metric in METRICS.items():
        measured = metric.sample(table, fitted)
        if metric.interval and measured:
            of = () if units is None else (units[metric.inside(table)],)
            if enough(measured[0], *of):
                out[name] = metric.interval(*measured, *of).bounds()
            else:
                out[f"independent_{name}"] = metric.interval(*measured).bounds()
    return out


def _mean_card(table: pd.DataFrame, sample: Sample) -> IntervalCard:
    """The same of several sources as one: counts, and the interval of their mean AUROC."""
    label, units = table["label"].to_numpy(int), sample.units(table)
    out: IntervalCard = {"good": int((label == 0).sum()), "fault": int((label == 1).sum())}
    each = table.groupby("domain").indices.values()
    if all(len(np.unique(label[rows])) == 2 for rows in each):
        enough_of_all = all(enough(label[rows], None if units is None else units[rows]) for rows in each)
        key = AUROC if enough_of_all else f"independent_{AUROC}"
        out[key] = source_interval(table, units if enough_of_all else None).bounds()
    return out


def groups(table: pd.DataFrame, sample: Sample = MAPS) -> dict[str, GroupCard]:
    """`image_AUROC` within each group (fault maps of a group against its good maps) with its interval."""
    out: dict[str, GroupCard] = {}
    for name, part in table[table["group"].astype(str) != ""].groupby("group"):
        if _both(part):
            units = sample.units(part)
            found = auroc_interval(*raw(part), units)
            out[str(name)] = {"maps": len(part), "image_AUROC": found.value}
            if enough(raw(part)[0], units):
                out[str(name)]["interval"] = found.bounds()
    return out


def threshold_card(
    tables: Mapping[str, pd.DataFrame],
    threshold: float,
    sample: Sample = MAPS,
) -> ThresholdCard:
    """What one threshold, fitted on the source's validation maps, does to every domain, with Wilson intervals."""
    domains: dict[str, dict[str, float | Bounds]] = {}
    for domain, table in tables.items():
        bounds = {f"{name}_interval": of for name, of in rate_bounds(table, threshold, sample).items()}
        domains[domain] = {**decisions(table, threshold), **bounds}
    return {"threshold": threshold, "domains": domains}


def rate_bounds(table: pd.DataFrame, threshold: float, sample: Sample = MAPS) -> dict[str, Bounds]:
    """Wilson intervals of the FPR and the TPR at a threshold, where a class is there and has recordings enough."""
    label, score = raw(table)
    units, out = sample.units(table), {}
    for name, of in (("FPR", 0), ("TPR", 1)):
        mine = label == of
        within = None if units is None else units[mine]
        if mine.any() and enough(label[mine], within):
            out[name] = rate_interval(score[mine] >= threshold, within).bounds()
    return out


def repair(val: pd.DataFrame, table: pd.DataFrame) -> dict[str, Numbers]:
    """What k unlabelled normal maps of a domain would repair of the 99 % threshold: the curve of FPR and TPR over k.

    The source's quantile is moved by the median of the k scores and, from k = 5 on, scaled by their standard deviation
    against the source's; k = 0 is the transferred threshold itself. Means over 200 seeded draws, measured on the
    maps that were not drawn. It uses target maps, so it is an outlook and never a result of the run.
    """
    normal = raw(val[val["label"] == 0])[1]
    label, score = raw(table)
    good, fault = score[label == 0], score[label == 1]
    threshold = thresholds(val).get("normal_q99")
    if threshold is None or not len(fault):
        return {}
    middle, spread = np.median(normal), normal.std(ddof=1) if len(normal) > 1 else 0.0
    quantile = np.quantile(normal, NORMAL_QUANTILE, method="inverted_cdf")
    rng, out = np.random.default_rng(0), {}
    for k in REPAIR_COUNTS:
        if len(good) - k < FEWEST_LEFT:
            continue
        rates = []
        for _ in range(REPAIR_DRAWS if k else 1):
            order = rng.permutation(len(good))
            drawn, rest = good[order[:k]], good[order[k:]]
            cut = threshold
            if k:
                scale = drawn.std(ddof=1) / spread if k >= SCALE_FROM and spread > 0 else 1.0
                cut = np.nextafter(np.median(drawn) + (quantile - middle) * scale, np.inf)
            rates.append(((rest >= cut).mean(), (fault >= cut).mean()))
        out[str(k)] = dict(zip(("FPR", "TPR"), np.mean(rates, axis=0).tolist(), strict=True))
    return out


def normalised(val: pd.DataFrame, score: np.ndarray) -> np.ndarray:
    """Scores as anomalib's post-processor would give them: source validation range and F1 threshold, clamped to [0, 1].

    `PostProcessor._normalize` of anomalib 2.7: (score - threshold) / (max - min) + 0.5.
    """
    known = raw(val)[1]
    spread = known.max() - known.min()
    centre = thresholds(val)["F1"]
    if spread == 0:
        return np.where(score > centre, 1.0, np.where(score < centre, 0.0, 0.5))
    return np.clip((score - centre) / spread + 0.5, 0, 1)


def saturation(val: pd.DataFrame, table: pd.DataFrame) -> SaturationCard | None:
    """`image_AUROC` beside `clamped_AUROC` (from anomalib-normalised scores), the share at the clamp, and the alarm."""
    if not _both(table) or not _both(val):
        return None
    label, score = raw(table)
    clamped = normalised(val, score)
    before, after = roc_auc_score(label, score), roc_auc_score(label, clamped)
    share = float(((clamped <= 0) | (clamped >= 1)).mean())
    alarm = bool(abs(before - after) > ALARM)
    return {"image_AUROC": before, "clamped_AUROC": after, "clamped_fraction": share, "alarm": alarm}


def shift_card(
    tables: Mapping[str, pd.DataFrame], sources: Sequence[str], distances: Mapping[str, Mapping[str, float]]
) -> dict[str, Numbers]:
    """Label-free distances of each target's normal maps from the source's, against the measured drop of the AUROC.

    Of several sources: from all of their maps, and against their mean AUROC.
    """
    auroc = {d: float(roc_auc_score(*raw(table))) for d, table in tables.items() if _both(table)}
    out = {}
    for domain, found in distances.items():
        out[domain] = dict(found)
        if domain in auroc and all(source in auroc for source in sources):
            out[domain]["AUROC_drop"] = float(np.mean([auroc[source] for source in sources])) - auroc[domain]
    return out
