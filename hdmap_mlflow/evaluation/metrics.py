"""Pure functions of scores: what is measured, and what each measurement is called.

A metric that a domain cannot have (one class only) is absent from the result, never 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

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

from hdmap_mlflow.evaluation.scoring import Scores

NORMAL_QUANTILE = 0.99
THRESHOLDS = ("normal_q99", "F1", "youden")


def metric_name(scope: str, name: str) -> str:
    """`<scope>/<name>`; scopes are val, source, target/<domain>, target_mean, target_worst, transfer, train, epoch."""
    return f"{scope}/{name}"


def target_scope(domain: str) -> str:
    return f"target/{domain}"


def raw(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Labels (0, 1) and scores of a table in float64, in which thresholds are compared."""
    return table["label"].to_numpy(int), table["score"].to_numpy(np.float64)


def thresholds(val: pd.DataFrame) -> dict[str, float]:
    """Decision thresholds fitted on source validation scores only: score >= threshold means fault.

    `normal_q99`: just above the 99 % quantile of the normal maps (an observed score, so that at most 1 % of them lie
    above); `F1`: the observed score of the best F1; `youden`: that of the largest TPR - FPR. A threshold that needs a
    class which the maps lack is absent.
    """
    label, score = raw(val)
    out = {}
    if (label == 0).any():
        quantile = np.quantile(score[label == 0], NORMAL_QUANTILE, method="inverted_cdf")
        out["normal_q99"] = float(np.nextafter(quantile, np.inf))
    if len(np.unique(label)) == 2:
        precision, recall, cuts = precision_recall_curve(label, score)
        f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
        out["F1"] = float(cuts[np.argmax(f1[:-1])])
        fpr, tpr, cuts = roc_curve(label, score, drop_intermediate=False)
        out["youden"] = float(cuts[1:][np.argmax((tpr - fpr)[1:])])
    return out


def image_metrics(table: pd.DataFrame, fitted: Mapping[str, float] | None = None) -> dict[str, float]:
    """Image-level metrics of one domain's maps, all in [0, 1].

    `image_AUROC`, `image_AP`, `image_TPR_at_1FPR` (the largest TPR whose FPR is at most 1 %), `image_FPR_at_95TPR`, and
    the trivial baselines `baseline_max_AUROC` (image maximum as the score) and `baseline_mean_AUROC` (image mean).
    With thresholds fitted elsewhere: `image_F1` at `F1`, and the realised `FPR_at_normal_q99` and `TPR_at_normal_q99`.
    """
    label, score = raw(table)
    out = {}
    if len(np.unique(label)) == 2:
        fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
        out = {
            "image_AUROC": roc_auc_score(label, score),
            "image_AP": average_precision_score(label, score),
            "image_TPR_at_1FPR": tpr[fpr <= 0.01].max(),
            "image_FPR_at_95TPR": fpr[tpr >= 0.95].min(),
            "baseline_max_AUROC": roc_auc_score(label, table["image_max"]),
            "baseline_mean_AUROC": roc_auc_score(label, table["image_mean"]),
        }
        if fitted and "F1" in fitted:
            out["image_F1"] = f1_score(label, score >= fitted["F1"])
    if fitted and "normal_q99" in fitted:
        realised = decisions(table, fitted["normal_q99"])
        out |= {f"{name}_at_normal_q99": realised[name] for name in ("FPR", "TPR") if name in realised}
    return {name: float(value) for name, value in out.items()}


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


def transfer(source: Mapping[str, float], targets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How the image AUROC carries over from the source to the targets that have one.

    `transfer/ratio` = mean target / source, `transfer/gap` = source - mean target, `transfer/skill` =
    (mean target - .5) / (source - .5), left out where the source is not better than chance. Beside them the mean of the
    targets' realised FPR at the transferred threshold.
    """
    out = {}
    false_alarms = [values["FPR_at_normal_q99"] for values in targets.values() if "FPR_at_normal_q99" in values]
    if false_alarms:
        out[metric_name("target_mean", "FPR_at_normal_q99")] = float(np.mean(false_alarms))
    defined = [values["image_AUROC"] for values in targets.values() if "image_AUROC" in values]
    if not defined:
        return out
    mean, worst = float(np.mean(defined)), min(defined)
    out |= {metric_name("target_mean", "image_AUROC"): mean, metric_name("target_worst", "image_AUROC"): worst}
    auroc = source.get("image_AUROC")
    if auroc:
        out |= {metric_name("transfer", "ratio"): mean / auroc, metric_name("transfer", "gap"): auroc - mean}
        if auroc > 0.5:
            out[metric_name("transfer", "skill")] = (mean - 0.5) / (auroc - 0.5)
    return out


def grade(ratio: float) -> str:
    """The guideline's word for a transfer ratio."""
    return "excellent" if ratio > 0.9 else "good" if ratio > 0.8 else "fair" if ratio > 0.7 else "poor"


def summary(source: Scores, targets: list[Scores]) -> dict[str, float]:
    """Every metric of a run from its scores alone, under its full name."""
    val, reported = source.part("val"), source.part("test")
    fitted = thresholds(val)
    few = ("image_AUROC", "image_AP", "image_F1")  # what a choice by validation needs
    per_scope = {"val": {name: value for name, value in image_metrics(val, fitted).items() if name in few}}
    per_scope |= {"source": image_metrics(reported, fitted) | dict(source.pixel)}
    per_target = {one.domain: image_metrics(one.part("test"), fitted) | dict(one.pixel) for one in targets}
    per_scope |= {target_scope(domain): values for domain, values in per_target.items()}
    out = {metric_name("val", f"threshold_{name}"): value for name, value in fitted.items()}
    out |= {metric_name(scope, name): value for scope, values in per_scope.items() for name, value in values.items()}
    return out | transfer(per_scope["source"], per_target)
