"""Whole commands, SIGKILLed at moments that a seed chooses and started again: nothing is lost, repeated or changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from maps import write_domain
from mlflow import MlflowClient
from servers import new_store

pytestmark = pytest.mark.slow
HELPERS = Path(__file__).parents[1] / "helpers"
CONDITIONS = {
    "quick": {
        "name": "quick",
        "config": {"image_size": [31, 95], "max_epochs": 3},
        "search": {"model.rate": {"type": "float", "low": 0.01, "high": 0.2}},
    }
}
MODEL = "toys:Trained"
COMMON = ("--data-root", "maps", "--condition-file", "quick.json", "--overrides", "tracking.heatmaps=0")
COMMANDS = {
    "train": ("train", MODEL, "--condition", "quick", "--source-domain", "domain_A", *COMMON),
    "grid": ("grid", "--models", MODEL, "--conditions", "quick", "--sources", "domain_A", "--seeds", "0,1,2")
    + ("--no-ray", "--jobs", "2", "--stagger", "0", *COMMON),
    "tune": ("tune", MODEL, "--condition", "quick", "--source-domain", "domain_A", "--trials", "4", "--jobs", "2")
    + ("--no-ray", "--refit-seeds", "1", "--sampler", "random", *COMMON),
}
KILLS = 2
UNDISTURBED = {"train": 1, "grid": 3, "tune": 6}  # runs that finish; of tune, four trials and two refits


def start(command: str, folder: Path) -> subprocess.Popen[str]:
    """The command in its own session, in a folder with a store, a cache and results of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "quick.json").write_text(json.dumps(CONDITIONS))
    if not (folder / "maps").exists():
        (folder / "maps").symlink_to(folder.parent / "maps")
        new_store(folder / "mlflow.db")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HDMAP_"))}
    clean |= {"PYTHONPATH": os.pathsep.join([str(HELPERS), str(HELPERS.parents[1])]), "HDMAP_CACHE": str(folder / "c")}
    return subprocess.Popen(
        [sys.executable, "-m", "hdmap_mlflow", *COMMANDS[command]],
        cwd=folder,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of every finished run by what it is, without its costs.

    A grid and a study finish each once. `train`, killed between the end of its run and its own, makes an equal one.
    """
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = {}
    for run in client.search_runs(["1"], max_results=1000):
        if run.info.status == "FINISHED" and run.data.tags["hdmap.kind"] in ("run", "trial"):
            name = " ".join(run.data.params[key] for key in ("train.seed", "model.rate", "data.source_domain"))
            name += " " + run.data.tags["hdmap.kind"] + run.data.tags.get("hdmap.role", "")
            metrics = {k: v for k, v in run.data.metrics.items() if not k.startswith("cost/")}
            assert name not in found or (folder.name == "train" and found[name] == metrics), f"{name} was run twice"
            found[name] = metrics
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_again_and_again_it_ends_as_if_it_never_was(command, tmp_path):
    write_domain(tmp_path / "maps", "domain_A", train=8, good=20, fault=20)
    write_domain(tmp_path / "maps", "domain_B", train=2, good=6, fault=6)
    began = time.monotonic()
    calm = start(command, tmp_path / "calm")
    out, err = calm.communicate(timeout=180)
    took = time.monotonic() - began
    assert calm.returncode == 0, err
    expected = results(tmp_path / "calm")
    assert len(expected) == UNDISTURBED[command], out

    folder = tmp_path / command
    for moment in np.random.default_rng(len(command)).uniform(0.3, 0.95, KILLS) * took:
        process = start(command, folder)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    last = start(command, folder)
    out, err = last.communicate(timeout=180)
    assert last.returncode == 0, err
    assert results(folder) == expected
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    states = {run.info.run_id: run.info.status for run in client.search_runs(["1"])}
    assert "RUNNING" not in states.values(), "the next launch closes what a killed one left open"
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
