"""Pure functions of scores: what is measured, and what each measurement is called.

A metric that a domain cannot have (one class only) is absent from the result, never 0 or NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from hdmap_mlflow.evaluate import Scores

NORMAL_QUANTILE = 0.99


def metric_name(scope: str, name: str) -> str:
    """`<scope>/<name>`; scopes are val, source, target/<domain>, target_mean, target_worst, transfer, train, epoch."""
    return f"{scope}/{name}"


def target_scope(domain: str) -> str:
    return f"target/{domain}"


def thresholds(val: pd.DataFrame) -> dict[str, float]:
    """Decision thresholds fitted on source validation scores only: score >= threshold means fault.

    `normal_q99`: 99 % quantile of the normal maps; `F1`: the threshold of the best F1.
    """
    normal = val.loc[val["label"] == 0, "score"]
    precision, recall, cuts = precision_recall_curve(val["label"], val["score"])
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return {"normal_q99": float(np.quantile(normal, NORMAL_QUANTILE)), "F1": float(cuts[np.argmax(f1[:-1])])}


def image_metrics(table: pd.DataFrame, threshold: float | None = None) -> dict[str, float]:
    """Image-level metrics of one domain's maps, all in [0, 1].

    `image_AUROC`, `image_AP`, `image_F1` at a given threshold, and the trivial baselines `baseline_max_AUROC`
    (image maximum as the score) and `baseline_mean_AUROC` (image mean).
    """
    label = table["label"].to_numpy()
    if len(np.unique(label)) < 2:
        return {}
    out = {
        "image_AUROC": roc_auc_score(label, table["score"]),
        "image_AP": average_precision_score(label, table["score"]),
        "baseline_max_AUROC": roc_auc_score(label, table["image_max"]),
        "baseline_mean_AUROC": roc_auc_score(label, table["image_mean"]),
    }
    if threshold is not None:
        out["image_F1"] = f1_score(label, table["score"] >= threshold)
    return {name: float(value) for name, value in out.items()}


def transfer(source: Mapping[str, float], targets: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How the image AUROC carries over from the source to the targets that have one.

    `transfer/ratio` = mean target / source, `transfer/gap` = source - mean target, `transfer/skill` =
    (mean target - .5) / (source - .5), left out where the source is not better than chance.
    """
    defined = [values["image_AUROC"] for values in targets.values() if "image_AUROC" in values]
    if not defined:
        return {}
    mean, worst = float(np.mean(defined)), min(defined)
    out = {metric_name("target_mean", "image_AUROC"): mean, metric_name("target_worst", "image_AUROC"): worst}
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
    threshold = fitted["F1"]
    per_scope = {"val": image_metrics(val, threshold), "source": image_metrics(reported, threshold)}
    per_target = {scores.domain: image_metrics(scores.part("test"), threshold) for scores in targets}
    per_scope |= {target_scope(domain): values for domain, values in per_target.items()}
    out = {metric_name("val", f"threshold_{name}"): value for name, value in fitted.items()}
    out |= {metric_name(scope, name): value for scope, values in per_scope.items() for name, value in values.items()}
    return out | transfer(per_scope["source"], per_target)
