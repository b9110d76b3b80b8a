"""Pictures of a few maps per domain: native map, anomaly map, overlay and mask, with the teeth named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL.Image import Image, fromarray

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.evaluation.metrics import raw
from hdmap_mlflow.evaluation.scoring import Scores, anomaly_maps, pixels_of

if TYPE_CHECKING:
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule as DataModule


KINDS = {  # as a picture's title has them
    "most": "most anomalous",
    "least": "least anomalous",
    "wrong": "most wrong",
    "same": "the one that every model is shown with",
}


@dataclass(frozen=True)
class Chosen:
    """A map to show: its row in the domain's table, why (a kind of `KINDS`) and its rank in that kind."""

    row: int
    kind: str
    rank: int


def choose(table: pd.DataFrame, threshold: float | None, k: int) -> list[Chosen]:
    """The k most and k least anomalous maps, and of the others the k that the threshold gets most wrong.

    Last comes a map that does not depend on the scores, so that models can be compared on it: the fault map (of a
    domain without one, the good map) of median mean.
    """
    label, score = raw(table)
    order = np.argsort(score, kind="stable")
    kinds = {"most": order[::-1][:k], "least": order[:k]}
    if threshold is not None:
        wrong = np.setdiff1d(np.flatnonzero((score >= threshold) != label), [*kinds["most"], *kinds["least"]])
        kinds["wrong"] = wrong[np.argsort(-np.abs(score[wrong] - threshold), kind="stable")][:k]
    if k:
        shown = np.flatnonzero(label == label.max())
        kinds["same"] = shown[np.argsort(table["image_mean"].to_numpy()[shown], kind="stable")][len(shown) // 2 :][:1]
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
    why = KINDS[one.kind]
    told = f"score {row['score']:.4g}"
    if threshold is not None:
        alarm = row["score"] >= threshold
        verdict = ("alarm" if alarm else "no alarm") + (", right" if alarm == bool(row["label"]) else ", WRONG")
        told += f", transferred F1 threshold {threshold:.4g}: {verdict}"
    about = ["fault" if row["label"] else "good", row["group"], "simulated" if simulated else ""]
    return f"{domain} / {row['path']} ({', '.join(filter(None, about))})\n{why}, no. {one.rank}: {told}"


def of_domain(
    scores: Scores, model: Model, data: DataModule, device: str, threshold: float | None, k: int, simulated: bool
) -> Iterator[tuple[str, Image]]:
    """Path below the run's folder, and picture, of a domain's chosen maps.

    Their anomaly maps are those that scoring kept; the few others are computed once more.
    """
    table = scores.part("test").reset_index(drop=True)
    chosen = choose(table, threshold, k)
    rows = [one.row for one in chosen]
    images, masks = zip(*pixels_of(data.chosen_dataloader(scores.domain, rows)), strict=True)
    lacking = [row for row in rows if row not in scores.shown]
    again = anomaly_maps(model, data.chosen_dataloader(scores.domain, lacking), device)
    heats: dict[int, Any] = {
        **scores.shown,
        **{row: heat for row, (_, heat, _) in zip(lacking, again, strict=True)},
    }
    anomalies = [heats[row] for row in rows]
    marked = data.scored[scores.domain, "test"]["mask"].ne("").to_numpy()
    heat = None if anomalies[0] is None else limits(anomalies)
    bright = float(np.quantile(images, 0.99))  # one bright map must not leave the faint band of another in the dark
    sheet = Sheet(images[0].shape, (limits(images)[0], bright), heat)
    for one, image, anomaly, mask in zip(chosen, images, anomalies, masks, strict=True):
        caption = title(scores.domain, table.iloc[one.row], one, threshold, simulated)
        picture = sheet.draw(caption, image, anomaly, mask if marked[one.row] else None)
        yield f"heatmaps/{scores.domain}/{file_name(one, table)}", picture


def limits(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest value of some arrays."""
    return min(a.min() for a in arrays), max(a.max() for a in arrays)


class Sheet:
    """Pictures of maps (H, W) in four panels: rows are planet teeth, columns ring teeth.

    Frame, ticks and colour bars are drawn once, under every picture: a new figure per map would take ten times as
    long. `limits` and `heat` are the values of the maps and of the anomaly maps at the ends of the colours, the same
    for all pictures of a domain; `heat` is None where the model has no anomaly map.
    """

    def __init__(self, shape: tuple[int, int], limits: Sequence[float], heat: Sequence[float] | None) -> None:
        self.heat = heat
        self.figure = Figure((11, 4.9), dpi=90)
        self.title = self.figure.suptitle("", fontsize=11, x=0.01, ha="left", animated=True)
        self.axes = self.figure.subplots(2, 2, sharex=True, sharey=True)
        self.figure.subplots_adjust(0.05, 0.1, 0.99, 0.84, wspace=0.06, hspace=0.22)
        (plain, anomaly), (overlay, mask) = self.axes
        look = {"interpolation": "nearest", "aspect": "auto", "animated": True}
        gray, warm = (
            look | {"cmap": name, "vmin": low, "vmax": high}
            for name, (low, high) in (("gray", limits), ("inferno", heat or (0, 1)))
        )
        empty = np.zeros(shape)
        self.maps = [plain.imshow(empty, **gray), overlay.imshow(empty, **gray)]
        self.heats = [anomaly.imshow(empty, **warm), overlay.imshow(empty, **warm)] if heat else []
        self.mask = mask.imshow(empty, **look, cmap="gray", vmin=0, vmax=1)
        self.figure.colorbar(self.maps[0], ax=self.axes[:, 0], pad=0.01, shrink=0.9, extend="max")
        if heat:
            self.figure.colorbar(self.heats[0], ax=self.axes[:, 1], pad=0.01, shrink=0.9)
        else:
            _absent(anomaly, "this model has no anomaly map")
        self.no_mask = _absent(mask, "no mask")
        self.no_mask.set_animated(True)
        names = ("map", "anomaly map", "overlay", "mask, if any (outlined in the others)")
        for axis, name in zip(self.axes.flat, names, strict=True):
            axis.set_title(name, fontsize=10, loc="left")
            axis.tick_params(labelsize=8)
        for axis in self.axes[1]:
            axis.set_xlabel("ring tooth", fontsize=9)
        for axis in self.axes[:, 0]:
            axis.set_ylabel("planet tooth", fontsize=9)
        self.canvas = FigureCanvasAgg(self.figure)
        self.canvas.draw()
        self.frame = self.canvas.copy_from_bbox(self.figure.bbox)

    def draw(self, title: str, image: np.ndarray, anomaly: np.ndarray | None, mask: np.ndarray | None) -> Image:
        """The picture of one map; a mask that does not exist is said in its place."""
        self.canvas.restore_region(self.frame)
        self.title.set_text(title)
        self.figure.draw_artist(self.title)
        for shown in self.maps:
            shown.set_data(image)
        for shown in self.heats:
            shown.set_data(anomaly)
        if self.heat and anomaly is not None:
            low, high = self.heat
            self.heats[1].set_alpha(0.65 * np.clip((anomaly - low) / max(high - low, 1e-12), 0, 1))
        if mask is not None:
            self.mask.set_data(mask)
        for shown in (*self.maps, *self.heats, self.no_mask if mask is None else self.mask):
            shown.axes.draw_artist(shown)
        if mask is not None and mask.any() and not mask.all():
            for axis in (self.axes[1, 0], *([self.axes[0, 1]] if self.heat else [])):
                outline = axis.contour(mask, [0.5], colors="#35d0ba", linewidths=1)
                axis.draw_artist(outline)
                outline.remove()
        for axis in self.axes.flat:
            for spine in axis.spines.values():
                axis.draw_artist(spine)
        return fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3].copy())


def _absent(axis: Axes, words: str) -> Text:
    return axis.text(0.5, 0.5, words, ha="center", va="center", transform=axis.transAxes, color="#8d99ae", fontsize=10)
