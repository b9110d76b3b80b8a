"""A run's pictures and result in the guideline's folder form, and its model in a form that needs no Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import BadInput, quoted
from hdmap_mlflow.evaluation.metrics import thresholds
from hdmap_mlflow.files import new_folder, part_of, to_json, try_to_write, write_whole
from hdmap_mlflow.names import Artifact
from hdmap_mlflow.runs import history, trained

SAMPLE = 16  # maps of a domain on which an exported model is compared


def export(uri: str, run_id: str, out: Path, say: Callable[[str], None] = print) -> Path:
    """Write a run as a new folder, whole or not at all; returns the path of its result file.

    `visualize/source_domain/<domain>/{good,fault}/*.png`, `visualize/target_domains/<domain>/...`, `figures/`,
    `scores/`, `model/` (with which `hdmap predict` takes the folder for the run), and
    `result_<condition>_<timestamp>.json` with the guideline's fields; the timestamp is the run's start.
    Raises BadInput for a folder that is not empty and for a run that did not finish.
    """
    from hdmap_mlflow import tracking

    record = history.read_run(uri, run_id)
    result = history.read_json(uri, run_id, Artifact.RESULT)
    if not isinstance(result, dict):
        raise BadInput(f"run {run_id}: {Artifact.RESULT} is damaged ({quoted(result)}); train it again")
    stamp = datetime.fromtimestamp(record.started / 1000).strftime("%Y%m%d_%H%M%S")
    name = f"result_{record.tag('condition')}_{stamp}.json"
    with new_folder(out) as folder:
        sides = {domain: folder / "visualize/target_domains" / domain for domain in record.targets}
        sides |= {domain: folder / "visualize/source_domain" / domain for domain in record.sources}
        for side in sides.values():
            for label in ("good", "fault"):
                (side / label).mkdir(parents=True)
        shutil.copytree(tracking.artifacts(uri, run_id, Artifact.SCORES), folder / Artifact.SCORES)
        for pictures in (Artifact.FIGURES, Artifact.HEATMAPS):  # a run made without them has none
            try:
                kept = tracking.artifacts(uri, run_id, pictures)
            except BadInput:
                continue
            if pictures == Artifact.FIGURES:
                shutil.copytree(kept, folder / pictures)
                continue
            for folder_of in sorted(kept.iterdir()):
                if folder_of.is_dir() and folder_of.name in sides:
                    shutil.copytree(folder_of, sides[folder_of.name], dirs_exist_ok=True)
                else:
                    say(f"left out: {pictures}/{folder_of.name}, which is of no domain of run {run_id}")
        if home := tracking.model.home(uri, run_id):
            shutil.copytree(home, folder / Artifact.MODEL)
        write_whole(folder / name, to_json(result))
    return out / name


@dataclass(frozen=True)
class Exported:
    """An ONNX file, the size of the maps that it takes, its largest difference from the model in sd, and thresholds."""

    path: Path
    size: tuple[int, int]
    difference: float
    thresholds: Mapping[str, float]


def export_onnx(
    uri: str, run_id: str, out: Path | None = None, data_root: str | None = None, trust_model: bool = False
) -> Exported:
    """Write a run's model as an ONNX file: maps, float32 (n, H, W) at native size, to raw scores, float32 (n,).

    It is written once onnxruntime scores a sample of the run's maps as the model does, see `models.onnx`. Raises
    BadInput for a file that exists, and for a model that cannot be exported so, with the reason.
    """
    from hdmap_mlflow.models import onnx

    out = (out or Path(f"{run_id[:8]}.onnx")).absolute()
    if out.exists():
        raise BadInput(f"{out} exists; give --out another file or remove it")
    try:
        try_to_write(out.parent)
    except OSError as error:
        raise BadInput(f"cannot write to {out.parent} ({error.strerror}); give --out another place") from None
    onnx.check_packages()
    run = trained.load(uri, run_id, trust_model)
    source, *targets = run.data(data_root).domains
    alike = [source, *(domain for domain in targets if domain.size == source.size)]
    maps = np.concatenate([domain.read(evenly(domain.table[domain.table["split"] == "test"])) for domain in alike])
    part = part_of(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        difference = onnx.export(run.model, maps, part)
        part.rename(out)
    except BadInput as problem:
        raise BadInput(
            f"run {run_id[:8]}: {run.config.model.name} cannot be exported ({problem}); `hdmap models` says what can"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return Exported(out, source.size, difference, thresholds(run.record.part("val", run.record.source)))


def evenly(table: pd.DataFrame) -> pd.DataFrame:
    """At most `SAMPLE` rows, evenly from all."""
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, SAMPLE).round().astype(int))]
