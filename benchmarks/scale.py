"""Cost against the number of training maps, or of test maps, and the exponent of the law.

python -m benchmarks.scale --model padim --counts 200,1000,5000,20000,100000
python -m benchmarks.scale --model padim --counts 100000 --overrides model.weights=embedded,\
model.backbone=tf_efficientnet_lite0,model.layers=[blocks.1,blocks.2,blocks.4],model.n_features=80
python -m benchmarks.scale --model padim --vary test --counts 1000,10000,100000

One simulated domain; every count is a run in a process of its own, with nothing kept from those before but the packed
maps, which the first run makes. Seconds and peak resident memory are those of the phases that the run itself records.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

BACKBONE = "model.weights=random,model.backbone=resnet18,data.feature_cache_mb=0,data.batch_size=64,train.device=cpu"
SETTINGS = {
    "padim": "model.layers=[layer1,layer2,layer3],model.n_features=100",
    "patchcore": "model.layers=[layer2,layer3],model.coreset_sampling_ratio=0.01,model.max_bank_mb=10",
}
PHASES = ("read", "fit", "evaluate")
PHASE_OF = {"train": "fit", "test": "evaluate"}  # what is varied -> whose seconds and memory answer to it
TRAIN = 200  # maps, where the test maps are varied


def one(model: str, root: str, count: int, size: int, extra: str) -> dict[str, float]:
    """The costs of one run in this process: seconds and peak MB a phase."""
    from mlflow.tracking import MlflowClient

    from hdmap_mlflow.config import parse_overrides
    from hdmap_mlflow.runs import flow, setup

    settings = f"{BACKBONE},{SETTINGS[model]},data.image_size=[{size},{size}],data.max_train={count}"
    place = {"data.root": root, "data.target_domains": "", "data.source_domain": "domain_A"}
    config = setup.configure(model, "baseline", flags=parse_overrides(settings) | place, overrides=extra)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        result = flow.execute(config, say=lambda _: None)
        metrics = MlflowClient(result.uri).get_run(result.run_id).data.metrics
        os.chdir("/")
    costs = {f"{p}_{unit}": metrics[f"cost/{p}_{unit}"] for p in PHASES for unit in ("seconds", "peak_MB")}
    return costs | {"AUROC": metrics["source/image_AUROC"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="padim", choices=SETTINGS)
    parser.add_argument("--counts", default="200,1000,5000,20000")
    parser.add_argument("--vary", default="train", choices=PHASE_OF)
    parser.add_argument("--test", type=int, default=200, help="good and as many fault test maps, where these are fixed")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--overrides", default="", help="in place of its own settings")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        costs = one(arguments.model, arguments.root, arguments.child, arguments.size, arguments.overrides)
        print(json.dumps(costs))
        return
    counts = [int(count) for count in arguments.counts.split(",")]
    phase, varies_train = PHASE_OF[arguments.vary], arguments.vary == "train"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        fixed = f"{2 * arguments.test} test maps" if varies_train else f"{TRAIN} training maps"
        print(f"{arguments.model}, {arguments.size} px, {fixed}\n")
        print(f"| {arguments.vary} maps | read, s | fit, s | evaluate, s | peak of {phase}, MB | AUROC |")
        print("|" + "---:|" * 6)
        for count in counts:
            root = Path(folder) / ("maps" if varies_train else f"maps{count}")
            if not root.exists():
                sizes = (max(counts), arguments.test) if varies_train else (TRAIN, count // 2)
                _one_domain(root, *sizes)
            rows.append(_child(arguments, str(root), count if varies_train else TRAIN, f"{folder}/cache"))
            cells = [rows[-1][name] for name in ("read_seconds", "fit_seconds", "evaluate_seconds")]
            print(
                f"| {count:,} | "
                + " | ".join(f"{cell:.1f}" for cell in cells)
                + f" | {rows[-1][f'{phase}_peak_MB']:,.0f} | {rows[-1]['AUROC']:.4f} |",
                flush=True,
            )
    large = [i for i, count in enumerate(counts) if count >= 1000]
    if len(large) > 1:
        seconds = [rows[i][f"{phase}_seconds"] for i in large]
        law = np.polyfit(np.log([counts[i] for i in large]), np.log(seconds), 1)
        print(f"\n{phase} seconds grow as N^{law[0]:.2f} from 1,000 maps on")


def _one_domain(root: Path, train: int, test: int) -> None:
    """domain_A of the simulated four."""
    import shutil

    from hdmap_mlflow.data.simulate import simulate

    simulate(root, train, test)
    for name in ("domain_B", "domain_C", "domain_D"):
        shutil.rmtree(root / name)


def _child(arguments: argparse.Namespace, root: str, count: int, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--model", arguments.model, "--root", root]
    command += ["--child", str(count), "--size", str(arguments.size), "--overrides", arguments.overrides]
    environment = os.environ | {"HDMAP_CACHE": cache, "TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{count} maps failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
