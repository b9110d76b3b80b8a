"""Model + domain -> raw scores, one pass, in memory that does not grow with the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.data.sources import apart
from hdmap_mlflow.data.sources import join as join_tables
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.pixels import PixelHistogram
from hdmap_mlflow.names import PUBLISHED, Artifact

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

Found = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # map, anomaly map (None if the model has none), mask
TOP = 0.1  # of a map's places make the score `top10`
COLUMNS = [
    *("path", "label", "group", "severity", "recording", "split"),
    *("score", "image_max", "image_mean", "image_row", "seconds"),
]


@dataclass(frozen=True)
class Scores:
    """Raw scores of one domain.

    `table` has one row per map: `path`, `label` (0 good, 1 fault), `group`, `severity`, `recording`, `split` (val,
    test, or reference: healthy maps of `train/good`, which are not reported), `score` (raw, any range, higher is more
    anomalous), `image_max`, `image_mean` and `image_row` (the trivial scores; NaN where the median row mean is not
    above 0) and `seconds`. A run of an adapted model has more columns, see `adaptation.stage.with_columns`.
    `pixel` holds the pixel metrics of the reported maps where masks exist; the pixels themselves are not kept, but for
    the anomaly maps (H, W), at native size, of a few rows of the reported maps: `shown`, for pictures. Of several
    sources, `domain` is `A,B`, the tables are joined (see `data.sources`), `pixels` has the metrics of each, and
    nothing is shown.
    """

    domain: str
    table: pd.DataFrame
    pixel: Mapping[str, float] = field(default_factory=dict)
    shown: Mapping[int, np.ndarray] = field(default_factory=dict)
    pixels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def apart(self) -> list[Scores]:
        """Those of each domain."""
        if not self.pixels:
            return [self]
        return [Scores(one, part, self.pixels[one]) for one, part in apart(self.table, self.domain).items()]

    def part(self, split: str) -> pd.DataFrame:
        return self.table[self.table["split"] == split]

    def as_split(self, split: str) -> Scores:
        """The same maps in another role; pixel metrics stay with the reported ones."""
        return Scores(self.domain, self.table.assign(split=split))


class Shown:
    """Anomaly maps of the `count` highest and lowest scores of either label, by row, kept while maps are scored."""

    def __init__(self, labels: Sequence[int], count: int) -> None:
        self.labels, self.count = labels, count
        self.scores: dict[int, float] = {}
        self.maps: dict[int, np.ndarray] = {}

    def update(
        self, scores: Sequence[float], first: int, anomaly_map: Tensor, size: Sequence[int], padded: bool
    ) -> None:
        """Take a batch whose first map is in row `first`."""
        known = self.scores | {first + i: score for i, score in enumerate(scores)}
        ranked = [
            sorted((row for row in known if self.labels[row] == label), key=known.__getitem__) for label in (0, 1)
        ]
        kept = {row for rows in ranked for row in (*rows[: self.count], *rows[::-1][: self.count])}
        new = sorted(kept - self.scores.keys())
        maps = dict(
            zip(new, _native(anomaly_map[[row - first for row in new]], size, padded).cpu().numpy(), strict=True)
        )
        self.scores = {row: known[row] for row in kept}
        self.maps = {row: one for row, one in (self.maps | maps).items() if row in kept}


def score(
    model: Model, loader: DataLoader, domain: str, split: str, device: str, progress: bool = True, shown: int = 0
) -> Scores:
    """Score every map of a loader, in its order, with a fitted model in float32.

    `pred_score` is taken as the model computes it: nothing normalises or clamps it. Where the loader brings masks and
    the model an anomaly map, the map is brought to native size for the pixel metrics; fault maps without a mask are
    left out of these. Of either label, the `shown` highest and lowest scores keep their anomaly maps. Raises BadInput
    that names the maps if a score is NaN or infinite.
    """
    import torch
    from rich.progress import track

    table: pd.DataFrame = loader.dataset.table  # type: ignore[attr-defined]
    # Whole from the start: a few bytes that stay between the large tensors of every batch would keep these from being
    # used again, and the process would grow with every map.
    columns = {name: np.empty(len(table), np.float32) for name in ("score", "image_max", "image_mean", "image_row")}
    seconds, done = np.empty(len(table)), 0
    extremes = Shown(table["label"].tolist(), shown)
    pixels, unmarked = PixelHistogram(), ((table["label"] == 1) & (table["mask"] == "")).to_numpy()
    model.to(device).eval()
    with torch.inference_mode():
        for batch in track(loader, f"scoring {domain} ({split})", transient=True, disable=not progress):
            started = time.perf_counter()
            maps = batch.image[:, 0]
            rows = slice(done, done + len(maps))
            for name, found in trivial(maps).items():
                columns[name][rows] = found
            predicted = predict(model, batch, device)
            scores = image_scores(model, predicted, maps.shape[1:]).cpu().numpy()
            columns["score"][rows] = scores
            seconds[rows] = (time.perf_counter() - started) / len(scores)
            if shown and predicted.anomaly_map is not None:
                extremes.update(scores.tolist(), done, predicted.anomaly_map, maps.shape[1:], _padded(model))
            if batch.gt_mask is not None and predicted.anomaly_map is not None:
                keep = ~unmarked[rows]
                native = _native(predicted.anomaly_map, maps.shape[1:], _padded(model)).cpu().numpy()
                pixels.update(native[keep], batch.gt_mask.numpy()[keep])
            done = rows.stop
    kept = table[["path", "label", "group", "severity", "recording"]].assign(split=split, seconds=seconds, **columns)
    if told := not_finite(domain, kept, f" of {len(table)}"):
        raise BadInput(f"{told}; the training diverged: lower train.learning_rate or change the seed")
    kept = kept[COLUMNS].reset_index(drop=True)
    return Scores(domain, kept, pixels.metrics() if split == "test" else {}, extremes.maps)


def predict(model: Model, batch: Batch, device: str) -> Batch:
    """What a model that is on `device` finds in a batch, whose maps are brought there and to the model's size."""
    from hdmap_mlflow.data.datamodule import on_device

    # Not model.pre_processor(...): that is a copy for export, which resizes without anti-aliasing.
    batch.image = model.pre_processor.transform(on_device(batch.image, device))
    return model.predict_step(batch, 0)


