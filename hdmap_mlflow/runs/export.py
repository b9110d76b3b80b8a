"""A run's pictures and result in the guideline's folder form."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import history


def export(uri: str, run_id: str, out: Path) -> Path:
    """Write a run below a new or empty folder; returns the path of its result file.

    `visualize/source_domain/<domain>/{good,fault}/*.png`, `visualize/target_domains/<domain>/...`, `figures/`,
    `scores/`, and `result_<condition>_<timestamp>.json` with the guideline's fields; the timestamp is the run's start.
    """
    from hdmap_mlflow import tracking

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is not empty; give --out a new folder")
    record = history.read_run(uri, run_id)
    result = history.read_json(uri, run_id, "result.json")
    stamp = datetime.fromtimestamp(record.started / 1000).strftime("%Y%m%d_%H%M%S")
    out.mkdir(parents=True, exist_ok=True)
    for domain in record.scores:
        side = "source_domain" if domain == record.source else "target_domains"
        for label in ("good", "fault"):
            (out / "visualize" / side / domain / label).mkdir(parents=True)
    for name in ("heatmaps", "figures", "scores"):
        try:
            found = tracking.artifacts(uri, run_id, name)
        except BadInput:
            if name == "scores":
                raise
            continue  # a run made with tracking.heatmaps=0 has no pictures
        if name != "heatmaps":
            shutil.copytree(found, out / name)
            continue
        for folder in found.iterdir():
            side = "source_domain" if folder.name == record.source else "target_domains"
            shutil.copytree(folder, out / "visualize" / side / folder.name, dirs_exist_ok=True)
    path = out / f"result_{record.tag('condition')}_{stamp}.json"
    path.write_text(json.dumps(result, indent=2))
    return path
