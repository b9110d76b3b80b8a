"""Scores -> matplotlib figures that a person can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import roc_auc_score, roc_curve

from hdmap_mlflow.evaluation.cards import Cards
from hdmap_mlflow.evaluation.metrics import raw, thresholds
from hdmap_mlflow.evaluation.scoring import Scores

GOOD, FAULT, ACCENT, MUTED = "#3b7dd8", "#d1495b", "#1b1b1e", "#8d99ae"
NAMES = {"normal_q99": "99 % of normals", "normal_q95": "95 % of normals", "F1": "best F1", "youden": "Youden"}
DASHES = {"normal_q99": "-", "normal_q95": "-.", "F1": "--", "youden": ":"}
SIMULATED = "simulated maps"
Bars = Sequence[tuple[str, float, Sequence[float]]]  # domain, AUROC and its interval, the source first
Curves = Mapping[str, Mapping[str, Mapping[str, float]]]  # domain -> k -> rates
# chain -> k -> domain -> metric -> mean and sd over draws (`AdaptationCard`)
Adaptation = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]]
CURVE = (  # of an adapted run: where its card has it, in words, and the nominal rate
    ("target_mean", "image_AUROC", "AUROC of each target", 0),
    ("target_mean", "FPR_at_normal_q99", "false alarms where 1 % is allowed", 0.01),
    ("target_mean", "TPR_at_normal_q99", "faults found there", 0),
    ("pooled", "image_AUROC", "AUROC of all domains on one scale", 0),
    ("target_mean", "FPR_at_normal_q95", "false alarms where 5 % is allowed", 0.05),
    ("target_mean", "TPR_at_normal_q95", "faults found there", 0),
)


def of_run(
    name: str,
    scores: Sequence[Scores],
    bars: Bars,
    baselines: Mapping[str, float],
    cards: Cards,
    simulated: bool,
) -> Iterator[tuple[str, Figure]]:
    """Path below the run's folder, and figure: scores and ROC of every domain, the source first, transfer, repair."""
    fitted = thresholds(scores[0].part("val"))
    of_roles = [(part, "target" if i else "source") for i, one in enumerate(scores) for part in one.apart()]
    for part, role in of_roles:
        yield (
            f"figures/scores_{part.domain}.png",
            score_figure(part.domain, role, part.part("test"), fitted, simulated),
        )
    if bars:
        yield "figures/transfer.png", transfer_figure(name, bars, baselines, simulated)
    if repair := cards["repair"]:
        yield "figures/repair.png", repair_figure(repair, simulated)
    if adaptation := cards.get("adaptation"):
        yield "figures/adaptation.png", adaptation_figure(name, adaptation["curve"], simulated)


def _figure(
    width: float, height: float, title: str, simulated: bool, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    figure = Figure((width, height), layout="constrained" if columns == 1 else None)
    if columns > 1:  # a layout engine draws every text twice; these axes have short labels
        figure.subplots_adjust(0.065, 0.56 / height, 0.985, 1 - 0.6 / height, wspace=0.18, hspace=0.3)
    size = min(12.0, 12 * 52 / len(title) * width / 7.5)  # a run of several sources has a long name
    figure.suptitle(title, fontsize=size, fontweight="bold", x=0.01, ha="left")
    if simulated:
        figure.text(0.995, 0.985, SIMULATED, ha="right", va="top", fontsize=9, color=FAULT)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
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


def adaptation_figure(name: str, curves: Adaptation, simulated: bool = False) -> Figure:
    """What k healthy maps of each target bring (`AdaptationCard`): means over targets, bars +- sd over draws."""
    figure, axes = _figure(12, 6.6, f"{name}: how many healthy maps does a machine need?", simulated, 3, 2)
    ticks = sorted({int(k) for curve in curves.values() for k in curve})
    for axis, (domain, metric, words, nominal) in zip(axes, CURVE, strict=True):
        for i, (chain, curve) in enumerate(curves.items()):
            found = {int(k): at[domain][metric] for k, at in curve.items() if metric in at.get(domain, {})}
            at = [ticks.index(k) + (i - (len(curves) - 1) / 2) * 0.07 for k in found]
            means, spread = [one["mean"] for one in found.values()], [one.get("sd", 0.0) for one in found.values()]
            axis.errorbar(at, means, spread, fmt="o-", markersize=4, capsize=2, linewidth=1.2, label=chain)
        if nominal:
            axis.axhline(nominal, color=ACCENT, linestyle=":", linewidth=1)
        if "AUROC" not in metric:
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.set(xticks=range(len(ticks)))
        axis.set_xticklabels(map(str, ticks))
        axis.set_title(words, fontsize=9, loc="left")
        axis.grid(axis="y", alpha=0.25)
    for axis in axes[3:]:
        axis.set_xlabel("k healthy maps of each target (0: source only)", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    return figure
