"""The report's charts as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hdmap_mlflow.report.arrange import Entry, reported
from hdmap_mlflow.report.selection import target_auroc, validation_auroc
from hdmap_mlflow.report.tables import Tables

Points = list[tuple[float, float]]
BLUE, RED, ORANGE, MUTED = "#407dc8", "#d1495b", "#f2a541", "#8d99ae"
NEEDED = {"FPR_at_normal_q99": "FPR at 1 %", "pooled_AUROC": "pooled AUROC", "image_AUROC": "AUROC of each target"}
PALETTE = ("#407dc8", "#2a9d8f", "#d1495b", "#7b5ea7", "#e07a1f", "#5c677d", "#b5838d", "#6a994e")


def charts(tables: Tables) -> dict[str, str]:
    """Caption -> SVG; a chart without data is absent."""
    named = {
        "Mean target AUROC with its 95 % interval (blue), worst target (red), trivial scores (orange).": _board,
        "Does source validation foretell transfer? One point per run.": _foretells,
        "False alarms on each target at the threshold that allows 1 % on the source. One point per run.": _alarms,
        "What k healthy maps of each target bring (mean over runs, targets and draws; bars: sd over draws).": _needed,
    }
    return {caption: svg for caption, draw in named.items() if (svg := draw(tables))}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hdmap"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axis(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = _axes(width, height, 1)
    return figure, axes[0]


def _axes(width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    with matplotlib.rc_context({"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9}):
        figure = Figure((width, height), layout="constrained")
        axes = list(figure.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.2)
    return figure, axes


def _scatter(axis: Axes, tables: Tables, points_of: Callable[[int, Entry], Points]) -> bool:
    """Draw each entry's points in its colour; False where there are none."""
    drawn = False
    for i, entry in enumerate(tables.grid.entries):
        if points := points_of(i, entry):
            colour = PALETTE[i % len(PALETTE)]
            axis.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.7, label=entry.label)
            drawn = True
    return drawn


def _board(tables: Tables) -> str:
    board = [standing for standing in tables.leaderboard if standing.target]
    if not board:
        return ""
    figure, axis = _axis(8, 1.1 + 0.5 * len(board))
    for i, s in enumerate(board):
        assert s.target
        ends = () if s.target.few else (s.target.low, s.target.high)
        axis.plot(ends, [i] * len(ends), color=BLUE, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axis.plot(s.target.value, i, "o", color=BLUE, markersize=8)
        if s.worst:
            axis.plot(s.worst[1], i, "D", color=RED, markersize=6)
    for (name, (mean, _)), style in zip(tables.trivial.items(), ("-", "--", ":"), strict=False):
        axis.axvline(mean, color=ORANGE, linestyle=style, linewidth=1.5, label=f"trivial: {name}")
    axis.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.2, label="chance")
    axis.set(yticks=range(len(board)), ylim=(len(board) - 0.5, -0.5), xlabel="image AUROC on targets")
    axis.set_yticklabels([s.label for s in board])
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _foretells(tables: Tables) -> str:
    def points(_: int, entry: Entry) -> Points:
        values = [(validation_auroc([run]), target_auroc([run])) for run in entry.runs.values()]
        return [(before, after) for before, after in values if before is not None and after is not None]

    figure, axis = _axis(6.4, 4)
    if not _scatter(axis, tables, points):
        return ""
    low, high = min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=":", label="no loss")
    axis.set(xlabel="AUROC on source validation", ylabel="mean AUROC on targets", xlim=(low, high), ylim=(low, high))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _alarms(tables: Tables) -> str:
    from hdmap_mlflow.evaluation.metrics import image_metrics, thresholds

    domains, count = tables.grid.domains, len(tables.grid.entries)

    def points(i: int, entry: Entry) -> Points:
        found, beside = [], (i - (count - 1) / 2) * 0.6 / count
        for run in entry.runs.values():
            cuts = thresholds(run.part("val", run.source))
            rates = {d: image_metrics(reported(run, d), cuts).get("FPR_at_normal_q99") for d in run.targets}
            found += [(domains.index(d) + beside, rate) for d, rate in rates.items() if rate is not None]
        return found

    figure, axis = _axis(8, 3.4)
    if not _scatter(axis, tables, points):
        return ""
    axis.axhline(0.01, color=ORANGE, linewidth=1.5, label="1 %, as on the source")
    axis.set(xticks=range(len(domains)), ylabel="realised FPR", ylim=(-0.03, 1.03), xlabel="target")
    axis.set_xticklabels(domains)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _needed(tables: Tables) -> str:
    if not tables.curves:
        return ""
    ticks = sorted({k for curve in tables.curves for k in curve.points})
    figure, axes = _axes(11, 3.4, 3)
    for axis, (metric, words) in zip(axes, NEEDED.items(), strict=True):
        for i, curve in enumerate(tables.curves):
            drawn = {ticks.index(k): point for k, point in curve.points.items() if metric in point}
            bars = [point.get(f"{metric}_sd", 0.0) for point in drawn.values()]
            colour, name = PALETTE[i % len(PALETTE)], f"{curve.label}, {curve.chain}"
            axis.errorbar(
                list(drawn), [p[metric] for p in drawn.values()], bars, fmt="o-", color=colour, capsize=2, label=name
            )
        axis.set(xticks=range(len(ticks)), xlabel="k", ylabel=words)
        axis.set_xticklabels(map(str, ticks))
        if "AUROC" not in metric:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    axes[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)
