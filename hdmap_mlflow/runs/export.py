"""A run's pictures and result in the guideline's folder form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from hdmap_mlflow.errors import BadInput, quoted
from hdmap_mlflow.files import new_folder, to_json, write_whole
from hdmap_mlflow.names import Artifact
from hdmap_mlflow.runs import history


def export(uri: str, run_id: str, out: Path, say: Callable[[str], None] = print) -> Path:
    """Write a run as a new folder, whole or not at all; returns the path of its result file.

    `visualize/source_domain/<domain>/{good,fault}/*.png`, `visualize/target_domains/<domain>/...`, `figures/`,
    `scores/`, and `result_<condition>_<timestamp>.json` with the guideline's fields; the timestamp is the run's start.
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
        sides[record.source] = folder / "visualize/source_domain" / record.source
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
        write_whole(folder / name, to_json(result))
    return out / name
