"""Four small domains with what a run can meet: groups, severities, twins, some masks, several formats, one class."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import tifffile
from maps import SIZE, healthy
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from servers import new_store

from hdmap_mlflow.runs import flow, setup

SOURCE, TARGETS = "domain_A", ("domain_B", "domain_C", "domain_D")
CONDITION = {"toy": {"name": "toy", "config": {"quantile": 0.95, "image_size": list(SIZE)}}}


def band(rng: np.random.Generator, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """A map with a faint band at one planet tooth and a spot that touches nothing, and the mask of both."""
    mask = np.zeros(SIZE, bool)
    row, column = rng.integers(2, 24), rng.integers(0, 40)
    mask[row, column : column + 30] = True
    mask[row + 1, column + 30 : column + 45] = True  # touches the first half at a corner only
    mask[row + 4, column + 10 : column + 13] = True
    level = rng.uniform(0.05, 0.6)
    return (healthy(rng, gain) + np.float32(level * gain) * mask).astype(np.float32), mask


def write(root: Path, seed: int = 0) -> Path:
    """The domains below a root; A is the source, C has no fault, D no mask and no metadata."""
    rng = np.random.default_rng(seed)
    counts = {
        "domain_A": (52, 17, 16, 1.0),
        "domain_B": (8, 9, 11, 1.2),
        "domain_C": (5, 7, 0, 3.0),
        "domain_D": (6, 8, 7, 1.0),
    }
    for name, (train, good, fault, gain) in counts.items():
        lines = ["path,group,severity"]
        for role, count in (("train/good", train), ("test/good", good), ("test/fault", fault)):
            (root / name / role).mkdir(parents=True)
            for i in range(count):
                one, mask = band(rng, gain) if role == "test/fault" else (healthy(rng, gain), np.zeros(0))
                one = one * np.float32(rng.lognormal(0, 0.1))  # recordings differ in level
                path = store(root / name / role, i, one, name == "domain_D")
                lines.append(f"{role}/{path.name},{('cold', 'warm', '')[i % 3]},{i % 4 or ''}")
                if mask.any() and name != "domain_D" and i % 4:
                    (root / name / "test/masks").mkdir(exist_ok=True)
                    cv2.imwrite(str(root / name / "test/masks" / f"{path.stem}.png"), mask.astype(np.uint8) * 255)
        if name in ("domain_A", "domain_B"):
            (root / name / "metadata.csv").write_text("\n".join(lines) + "\n")
    twin = root / "domain_A/test/good"
    (twin / "twin.tiff").write_bytes((twin / "0003.tiff").read_bytes())
    return root


def store(folder: Path, i: int, one: np.ndarray, mixed: bool) -> Path:
    """Write a map; `mixed` goes through the formats in turn."""
    suffix = (".npy", ".png", ".TIF", ".tiff")[i % 4] if mixed else ".tiff"
    path = folder / f"{i:04d}{suffix}"
    if suffix == ".npy":
        np.save(path, one.astype(np.float64))
    elif suffix == ".png":
        cv2.imwrite(str(path), (one.clip(0, 1) * 65535).astype(np.uint16))
    else:
        tifffile.imwrite(path, one)
    return path


def execute(root: Path, folder: Path, model: str, condition: str, validation: str, overrides: str, **flags):
    """Run, and gather what the run left: the MLflow run, its JSON records and score tables, what it said."""
    uri = new_store(folder / "mlflow.db")
    settings = f"tracking.uri={uri},tracking.output_dir={folder / 'out'},tracking.figures=false,tracking.heatmaps=0"
    settings += ",tracking.keep_local=true"
    file = None
    if ":" in model:
        file = folder / "conditions.json"
        file.write_text(json.dumps(CONDITION))
    given = {"data.root": str(root), "data.validation": validation} | flags
    config = setup.configure(model, condition, str(file) if file else None, given, f"{settings},{overrides}")
    finished = flow.execute(config, say=lambda _: None)
    client = MlflowClient(uri)
    found = client.get_run(finished.run_id)
    kept = Path(local_file_uri_to_path(found.info.artifact_uri))
    return SimpleNamespace(
        found=found,
        client=client,
        kept={name: pd.read_parquet(kept / "scores" / f"{name}.parquet") for name in finished.domains},
        cards=json.loads((kept / "cards.json").read_text()),
        result=json.loads((kept / "result.json").read_text()),
        finished=finished,
    )
