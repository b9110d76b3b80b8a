"""Model + domain -> raw scores, one pass, in memory that does not grow with the pictures."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import BadInput

COLUMNS = ["path", "label", "group", "severity", "split", "score", "image_max", "image_mean", "seconds"]


@dataclass(frozen=True)
class Scores:
    """Raw scores of one domain.

    `table` has a row a map: `path`, `label` (0 good, 1 fault), `group`, `severity`, `split` (val, test), `score` (raw,
    any range, higher is more anomalous), `image_max` and `image_mean` (the trivial baselines) and `seconds`.
    """

    domain: str
    table: pd.DataFrame

    def part(self, split: str) -> pd.DataFrame:
        return self.table[self.table["split"] == split]


def score(model, loader, domain: str, split: str, device: str, progress: bool = True) -> Scores:  # noqa: ANN001
    """Score every map of a loader, in its order, with a fitted model in float32.

    `pred_score` is taken as the model computes it: nothing normalises or clamps it. Raises BadInput that names the
    maps if a score is NaN or infinite.
    """
    import torch
    from rich.progress import track

    table = loader.dataset.table
    columns: dict[str, list[np.ndarray]] = {"score": [], "image_max": [], "image_mean": [], "seconds": []}
    model.to(device).eval()
    with torch.inference_mode():
        for batch in track(loader, f"scoring {domain} ({split})", transient=True, disable=not progress):
            started = time.perf_counter()
            maps = batch.image[:, 0]
            columns["image_max"].append(maps.amax((1, 2)).numpy())
            columns["image_mean"].append(maps.mean((1, 2)).numpy())
            # Not model.pre_processor(...): that is a copy for export, which resizes without anti-aliasing.
            batch.image = model.pre_processor.transform(batch.image.to(device))
            scores = model.predict_step(batch, 0).pred_score.reshape(-1).float().cpu().numpy()
            columns["score"].append(scores)
            columns["seconds"].append(np.full(len(scores), (time.perf_counter() - started) / len(scores)))
    values = {name: np.concatenate(parts) for name, parts in columns.items()}
    broken = table["path"][~np.isfinite(values["score"])]
    if len(broken):
        some = ", ".join(broken[:3])
        raise BadInput(f"{len(broken)} of {len(table)} scores of {domain} are NaN or infinite ({some}); "
                       "the training diverged: lower train.learning_rate or change the seed")  # fmt: skip
    kept = table[["path", "label", "group", "severity"]].assign(split=split, **values)
    return Scores(domain, kept[COLUMNS].reset_index(drop=True))


def join(*parts: Scores) -> Scores:
    """Validation and reported scores of one domain as one table."""
    return Scores(parts[0].domain, pd.concat([part.table for part in parts], ignore_index=True))


def write(scores: Scores, folder: Path) -> Path:
    """Write `scores/<domain>.parquet` below a folder."""
    path = folder / "scores" / f"{scores.domain}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.table.to_parquet(path, index=False)
    return path
