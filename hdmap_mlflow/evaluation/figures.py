"""Scores -> matplotlib figures that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import roc_auc_score, roc_curve

from hdmap_mlflow.evaluation.metrics import raw, thresholds
from hdmap_mlflow.evaluation.scoring import Scores

GOOD, FAULT, ACCENT, MUTED = "#3b7dd8", "#d1495b", "#1b1b1e", "#8d99ae"
NAMES = {"normal_q99": "99 % of normals", "normal_q95": "95 % of normals", "F1": "best F1", "youden": "Youden"}
DASHES = {"normal_q99": "-", "normal_q95": "-.", "F1": "--", "youden": ":"}
SIMULATED = "simulated maps"
Bars = Sequence[tuple[str, float, Sequence[float]]]  # domain, AUROC and its interval, the source first
Curves = Mapping[str, Mapping[str, Mapping[str, float]]]  # domain -> k -> rates


def of_run(
    name: str, scores: Sequence[Scores], bars: Bars, baselines: Mapping[str, float], repair: Curves, simulated: bool
) -> Iterator[tuple[str, Figure]]:
    """Path below the run's folder, and figure: scores and ROC of every domain, the source first, transfer, repair."""
    fitted = thresholds(scores[0].part("val"))
    for i, one in enumerate(scores):
        figure = score_figure(one.domain, "target" if i else "source", one.part("test"), fitted, simulated)
        yield f"figures/scores_{one.domain}.png", figure
    if bars:
        yield "figures/transfer.png", transfer_figure(name, bars, baselines, simulated)
    if repair:
        yield "figures/repair.png", repair_figure(repair, simulated)


def _figure(width: float, height: float, title: str, simulated: bool, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), layout="constrained" if columns == 1 else None)
    if columns > 1:  # a layout engine draws every text twice; these axes have short labels
        figure.subplots_adjust(0.065, 0.56 / height, 0.985, 1 - 0.6 / height, wspace=0.18)
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    if simulated:
        figure.text(0.995, 0.985, SIMULATED, ha="right", va="top", fontsize=9, color=FAULT)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, list(axes)


def score_figure(
    domain: str, role: str, table: pd.DataFrame, thresholds: Mapping[str, float], simulated: bool = False
) -> Figure:
    """Histogram of a domain's scores by label and its ROC curve, with the source's thresholds in both."""
    label, score = raw(table)
    figure, (histogram, curve) = _figure(10, 4, f"{domain} ({role}): {len(table)} maps", simulated, 2)
    low, high = min(score.min(), *thresholds.values()), max(score.max(), *thresholds.values())
    bins = np.linspace(low, high if high > low else low + 1, 41).tolist()
    for value, colour, name in ((0, GOOD, "good"), (1, FAULT, "fault")):
        if (label == value).any():
            count = int((label == value).sum())
            histogram.hist(score[label == value], bins, color=colour, alpha=0.6, label=f"{name} ({count})")
    for name, cut in thresholds.items():
        histogram.axvline(cut, color=ACCENT, linestyle=DASHES[name], linewidth=1.3, label=f"threshold: {NAMES[name]}")
    histogram.set(xlabel="raw anomaly score", ylabel="maps")
    histogram.set_title("thresholds come from the source's validation maps", fontsize=9, color=MUTED, loc="left")
    histogram.legend(fontsize=8, frameon=False)
    _roc(curve, label, score, thresholds)
    return figure


def _roc(axis: Axes, label: np.ndarray, score: np.ndarray, thresholds: Mapping[str, float]) -> None:
    if len(np.unique(label)) < 2:
        axis.axis("off")
        axis.text(0.5, 0.5, "one class only:\nno ROC curve", ha="center", va="center", color=MUTED)
        return
    fpr, tpr, _ = roc_curve(label, score)
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    axis.plot(fpr, tpr, color=ACCENT, linewidth=1.6, label=f"AUROC {roc_auc_score(label, score):.3f}")
    for (name, cut), marker in zip(thresholds.items(), "osD", strict=False):
        point = (score[label == 0] >= cut).mean(), (score[label == 1] >= cut).mean()
        text = f"{NAMES[name]}: FPR {point[0]:.0%}, TPR {point[1]:.0%}"
        axis.plot(*point, marker, color=FAULT, markersize=6, clip_on=False, label=text)
    axis.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
    axis.set_aspect("equal")
    axis.legend(fontsize=8, frameon=False, loc="lower right")


def transfer_figure(name: str, rows: Bars, baselines: Mapping[str, float], simulated: bool = False) -> Figure:
    """AUROC of every domain with its interval; ticks mark `baselines`, the best of the trivial scores' AUROC."""
    figure, (axis,) = _figure(7.5, 1.4 + 0.5 * len(rows), f"{name}: image AUROC", simulated)
    for i, (domain, auroc, (low, high)) in enumerate(rows):
        axis.barh(i, auroc, color=ACCENT if i == 0 else GOOD, alpha=0.85, height=0.6)
        axis.plot([low, high], [i, i], color=FAULT, linewidth=2)
        axis.text(max(high, auroc) + 0.01, i, f"{auroc:.3f}", va="center", fontsize=10)
        if domain in baselines:
            axis.plot([baselines[domain]] * 2, [i - 0.38, i + 0.38], color="#f2a541", linewidth=3)
    axis.axvline(0.5, color=MUTED, linestyle=":", linewidth=1)
    axis.set(yticks=range(len(rows)), xlim=(0, 1.1), ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticklabels([f"{domain} (source)" if i == 0 else domain for i, (domain, *_) in enumerate(rows)])
    axis.set_xlabel("red: 95 % interval;  orange: best trivial score (image maximum, mean or row ratio)", fontsize=9)
    return figure


def repair_figure(curves: Curves, simulated: bool = False) -> Figure:
    """FPR and TPR of a domain's re-fitted 99 % threshold over k unlabelled normal maps (`cards.repair`)."""
    title = "What k unlabelled target normals would repair (99 % threshold)"
    figure, axes = _figure(9, 3.6, title, simulated, 2)
    for axis, rate, long in zip(axes, ("FPR", "TPR"), ("false alarms", "faults found"), strict=True):
        ticks = sorted({int(k) for curve in curves.values() for k in curve})
        for domain, curve in curves.items():
            axis.plot([ticks.index(int(k)) for k in curve], [c[rate] for c in curve.values()], "o-", label=domain)
        axis.set(xticks=range(len(ticks)), xlabel="k (0: as transferred)", ylim=(-0.02, 1.02))
        axis.set_xticklabels(map(str, ticks))
        axis.set_title(f"{rate}: {long}", fontsize=10, loc="left")
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.grid(axis="y", alpha=0.25)
    axes[0].legend(fontsize=8, frameon=False)
    return figure
