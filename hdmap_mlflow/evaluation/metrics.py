"""What is measured from scores: the table of the metrics, and pure functions that fill it in.

A metric that a domain cannot have (one class only) is absent from the result, never 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    roc_auc_score,
    roc_curve,
)

from hdmap_mlflow.data.sources import apart
from hdmap_mlflow.evaluation.intervals import Interval, auroc_interval, mean_interval
from hdmap_mlflow.evaluation.pooled import over_domains, over_states, partial_auroc
from hdmap_mlflow.evaluation.resampled import ap_interval, pauroc_interval
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import AUROC, MEAN_AUROC, ROW, Scope, metric_name, source_scope, target_scope

NORMAL_QUANTILE = 0.99
NORMAL_QUANTILES = {"normal_q99": NORMAL_QUANTILE, "normal_q95": 0.95}  # thresholds of a nominal FPR of 1 % and 5 %
TRIVIAL = {
    "image_max": "image maximum",
    "image_mean": "image mean",
    "image_row": "row ratio",
}  # training-free scores, by their column


def tpr_at_fpr(label: np.ndarray, score: np.ndarray, limit: float = 0.01) -> float:
    """The largest TPR whose FPR is at most `limit`."""
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return tpr[fpr <= limit].max()


def tpr_at_5fpr(label: np.ndarray, score: np.ndarray) -> float:
    """The largest TPR whose FPR is at most .05."""
    return tpr_at_fpr(label, score, 0.05)


def fpr_at_tpr(label: np.ndarray, score: np.ndarray, least: float = 0.95) -> float:
    """The smallest FPR whose TPR is at least `least`."""
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return fpr[tpr >= least].min()


def share(label: np.ndarray, alarm: np.ndarray) -> float:
    """The share of alarms among maps of one class: the FPR of good maps, the TPR of fault maps."""
    return alarm.mean()


@dataclass(frozen=True)
class Metric:
    """How a metric is measured, joined and shown.

    `measure` and `interval` take labels and what is measured, both (n,): the column `of` of a domain's table, or with
    `threshold` the alarms at that threshold of `thresholds`. None: it needs masks, and is measured while maps are
    scored. `classes` are the labels that must be there, or the one that is measured. `joins` are the scopes under which
    it is joined over the targets; `heading` names its column in a run's table, which leaves out a metric without one.
    `interval` takes the recordings of the maps as well, where these are the sample.
    """

    measure: Callable[[np.ndarray, np.ndarray], float] | None
    of: str = "score"
    threshold: str = ""
    classes: tuple[int, ...] = (0, 1)
    higher_is_better: bool = True
    joins: tuple[str, ...] = ()
    interval: Callable[..., Interval] | None = None
    heading: str = ""
    chooses: bool = False  # also measured on the validation maps, where a choice may need it

    def sample(self, table: pd.DataFrame, fitted: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray] | None:
        """Labels and measured values of a domain's maps; None where a class, the threshold or the masks are missing.

        So it is where a value is: older tables have no row ratio, and maps around 0 have none.
        """
        if self.of not in table or table[self.of].isna().any():
            return None
        label, values = table["label"].to_numpy(int), table[self.of].to_numpy(np.float64)
        if self.measure is None or (self.threshold and self.threshold not in fitted):
            return None
        if not all((label == one).any() for one in self.classes):
            return None
        inside = self.inside(table)
        return label[inside], (values >= fitted[self.threshold] if self.threshold else values)[inside]

    def inside(self, table: pd.DataFrame) -> np.ndarray:
        """Which maps of a table are measured, bool (n,)."""
        return table["label"].isin(self.classes).to_numpy()


# All are in [0, 1]. What is added here is in the record, in the cards, in a run's table and in the report's CSV.
METRICS: dict[str, Metric] = {
    AUROC: Metric(
        roc_auc_score,
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
        interval=auroc_interval,
        heading="AUROC",
        chooses=True,
    ),
    "image_AP": Metric(average_precision_score, interval=ap_interval, heading="AP", chooses=True),
    "image_pAUROC": Metric(partial_auroc, interval=pauroc_interval),
    "image_TPR_at_1FPR": Metric(tpr_at_fpr),
    "image_TPR_at_5FPR": Metric(tpr_at_5fpr),
    "image_FPR_at_95TPR": Metric(fpr_at_tpr, higher_is_better=False),
    "image_F1": Metric(f1_score, threshold="F1", heading="F1", chooses=True),
    "FPR_at_normal_q99": Metric(
        share,
        threshold="normal_q99",
        classes=(0,),
        higher_is_better=False,
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
        heading="FPR",
    ),
    "TPR_at_normal_q99": Metric(
        share,
        threshold="normal_q99",
        classes=(1,),
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
        heading="TPR",
    ),
    "FPR_at_normal_q95": Metric(
        share,
        threshold="normal_q95",
        classes=(0,),
        higher_is_better=False,
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
    ),
    "TPR_at_normal_q95": Metric(
        share,
        threshold="normal_q95",
        classes=(1,),
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
    ),
    "baseline_max_AUROC": Metric(roc_auc_score, of="image_max", heading="image max"),
    "baseline_mean_AUROC": Metric(roc_auc_score, of="image_mean", heading="image mean"),
    ROW: Metric(roc_auc_score, of="image_row", heading="row ratio"),
    "pixel_AUROC": Metric(None),
    "pixel_AUPRO": Metric(None),
}


def raw(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels (0, 1) and scores of a table in float64, in which thresholds are compared."""
    return table["label"].to_numpy(int), table["score"].to_numpy(np.float64)


