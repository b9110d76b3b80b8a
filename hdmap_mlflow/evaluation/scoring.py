"""Model + domain -> raw scores, one pass, in memory that does not grow with the pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.pixels import PixelHistogram
from hdmap_mlflow.names import Artifact

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

Found = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # map, anomaly map (None if the model has none), mask
COLUMNS = [
    *("path", "label", "group", "severity", "recording", "split"),
    *("score", "image_max", "image_mean", "image_row", "seconds"),
]


@dataclass(frozen=True)
class Scores:
    """Raw scores of one domain.

    `table` has one row per map: `path`, `label` (0 good, 1 fault), `group`, `severity`, `recording`, `split` (val,
    test), `score` (raw, any range, higher is more anomalous), `image_max`, `image_mean` and `image_row` (the trivial
    scores; NaN where the median row mean is not above 0) and `seconds`.
    `pixel` holds the pixel metrics of the reported maps where masks exist; the pixels themselves are not kept.
    """

    domain: str
    table: pd.DataFrame
    pixel: Mapping[str, float] = field(default_factory=dict)

    def part(self, split: str) -> pd.DataFrame:
        return self.table[self.table["split"] == split]

    def as_split(self, split: str) -> Scores:
        """The same maps in another role; pixel metrics stay with the reported ones."""
        return Scores(self.domain, self.table.assign(split=split))


def score(model: Any, loader: DataLoader, domain: str, split: str, device: str, progress: bool = True) -> Scores:
    """Score every map of a loader, in its order, with a fitted model in float32.

    `pred_score` is taken as the model computes it: nothing normalises or clamps it. Where the loader brings masks and
    the model an anomaly map, the map is brought to native size for the pixel metrics; fault maps without a mask are
    left out of these. Raises BadInput that names the maps if a score is NaN or infinite.
    """
    import torch
    from rich.progress import track

    table: pd.DataFrame = loader.dataset.table  # type: ignore[attr-defined]
    columns: dict[str, list[np.ndarray]] = {"score": [], "image_max": [], "image_mean": [], "image_row": []}
    columns["seconds"] = []
    pixels, unmarked = PixelHistogram(), ((table["label"] == 1) & (table["mask"] == "")).to_numpy()
    model.to(device).eval()
    with torch.inference_mode():
        for batch in track(loader, f"scoring {domain} ({split})", transient=True, disable=not progress):
            started = time.perf_counter()
            maps = batch.image[:, 0]
            for name, found in trivial(maps).items():
                columns[name].append(found)
            # Not model.pre_processor(...): that is a copy for export, which resizes without anti-aliasing.
            batch.image = model.pre_processor.transform(batch.image.to(device))
            predicted = model.predict_step(batch, 0)
            scores = predicted.pred_score.reshape(-1).float().cpu().numpy()
            done = sum(map(len, columns["score"]))
            columns["score"].append(scores)
            columns["seconds"].append(np.full(len(scores), (time.perf_counter() - started) / len(scores)))
            if batch.gt_mask is not None and predicted.anomaly_map is not None:
                keep = ~unmarked[done : done + len(scores)]
                pixels.update(_native(predicted.anomaly_map, maps.shape[1:])[keep], batch.gt_mask.numpy()[keep])
    values = {name: np.concatenate(parts) for name, parts in columns.items()}
    kept = table[["path", "label", "group", "severity", "recording"]].assign(split=split, **values)
    if told := not_finite(domain, kept, f" of {len(table)}"):
        raise BadInput(f"{told}; the training diverged: lower train.learning_rate or change the seed")
    return Scores(domain, kept[COLUMNS].reset_index(drop=True), pixels.metrics() if split == "test" else {})


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


def _native(anomaly_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Anomaly maps, (n, H, W) or (n, 1, H, W), brought to the maps' own size (bilinear): float32, (n, *size)."""
    from torch.nn.functional import interpolate

    maps = anomaly_map.reshape(len(anomaly_map), 1, *anomaly_map.shape[-2:]).float()
    return interpolate(maps, size, mode="bilinear", align_corners=False)[:, 0].cpu().numpy()


def anomaly_maps(model: Any, loader: DataLoader, device: str) -> Iterator[Found]:
    """What a model shows of every map, in order: native map, anomaly map at its size and mask, each (H, W)."""
    import torch

    model.to(device).eval()
    with torch.inference_mode():
        for batch in loader:
            maps = batch.image[:, 0].numpy()
            batch.image = model.pre_processor.transform(batch.image.to(device))
            found = model.predict_step(batch, 0).anomaly_map
            native = [None] * len(maps) if found is None else _native(found, maps.shape[1:])
            masks = np.zeros(maps.shape, bool) if batch.gt_mask is None else batch.gt_mask.numpy()
            yield from zip(maps, native, masks, strict=True)


def join(*parts: Scores) -> Scores:
    """Validation and reported scores of one domain as one table."""
    pixel = {name: value for part in parts for name, value in part.pixel.items()}
    return Scores(parts[0].domain, pd.concat([part.table for part in parts], ignore_index=True), pixel)


def write(scores: Scores, folder: Path) -> Path:
    """Write `scores/<domain>.parquet` below a folder."""
    path = folder / Artifact.SCORES / f"{scores.domain}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.table.to_parquet(path, index=False)
    return path
