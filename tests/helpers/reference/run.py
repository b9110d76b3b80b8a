"""Reference: everything that a run records, from the maps on disk and the raw scores that it kept.

Of the stored score tables only `path`, `split` and `score` are believed; label, group, severity and the trivial scores
come from the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from reference import adaptation, images, scores, shift
from reference.cards import cards
from reference.pixels import binned, pixel_metrics

AnomalyMap = Callable[[str, str, np.ndarray], np.ndarray]
SAMPLE = 48  # healthy training maps a domain that the shift card looks at
LABELS = {role: label for role, (_, label) in images.FOLDERS.items()}


def rows(folder: Path, kept: pd.DataFrame, split: str) -> pd.DataFrame:
    """The maps of a split with what the files say of them.

    Under the strategy `synthetic` a training map stands twice in validation: as it is, and with a pasted fault, second.
    """
    known, out = images.metadata(folder), []
    seen: set[str] = set()
    for one in kept[kept["split"] == split].itertuples():
        pixels = images.read(folder / one.path).astype(np.float64)
        group, severity = known.get(one.path, ("", float("nan")))
        label = LABELS[str(Path(one.path).parent.as_posix())]
        label, pasted = (1, True) if one.path in seen else (label, False)
        seen.add(one.path)
        out.append(
            {
                "path": one.path,
                "label": label,
                "group": group,
                "severity": severity,
                "score": one.score,
                "image_max": pixels.max(),
                "image_mean": pixels.mean(),
                "image_row": row_ratio(pixels),
                "pasted": pasted,
            }
        )
    return pd.DataFrame(out)


def row_ratio(pixels: np.ndarray) -> float:
    """The largest row's mean over that of the row in the middle."""
    means = sorted(sum(row) / len(row) for row in pixels.tolist())
    half = len(means) // 2
    return means[-1] / ((means[half] + means[~half]) / 2)


def pixel(folder: Path, table: pd.DataFrame, anomaly_map: AnomalyMap) -> dict[str, float]:
    """Pixel metrics of reported maps: good maps, and the fault maps with a mask. None in a domain without masks."""
    values, marked = [], []
    for path, label in zip(table["path"], table["label"], strict=True):
        mask = images.mask_of(folder, path)
        if mask is not None or not label:
            pixels = images.read(folder / path)
            values.append(binned(images.enlarge(anomaly_map(folder.name, path, pixels), pixels.shape)))
            marked.append(np.zeros(pixels.shape, bool) if mask is None else mask)
    return pixel_metrics(np.array(values), np.array(marked))


def distances(
    root: Path, source: str, targets: list[str], features: Callable[[np.ndarray], np.ndarray]
) -> dict[str, dict[str, float]]:
    """The label-free distances of every target, from healthy training maps."""
    maps = {name: images.training_sample(root / name, SAMPLE) for name in (source, *targets)}
    described = {name: features(found) for name, found in maps.items()}
    return {
        name: {
            "intensity": shift.intensity(maps[source], maps[name]),
            "feature_MMD": shift.mmd(described[source], described[name]),
        }
        for name in targets
    }


def graded(measured: Mapping[str, float], made: Mapping[str, Any], source: str) -> str | None:
    """None where the lower end of the source's interval does not lie above one half and every training-free score."""
    bars = [0.5] + [value for name, value in measured.items() if name.startswith("source/baseline_")]
    ends = made["intervals"][source].get("image_AUROC")
    if ends and not all(ends[0] > bar for bar in bars):
        return None
    return scores.grade(measured.get("transfer/ratio"))


def record(
    root: Path,
    source: str,
    targets: list[str],
    kept: Mapping[str, pd.DataFrame],
    features: Callable[[np.ndarray], np.ndarray],
    anomaly_map: AnomalyMap,
) -> dict[str, Any]:
    """`metrics`, `cards`, `grade`, `data_digest`, `digests`, `profiles` and `counts` of a run.

    `features` describes maps for the shift card; `anomaly_map` is the model's, at any size, of a domain, a path and its
    pixels.
    """
    val = rows(root / source, kept[source], "val")
    reported = {name: rows(root / name, kept[name], "test") for name in (source, *targets)}
    marked = {name: pixel(root / name, table, anomaly_map) for name, table in reported.items()}
    others = {name: reported[name] for name in targets}
    measured = scores.run_metrics(val, reported[source], others, marked.get(source), marked, source)
    apart = distances(root, source, targets, features)
    folders = [root / name for name in (source, *targets)]
    made = cards(val, source, reported, apart) | {"adaptation": adaptation.card(val, reported, kept, source)}
    return {
        "metrics": measured,
        "cards": made,
        "grade": graded(measured, made, source),
        "data_digest": images.data_digest(folders),
        "digests": {folder.name: images.domain_digest(folder)[:16] for folder in folders},
        "profiles": {folder.name: images.profile(folder) for folder in folders},
        "counts": {name: len(table) for name, table in reported.items()},
    }


def result(found: Mapping[str, Any], source: str, targets: list[str]) -> dict[str, Any]:
    """The numbers of `result.json`, the guideline's result record."""
    measured = found["metrics"]

    def of(scope: str) -> dict[str, float]:
        return {name[len(scope) + 1 :]: value for name, value in measured.items() if name.startswith(scope + "/")}

    return {
        "source_results": {"domain": source, **of("source")},
        "target_results": {name: of(f"target/{name}") for name in targets},
        "avg_target_auroc": measured.get("target_mean/image_AUROC"),
        "transfer": of("transfer"),
        "validation": of("val"),
        "cards": found["cards"],
    }
