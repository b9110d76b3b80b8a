"""What methods reach on the simulated maps beside what is published for the real ones: the table of docs/simulator.md.

python -m benchmarks.calibrate --seeds 0,1,2
python -m benchmarks.calibrate --domains domain_C --contrasts 0.07/0.42,0.14/0.42,0.20/0.42

PatchCore and PaDiM in their quickstart are fitted to a domain's healthy maps and score its own test maps, as the
published numbers are; a contrast changes the fault maps alone, so one fit serves all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.data import simulate

METHODS = ("patchcore", "padim")
TRIVIAL = {"image_max": "max", "image_mean": "mean", "image_row": "row ratio"}
# Quartiles, mean and sd of the pixels of test/fault after minmax scaling, published.
PIXELS = {
    "domain_A": (0.1636, 0.2121, 0.2748, 0.2280, 0.0884),
    "domain_B": (0.1299, 0.1749, 0.2348, 0.1903, 0.0804),
    "domain_C": (0.1964, 0.2448, 0.3090, 0.2629, 0.0964),
    "domain_D": (0.1285, 0.1658, 0.2159, 0.1808, 0.0764),
}
Score = Callable[[np.ndarray], np.ndarray]


def auroc(good: np.ndarray, fault: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(good), len(fault)]), np.concatenate([good, fault])))


def accuracy(good: np.ndarray, fault: np.ndarray) -> float:
    """At the best threshold, of as many good as fault maps: how the published thresholds were set is not published."""
    return max(float(((good < t).mean() + (fault >= t).mean()) / 2) for t in np.concatenate([good, fault]))


def fitted(method: str, root: Path, domain: str, folder: Path) -> Score:
    """A method's quickstart, fitted to the training maps of a domain: maps (n, 31, 95) to raw scores (n,)."""
    import torch

    from hdmap_mlflow.data import layout
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import setup, train

    config = setup.configure(
        method, "quickstart", flags={"data.root": str(root), "data.source_domain": domain}, overrides="train.device=cpu"
    )
    train.seed(config.train)
    model = builder.build(config)
    maps = MultiDomainHDMAPDataModule(layout.read_domains(root, [domain]), config.data)
    train.fit(config, model, maps, trains=False, workdir=folder, progress=False)
    model.eval()

    @torch.inference_mode()
    def score(pixels: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(pixels)[:, None].repeat(1, 3, 1, 1).split(50)
        scores = [model.model(model.pre_processor.transform(batch)).pred_score.reshape(-1) for batch in batches]
        return torch.cat(scores).numpy()

    return score


def trivial(name: str) -> Score:
    import torch

    from hdmap_mlflow.evaluation import scoring

    return lambda pixels: scoring.trivial(torch.from_numpy(pixels))[name]


def measure(domain: str, seed: int, train: int, test: int, contrasts: list[tuple[float, float]]) -> Iterator[dict]:
    """One row per contrast: what each score reaches, and the largest relative departure of the pixel statistics."""

    def drawn(split: str) -> np.ndarray:
        rng = np.random.default_rng([seed, simulate.SPLITS.index(split)])
        return simulate.domain_maps(domain, split, test, rng).pixels

    constants, half = simulate.DOMAINS[domain], (test + 1) // 2
    with tempfile.TemporaryDirectory() as folder:
        root = simulate.simulate(Path(folder) / "maps", train, 4, seed)
        scores = {name: fitted(name, root, domain, Path(folder)) for name in METHODS}
        scores |= {label: trivial(name) for name, label in TRIVIAL.items()}
        good = {name: score(drawn("test/good")) for name, score in scores.items()}
        for contrast in contrasts:
            simulate.DOMAINS[domain] = dataclasses.replace(constants, contrast=contrast)
            pixels = drawn("test/fault")
            row: dict[str, object] = {"domain": domain, "cold/warm": "{:.2f}/{:.2f}".format(*contrast)}
            for name, score in scores.items():
                fault = score(pixels)
                row[name] = auroc(good[name], fault)
                if name in METHODS:
                    row[f"{name} cold"] = auroc(good[name][:half], fault[:half])
                    row[f"{name} accuracy"] = accuracy(good[name], fault)
            statistics = [*np.quantile(pixels, [0.25, 0.5, 0.75]), pixels.mean(), pixels.std()]
            row["pixels"] = float(np.abs(np.divide(statistics, PIXELS[domain]) - 1).max())
            yield row
        simulate.DOMAINS[domain] = constants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", default=",".join(simulate.DOMAINS))
    parser.add_argument("--contrasts", default="", help="cold/warm,cold/warm: to be tried in place of the simulator's")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--train", type=int, default=128, help="as the demo set has")
    parser.add_argument("--test", type=int, default=200, help="good and as many fault maps")
    arguments = parser.parse_args()
    tried = [tuple(map(float, pair.split("/"))) for pair in arguments.contrasts.split(",") if pair]
    rows: list[dict] = []
    for domain in arguments.domains.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            contrasts = tried or [simulate.DOMAINS[domain].contrast, simulate.HARD[domain]]
            rows += measure(domain, seed, arguments.train, arguments.test, contrasts)
    table = pd.DataFrame(rows).groupby(["domain", "cold/warm"], sort=False).mean()
    cells = [
        [*map(str, key), *(f"{value:.3f}" for value in row)] for key, row in zip(table.index, table.values, strict=True)
    ]
    print("\n".join(markdown_table([*table.index.names, *table.columns], cells, left=2)))


if __name__ == "__main__":
    main()