def thresholds(val: pd.DataFrame) -> dict[str, float]:
    """Decision thresholds fitted on source validation scores only: score >= threshold means fault.

    `normal_q99`, `normal_q95`: just above the 99 % or 95 % quantile of the normal maps (an observed score, so that at
    most 1 % or 5 % of them lie above); `F1`: the observed score of the best F1; `youden`: that of the largest
    TPR - FPR. A threshold that needs a class which the maps lack is absent.
    """
    label, score = raw(val)
    out = {}
    if (label == 0).any():
        for name, share_below in NORMAL_QUANTILES.items():
            quantile = np.quantile(score[label == 0], share_below, method="inverted_cdf")
            out[name] = float(np.nextafter(quantile, np.inf))
    if len(np.unique(label)) == 2:
        precision, recall, cuts = precision_recall_curve(label, score)
        f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
        out["F1"] = float(cuts[np.argmax(f1[:-1])])
        fpr, tpr, cuts = roc_curve(label, score, drop_intermediate=False)
        out["youden"] = float(cuts[1:][np.argmax((tpr - fpr)[1:])])
    return out


def image_metrics(
    table: pd.DataFrame, fitted: Mapping[str, float] | None = None, names: Iterable[str] = METRICS
) -> dict[str, float]:
    """Those of the metrics `names` that one domain's maps can have, with thresholds fitted elsewhere.

    Of several sources each is the mean over them, of those that all of them have.
    """
    out: dict[str, float] = {}
    if "domain" in table:
        return over_sources([image_metrics(one, fitted, names) for one in apart(table, "").values()])
    for name in names:
        metric = METRICS[name]
        sample = metric.sample(table, fitted or {})
        if metric.measure and sample:
            out[name] = float(metric.measure(*sample))
    return out


