"""Seconds and memory of one experiment: anomalib as it is, and this project with all that it records.

python -m benchmarks.compare --model patchcore --train 200 --test 100
python -m benchmarks.compare --model padim --overrides model.weights=embedded,model.backbone=tf_efficientnet_lite0,\
model.layers=[blocks.1,blocks.2,blocks.4]

Both see the same simulated maps, weights and seed; each run has a process of its own, in alternating order. The start
of the process and the imports are excluded. PaDiM's scores are the same to rounding. The others draw random numbers as
they fit (order of the maps, first pick of the coreset), each side its own, so theirs are alike but not the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PHASES = ("read", "build", "fit", "evaluate", "record", "pictures")
# Equal work for both sides: the network, its random weights, and what the model needs beside.
SETTINGS = {
    "patchcore": "model.weights=random,model.backbone=resnet18,model.layers=[layer2,layer3]",
    "padim": "model.weights=random,model.backbone=resnet18,model.layers=[layer1,layer2,layer3],model.n_features=100",
    "reverse_distillation": "model.weights=random,model.backbone=resnet18,train.max_epochs=1",
    "draem_sevnet": "train.max_epochs=1,model.patch_width_range=[10,80],model.patch_ratio_range=[0.02,0.1],"
    "model.reconstructive_width=32,model.discriminative_width=32",
}


def configured(model: str, root: str, size: int, extra: str, device: str = "cpu") -> Any:
    """The run of both sides; `extra` are overrides, also of this benchmark's own settings."""
    from hdmap_mlflow.config import parse_overrides
    from hdmap_mlflow.runs import setup

    settings = f"data.image_size=[{size},{size}],data.batch_size=32,train.device={device},{SETTINGS[model]}"
    settings += ",tracking.keep_local=true"  # the scores are read from there
    flags = parse_overrides(settings) | {"data.root": root, "data.validation": "source_test"}
    return setup.configure(model, "baseline", flags=flags, overrides=extra)


def one(side: str, model: str, root: str, size: int, extra: str) -> dict[str, Any]:
    """One experiment in this process: seconds a stage and in all, peak memory in MB, raw scores by file."""
    from benchmarks import plain
    from hdmap_mlflow import tracking
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.evaluation import scoring  # noqa: F401 - imports are not what is measured
    from hdmap_mlflow.runs import flow, train  # noqa: F401
    from hdmap_mlflow.runs.meter import Meter

    config = configured(model, root, size, extra)
    domains = layout.find_domains(Path(root))
    meter = Meter(lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
        tracking.open_store(uri, "hdmap")  # made once in the life of a project
        with meter.phase("all"):
            started = time.perf_counter()
            if side == "plain":
                model, module, seconds = plain.experiment(config, domains, Path(folder))
            else:
                result = flow.execute(config, say=lambda _: None)
            total = time.perf_counter() - started
        if side == "plain":
            scores = plain.raw_scores(model, module, domains)
        else:
            seconds = {phase: tracking_cost(result, phase) for phase in PHASES}
            scores = kept_scores(Path(folder), Path(root))
        os.chdir("/")
    return {"seconds": seconds, "scores": scores, "total": total, "peak_MB": meter.results["all_peak_MB"]}


def tracking_cost(result: Any, phase: str) -> float:
    from mlflow.tracking import MlflowClient

    return MlflowClient(result.uri).get_run(result.run_id).data.metrics[f"cost/{phase}_seconds"]


def kept_scores(folder: Path, root: Path) -> dict[str, float]:
    """What the run wrote: raw scores of the reported maps by file."""
    import pandas as pd

    written = folder.glob("results/*/*/scores/*.parquet")
    table = pd.concat([pd.read_parquet(path).assign(domain=path.stem) for path in written])
    table = table[table["split"] == "test"]
    files = [str(root / domain / path) for domain, path in zip(table["domain"], table["path"], strict=True)]
    return dict(zip(files, table["score"].tolist(), strict=True))


def child(side: str, arguments: argparse.Namespace, root: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compare", "--child", side, "--root", root]
    command += ["--model", arguments.model, "--size", str(arguments.size), "--overrides", arguments.overrides]
    environment = os.environ | {"HDMAP_CACHE": cache, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="patchcore", choices=SETTINGS)
    parser.add_argument("--train", type=int, default=200, help="training maps")
    parser.add_argument("--test", type=int, default=100, help="good and as many fault test maps a domain, 4 domains")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--overrides", default="", help="for both sides, in place of its own settings")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(one(arguments.child, arguments.model, arguments.root, arguments.size, arguments.overrides)))
        return
    from hdmap_mlflow.data.simulate import simulate

    with tempfile.TemporaryDirectory() as folder:
        root = str(simulate(Path(folder) / "maps", arguments.train, arguments.test))
        sides: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": [], "again": []}
        for repeat in range(arguments.repeats):
            order = ["plain", "ours"] if repeat % 2 == 0 else ["ours", "plain"]
            for side in order:
                cache = f"{folder}/cache{repeat}"  # ours starts without anything kept
                sides[side].append(child(side, arguments, root, cache))
            if arguments.repeats > 1:
                sides["again"].append(child("ours", arguments, root, cache))  # with what the first run kept
    show(sides, arguments)


def show(sides: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """A Markdown table: median seconds a stage, peak memory, the ratio, and how well the raw scores agree."""
    print(
        f"{arguments.model}, {arguments.train} train and 4 x {2 * arguments.test} test maps, {arguments.size} px, "
        f"{arguments.repeats} runs a side, medians"
    )
    print("\n| | " + " | ".join(PHASES) + " | all, s | peak MB |\n|---|" + "---:|" * (len(PHASES) + 2))
    for side, runs in filter(lambda item: item[1], sides.items()):
        cells = [statistics.median(r["seconds"].get(stage, 0.0) for r in runs) for stage in PHASES]
        total, peak = (statistics.median(r[key] for r in runs) for key in ("total", "peak_MB"))
        print(f"| {side} | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {total:.1f} | {peak:,.0f} |")
    totals = {side: statistics.median(r["total"] for r in runs) for side, runs in sides.items() if runs}
    print(f"\nplain / ours: {totals['plain'] / totals['ours']:.2f}")
    if "again" in totals:
        print(f"the same run again, with what the first one kept: {totals['ours'] / totals['again']:.2f} x faster")
    expected, found = sides["plain"][0]["scores"], sides["ours"][0]["scores"]
    pairs = np.array([[expected[file], found[file]] for file in found])
    difference = np.abs(pairs[:, 1] / pairs[:, 0] - 1)
    print(
        f"raw scores of {len(pairs)} maps: largest relative difference {difference.max():.1e}, "
        f"median {np.median(difference):.1e}, rank correlation {_ranks(pairs):.6f}"
    )


def _ranks(pairs: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


if __name__ == "__main__":
    main()
