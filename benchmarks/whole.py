"""Whole commands on the demo data, from the start of their process to its end.

python -m benchmarks.whole train   # PaDiM's quickstart, three times; the first fills the cache
python -m benchmarks.whole grid    # 16 runs, two at once, beside half of the sum of their own seconds
python -m benchmarks.whole tune    # eight trials, beside the fits and evaluations in them

Seconds of the clock. A run's own seconds are those between its start and its end in MLflow.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from benchmarks import machine

TRIALS = 8
GRID = ["--models", "patchcore", "--sources", "all", "--seeds", "0,1,2,3", "--jobs", "2"]  # of four domains


def hdmap(folder: Path, *words: str) -> float:
    """Seconds of one command with a store and a cache below a folder. Exits where it fails."""
    environment = os.environ | {
        "HDMAP_CACHE": f"{folder}/cache",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-W", "ignore", "-m", "hdmap_mlflow", *words]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"hdmap {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def runs(folder: Path) -> list[Run]:
    """What the store has that read maps: no runs of drivers."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    found = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
    return [run for run in found if "cost/fit_seconds" in run.data.metrics]


def train(folder: Path) -> None:
    took = [hdmap(folder, "train", "padim") for _ in range(3)]
    print(f"hdmap train padim: {', '.join(f'{seconds:.1f}' for seconds in took)} s")
    cost = runs(folder)[0].data.metrics  # the last one's
    phases = ("read", "build", "fit", "evaluate", "record", "pictures")
    print(", ".join(f"{phase} {cost[f'cost/{phase}_seconds']:.1f}" for phase in phases))


def grid(folder: Path) -> None:
    hdmap(folder, "train", "patchcore")  # conversions and packed maps are in the cache, as for every grid but the first
    before = {run.info.run_id for run in runs(folder)}
    took = hdmap(folder, "grid", *GRID, "--force")
    own = [(r.info.end_time - r.info.start_time) / 1e3 for r in runs(folder) if r.info.run_id not in before]
    print(f"hdmap grid {' '.join(GRID)}: {took:.1f} s; {len(own)} runs of {sum(own) / len(own):.1f} s on average")
    print(f"beside half of their sum, {sum(own) / 2:.1f} s: {2 * took / sum(own):.2f}")


def tune(folder: Path) -> None:
    took = hdmap(folder, "tune", "padim", "--trials", str(TRIALS), "--refit-seeds", "")
    trials = sorted(runs(folder), key=lambda run: run.info.start_time)
    work = [run.data.metrics["cost/fit_seconds"] + run.data.metrics["cost/evaluate_seconds"] for run in trials]
    others = (trials[-1].info.start_time - trials[0].info.start_time) / 1e3 - sum(work[:-1])
    print(f"hdmap tune padim --trials {TRIALS}: {took:.1f} s, {sum(work):.1f} of them fits and evaluations")
    print(f"beside these {others / (len(trials) - 1):.1f} s per trial from one start to the next, of {len(trials)}")
    print(f"with what comes before the first and after the last {(took - sum(work)) / len(trials):.1f} s")


WORKS = {"train": train, "grid": grid, "tune": tune}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    work = WORKS[parser.parse_args().work]
    print(machine.described())
    with tempfile.TemporaryDirectory() as folder:
        work(Path(folder))


if __name__ == "__main__":
    main()