def over_sources(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means over several sources of what all of them have."""
    return {name: float(np.mean([of[name] for of in each])) for name in each[0] if all(name in of for of in each)}


def decisions(table: pd.DataFrame, threshold: float) -> dict[str, float]:
    """What a threshold does to a domain's maps: FPR, TPR, F1, precision, accuracy, balanced_accuracy, in [0, 1].

    TPR is the recall. What needs a class that the maps lack is absent, and so is the precision of no alarm at all.
    """
    label, score = raw(table)
    alarm = score >= threshold
    out = {"accuracy": (alarm == label).mean()} if len(label) else {}
    if (label == 0).any():
        out["FPR"] = alarm[label == 0].mean()
    if (label == 1).any():
        out["TPR"] = alarm[label == 1].mean()
    if len(np.unique(label)) == 2:
        out |= {"F1": f1_score(label, alarm), "balanced_accuracy": balanced_accuracy_score(label, alarm)}
        if alarm.any():
            out["precision"] = precision_score(label, alarm)
    return {name: float(value) for name, value in out.items()}


def join_targets(targets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of all targets joined, over those that have them: their mean, and that of the worst target."""
    out: dict[str, float] = {}
    for name, metric in METRICS.items():
        values = [found[name] for found in targets.values() if name in found]
        if values:
            worst = min(values) if metric.higher_is_better else max(values)
            joined = {Scope.TARGET_MEAN: float(np.mean(values)), Scope.TARGET_WORST: worst}
            out |= {metric_name(scope, name): joined[scope] for scope in metric.joins}
    return out


def carry_over(source: float | None, target: float | None, low: float | None = None) -> dict[str, float]:
    """How an AUROC carries over from the source to the mean target; what is undefined is absent.

    `ratio` = target / source, `gap` = source - target, `skill` = (target - .5) / (source - .5), which a source does
    not have that is not better than chance, by the lower bound `low` of its interval where one is given.
    """
    if not source or target is None:
        return {}
    skill = {"skill": (target - 0.5) / (source - 0.5)} if (source if low is None else low) > 0.5 else {}
    return {"ratio": target / source, "gap": source - target} | skill


def source_interval(table: pd.DataFrame, units: np.ndarray | None = None) -> Interval:
    """The AUROC of the source's maps with its 95 % interval; of several sources their mean. `units`: recordings."""
    if "domain" not in table:
        return auroc_interval(*raw(table), units)
    parts = {str(name): np.flatnonzero(table["domain"] == name) for name in table["domain"].unique()}
    cells = {name: raw(table.iloc[rows]) for name, rows in parts.items()}
    return mean_interval(cells, None if units is None else {name: units[rows] for name, rows in parts.items()})


def transfer(
    source: Mapping[str, float], targets: Mapping[str, Mapping[str, float]], low: float | None = None
) -> dict[str, float]:
    """All targets' metrics joined, and how the AUROC carries over to them, by full name; `low` as in `carry_over`."""
    joined = join_targets(targets)
    carried = carry_over(source.get(AUROC), joined.get(MEAN_AUROC), low)
    return joined | {metric_name(Scope.TRANSFER, name): value for name, value in carried.items()}


def grade(ratio: float) -> str:
    """The guideline's word for a transfer ratio."""
    return "excellent" if ratio > 0.9 else "good" if ratio > 0.8 else "fair" if ratio > 0.7 else "poor"


def summary(source: Scores, targets: list[Scores]) -> dict[str, float]:
    """Every metric of a run from its scores alone, under its full name."""
    val, reported = source.part("val"), source.part("test")
    fitted = thresholds(val)
    chosen = {name: value for name, value in image_metrics(val, fitted).items() if METRICS[name].chooses}
    sources = {one.domain: image_metrics(one.part("test"), fitted) | dict(one.pixel) for one in source.apart()}
    own = over_sources([*sources.values()])
    per_target = {one.domain: image_metrics(one.part("test"), fitted) | dict(one.pixel) for one in targets}
    scopes = {Scope.VAL: {f"threshold_{name}": value for name, value in fitted.items()} | chosen, Scope.SOURCE: own}
    scopes |= {source_scope(domain): values for domain, values in sources.items() if len(sources) > 1}
    scopes |= {target_scope(domain): values for domain, values in per_target.items()}
    out = {metric_name(scope, name): value for scope, values in scopes.items() for name, value in values.items()}
    low = source_interval(reported).low if AUROC in own else None
    tables = {one.domain: one.part("test") for one in (*source.apart(), *targets)}
    for domain, table in tables.items():
        out |= over_states(domain, table)
    return out | transfer(own, per_target, low) | over_domains(tables)