def top_mean(maps: Tensor) -> Tensor:
    """Mean of the largest 10 % of each map's values, one at least: (B, H, W) to (B,)."""
    flat = maps.flatten(1)
    return flat.topk(max(1, round(TOP * flat.shape[1])), dim=1).values.mean(dim=1)


# Of anomaly maps (B, H, W) at native size, where a row is a planet tooth. Of windows of one or two rows the largest
# mean is that of a single row: two never have a larger one than the better of them.
IMAGE_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda maps: maps.amax((1, 2)),
    "top10": top_mean,
    "mean": lambda maps: maps.mean((1, 2)),
    "row": lambda maps: maps.mean(dim=2).amax(dim=1),
}


def image_scores(model: Model, predicted: Batch, size: Sequence[int]) -> Tensor:
    """A model's scores of a batch, (B,): its own, or a row of `IMAGE_SCORES` as `score.image` asks for.

    `size` is the maps' native one. Raises BadInput where the model has no anomaly map.
    """
    how = getattr(model, "image_score", PUBLISHED)
    if how == PUBLISHED:
        return predicted.pred_score.reshape(-1).float()
    if predicted.anomaly_map is None:
        raise BadInput(f"score.image={how} reads an anomaly map, and this model has none; leave it at {PUBLISHED}")
    return IMAGE_SCORES[how](_native(predicted.anomaly_map, size, _padded(model)))


def trivial(maps: Tensor) -> dict[str, np.ndarray]:
    """The training-free scores of maps (B, H, W) in their own unit, float32 (B,), by the column that holds them."""
    from hdmap_mlflow.models.parts.rows import row_ratio

    return {
        "image_max": maps.amax((1, 2)).numpy(),
        "image_mean": maps.mean((1, 2)).numpy(),
        "image_row": row_ratio(maps).numpy(),
    }


def not_finite(domain: str, table: pd.DataFrame, total: str = "") -> str:
    """`2 scores of c are NaN or infinite (1.tiff, 2.tiff)`, with three maps at most; empty where all are finite."""
    broken = table["path"][~np.isfinite(table["score"])]
    return (
        f"{len(broken)}{total} scores of {domain} are NaN or infinite ({', '.join(broken[:3])})" if len(broken) else ""
    )


def _padded(model: Model) -> bool:
    return getattr(model, "padded", False)


def _native(anomaly_map: Tensor, size: Sequence[int], padded: bool = False) -> Tensor:
    """Anomaly maps, (n, H, W) or (n, 1, H, W), brought to the maps' own size (bilinear): float32, (n, *size).

    Of maps that were `padded` for the model, without what they were padded with.
    """
    from torch.nn.functional import interpolate

    from hdmap_mlflow.data.padding import canvas, middle

    maps = anomaly_map.reshape(len(anomaly_map), 1, *anomaly_map.shape[-2:]).float()
    full = canvas(maps.shape[-2:], size) if padded else tuple(size)
    return middle(interpolate(maps, full, mode="bilinear", align_corners=False)[:, 0], size)


def pixels_of(loader: DataLoader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every map of a loader, in order, with its mask, each (H, W); no model is asked."""
    for batch in loader:
        maps = batch.image[:, 0].numpy()
        yield from zip(
            maps, np.zeros(maps.shape, bool) if batch.gt_mask is None else batch.gt_mask.numpy(), strict=True
        )


def anomaly_maps(model: Model, loader: DataLoader, device: str) -> Iterator[Found]:
    """What a model shows of every map, in order: native map, anomaly map at its size and mask, each (H, W)."""
    import torch

    model.to(device).eval()
    with torch.inference_mode():
        for batch in loader:
            maps = batch.image[:, 0].numpy()
            found = predict(model, batch, device).anomaly_map
            native = (
                [None] * len(maps) if found is None else _native(found, maps.shape[1:], _padded(model)).cpu().numpy()
            )
            masks = np.zeros(maps.shape, bool) if batch.gt_mask is None else batch.gt_mask.numpy()
            yield from zip(maps, native, masks, strict=True)


def join(*parts: Scores) -> Scores:
    """Validation and reported scores of one domain as one table."""
    pixel = {name: value for part in parts for name, value in part.pixel.items()}
    shown = {row: one for part in parts for row, one in part.shown.items()}
    return Scores(parts[0].domain, pd.concat([part.table for part in parts], ignore_index=True), pixel, shown)


def of_sources(parts: Sequence[Scores]) -> Scores:
    """The scores of several sources as those of one; of one as they are."""
    if len(parts) == 1:
        return parts[0]
    tables = {one.domain: one.table for one in parts}
    return Scores(",".join(tables), join_tables(tables), pixels={one.domain: one.pixel for one in parts})


def write(scores: Scores, folder: Path) -> Path:
    """Write `scores/<domain>.parquet` of one domain below a folder."""
    path = folder / Artifact.SCORES / f"{scores.domain}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.table.to_parquet(path, index=False)
    return path
