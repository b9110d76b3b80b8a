"""Pictures of a few maps a domain: native map, anomaly map, overlay and mask, with the teeth named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hdmap_mlflow.metrics import raw


@dataclass(frozen=True)
class Chosen:
    """A map to show: its row in the domain's table, why (`most`, `least`, `wrong`) and its rank in that kind."""

    row: int
    kind: str
    rank: int


def choose(table: pd.DataFrame, threshold: float | None, k: int) -> list[Chosen]:
    """The k most and k least anomalous maps, and of the others the k that the threshold gets most wrong."""
    label, score = raw(table)
    order = np.argsort(score, kind="stable")
    kinds = {"most": order[::-1][:k], "least": order[:k]}
    if threshold is not None:
        wrong = np.setdiff1d(np.flatnonzero((score >= threshold) != label), [*kinds["most"], *kinds["least"]])
        kinds["wrong"] = wrong[np.argsort(-np.abs(score[wrong] - threshold), kind="stable")][:k]
    out: dict[int, Chosen] = {}
    for kind, rows in kinds.items():
        for rank, row in enumerate(rows, 1):
            out.setdefault(int(row), Chosen(int(row), kind, rank))
    return list(out.values())


def file_name(one: Chosen, table: pd.DataFrame) -> str:
    """`good/wrong_1_000007.png`: the true label as folder, why the map was chosen, and the map's own name."""
    row = table.iloc[one.row]
    stem = row["path"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{'fault' if row['label'] else 'good'}/{one.kind}_{one.rank}_{stem}.png"


def title(domain: str, row: pd.Series, one: Chosen, threshold: float | None, simulated: bool) -> str:
    """What a picture shows and why it was chosen, in two lines."""
    why = {"most": "most anomalous", "least": "least anomalous", "wrong": "most wrong"}[one.kind]
    told = f"score {row['score']:.4g}"
    if threshold is not None:
        alarm = row["score"] >= threshold
        verdict = ("alarm" if alarm else "no alarm") + (", right" if alarm == bool(row["label"]) else ", WRONG")
        told += f", transferred F1 threshold {threshold:.4g}: {verdict}"
    about = ["fault" if row["label"] else "good", row["group"], "simulated" if simulated else ""]
    return f"{domain} / {row['path']} ({', '.join(filter(None, about))})\n{why}, no. {one.rank}: {told}"


def map_figure(
    title: str,
    image: np.ndarray,
    anomaly: np.ndarray | None,
    mask: np.ndarray | None,
    limits: Sequence[float],
) -> Figure:
    """Four panels of one map, (H, W) each: rows are planet teeth, columns ring teeth.

    `limits` are the anomaly values at the ends of the colours, the same for all pictures of a domain. An anomaly map
    or a mask that does not exist is said in its place.
    """
    figure = Figure((11, 4.9))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    figure.subplots_adjust(0.05, 0.1, 0.99, 0.84, wspace=0.06, hspace=0.22)  # a layout engine would take twice as long
    shown = axes[0, 0].imshow(image, cmap="gray", interpolation="nearest", aspect="auto")
    figure.colorbar(shown, ax=axes[:, 0], pad=0.01, shrink=0.9)
    axes[1, 0].imshow(image, cmap="gray", interpolation="nearest", aspect="auto")
    heat = {"vmin": limits[0], "vmax": limits[1], "cmap": "inferno", "interpolation": "nearest", "aspect": "auto"}
    if anomaly is not None:
        figure.colorbar(axes[0, 1].imshow(anomaly, **heat), ax=axes[:, 1], pad=0.01, shrink=0.9)
        strength = np.clip((anomaly - limits[0]) / max(limits[1] - limits[0], 1e-12), 0, 1)
        axes[1, 0].imshow(anomaly, alpha=0.65 * strength, **heat)
    else:
        _absent(axes[0, 1], "this model has no anomaly map")
    if mask is not None:
        axes[1, 1].imshow(mask, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        for axis in (axes[1, 0], axes[0, 1]):
            if mask.any() and not mask.all():
                axis.contour(mask, [0.5], colors="#35d0ba", linewidths=1)
    else:
        _absent(axes[1, 1], "no mask")
    names = ("map", "anomaly map", "overlay", "mask (outlined in the others)" if mask is not None else "mask")
    for axis, name in zip(axes.flat, names, strict=True):
        axis.set_title(name, fontsize=10, loc="left")
        axis.tick_params(labelsize=8)
    for axis in axes[1]:
        axis.set_xlabel("ring tooth", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("planet tooth", fontsize=9)
    return figure


def _absent(axis, words: str) -> None:  # noqa: ANN001
    axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes, color="#8d99ae", fontsize=10)
