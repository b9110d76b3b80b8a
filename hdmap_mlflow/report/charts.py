"""The report's charts as inline SVG."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hdmap_mlflow.report.arrange import auroc, reported
from hdmap_mlflow.report.tables import Tables

BLUE, RED, ORANGE, MUTED = "#407dc8", "#d1495b", "#f2a541", "#8d99ae"
PALETTE = ("#407dc8", "#2a9d8f", "#d1495b", "#7b5ea7", "#e07a1f", "#5c677d", "#b5838d", "#6a994e")


def charts(tables: Tables) -> dict[str, str]:
    """Caption -> SVG; a chart without data is absent."""
    named = {
        "Mean target AUROC with its 95 % interval (blue), worst target (red), trivial scores (orange).": _board,
        "Does source validation foretell transfer? One point a run.": _foretells,
        "False alarms on each target at the threshold that allows 1 % on the source. One point a run.": _alarms,
    }
    return {caption: svg for caption, draw in named.items() if (svg := draw(tables))}


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hdmap"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float, height: float):  # noqa: ANN202
    with matplotlib.rc_context({"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.size": 9}):
        figure = Figure((width, height), layout="constrained")
        axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.2)
    return figure, axis


def _colours(tables: Tables) -> dict[str, str]:
    return {entry.label: PALETTE[i % len(PALETTE)] for i, entry in enumerate(tables.grid.entries)}


def _board(tables: Tables) -> str:
    board = [standing for standing in tables.leaderboard if standing.target]
    if not board:
        return ""
    figure, axis = _axes(8, 1.1 + 0.5 * len(board))
    for i, s in enumerate(board):
        assert s.target
        axis.plot([s.target.low, s.target.high], [i, i], color=BLUE, linewidth=5, alpha=0.45, solid_capstyle="butt")
        axis.plot(s.target.value, i, "o", color=BLUE, markersize=8)
        if s.worst:
            axis.plot(s.worst[1], i, "D", color=RED, markersize=6)
    for (name, (mean, _)), style in zip(tables.trivial.items(), ("-", "--"), strict=False):
        axis.axvline(mean, color=ORANGE, linestyle=style, linewidth=1.5, label=f"trivial: {name}")
    axis.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.2, label="chance")
    axis.set(yticks=range(len(board)), ylim=(len(board) - 0.5, -0.5), xlabel="image AUROC on targets")
    axis.set_yticklabels([s.label for s in board])
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _foretells(tables: Tables) -> str:
    figure, axis = _axes(6.4, 4)
    drawn, colours = False, _colours(tables)
    for entry in tables.grid.entries:
        points = []
        for run in entry.runs.values():
            val = auroc(run.part("val", run.source))
            found = [v for d in run.targets if (v := auroc(reported(run, d))) is not None]
            if val is not None and found:
                points.append((val, float(np.mean(found))))
        if points:
            drawn = True
            axis.plot(*zip(*points, strict=True), "o", color=colours[entry.label], alpha=0.8, label=entry.label)
    if not drawn:
        return ""
    low, high = min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.plot([low, high], [low, high], color=MUTED, linewidth=0.8, linestyle=":", label="no loss")
    axis.set(xlabel="AUROC on source validation", ylabel="mean AUROC on targets", xlim=(low, high), ylim=(low, high))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def _alarms(tables: Tables) -> str:
    from hdmap_mlflow.evaluation.metrics import image_metrics, thresholds

    domains = tables.grid.domains
    figure, axis = _axes(8, 3.4)
    drawn, count = False, len(tables.grid.entries)
    for i, entry in enumerate(tables.grid.entries):
        points = []
        for run in entry.runs.values():
            cuts = thresholds(run.part("val", run.source))
            for domain in run.targets:
                rate = image_metrics(reported(run, domain), cuts).get("FPR_at_normal_q99")
                if rate is not None:
                    points.append((domains.index(domain) + (i - (count - 1) / 2) * 0.6 / count, rate))
        if points:
            drawn = True
            colour = _colours(tables)[entry.label]
            axis.plot(*zip(*points, strict=True), "o", color=colour, alpha=0.65, markersize=6, label=entry.label)
    if not drawn:
        return ""
    axis.axhline(0.01, color=ORANGE, linewidth=1.5, label="1 %, as on the source")
    axis.set(xticks=range(len(domains)), ylabel="realised FPR", ylim=(-0.03, 1.03), xlabel="target")
    axis.set_xticklabels(domains)
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)
