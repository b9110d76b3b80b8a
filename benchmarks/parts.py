"""Parts beside their plain counterparts: reading an epoch's maps, the coreset, a second condition, a bounded bank.

python -m benchmarks.parts reading
python -m benchmarks.parts coreset
python -m benchmarks.parts second --backbone wide_resnet50_2
python -m benchmarks.parts budget
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reading(maps: int) -> None:
    """The best of five epochs without resizing, masks or shuffling: a TIFF decoded an item, and packed maps."""
    from benchmarks.plain import Folder
    from hdmap_mlflow import config
    from hdmap_mlflow.data import formats, layout
    from hdmap_mlflow.data.datamodule import MapDataset, MultiDomainHDMAPDataModule
    from hdmap_mlflow.data.simulate import simulate

    with tempfile.TemporaryDirectory() as folder:
        root = simulate(Path(folder) / "maps", maps, 4)
        domains = layout.read_domains(root, ["domain_A"])
        module = MultiDomainHDMAPDataModule(domains, config.DataConfig(validation="source_test"))
        packed = MapDataset(module.train_maps.assign(mask=""), packed=domains[0].packed)
        decoded = Folder(root / "domain_A", ("train/good",))
        rows, files = packed.table["row"], packed.table["file"]
        works = {
            "items": (lambda: [decoded[i] for i in range(maps)], lambda: [packed[i] for i in range(maps)]),
            "pixels": (
                lambda: [formats.read_map(Path(file)) for file in files],
                lambda: [domains[0].packed[row] for row in rows],
            ),
        }
        print(f"{maps} maps of {'x'.join(map(str, packed[0].image.shape[1:]))}\n")
        for name, (plain, ours) in works.items():
            old, new = (min(seconds(work) for _ in range(5)) for work in (plain, ours))
            print(f"{name}: TIFF {old * 1e3:.0f} ms, packed {new * 1e3:.0f} ms, ratio {old / new:.1f}")


def coreset(maps: int, ratio: float) -> None:
    """anomalib's selection and ours, from the same start, on 256 patch features a map of a random ResNet-18."""
    import torch
    from anomalib.models.components import KCenterGreedy

    from benchmarks.compare import configured
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.models.parts.coreset import greedy

    with tempfile.TemporaryDirectory() as folder:
        root = simulate(Path(folder) / "maps", maps, 4)
        config = configured("patchcore", str(root), 128, "")
        model = builder.build(config).train()
        module = MultiDomainHDMAPDataModule(layout.read_domains(root, ["domain_A"]), config.data)
        with torch.no_grad():
            features = torch.cat([model.model(batch.image) for batch in module.train_dataloader()])
    greedy(features[:100], 5, 0)  # compiled once in the life of an installation
    sampler = KCenterGreedy(features.unsqueeze(-1), ratio)  # three dimensions: measured whole, not projected
    expected: list[int] = []
    old = seconds(lambda: expected.extend(sampler.select_coreset_idxs()))
    found: list[int] = []
    new = seconds(lambda: found.extend(greedy(features, len(expected), expected[0]).tolist()))
    same = sum(a == b for a, b in zip(expected, found, strict=True))
    print(
        f"{' x '.join(map(str, features.shape))} features, {len(expected)} picks: anomalib {old:.1f} s, "
        f"ours {new:.1f} s, ratio {old / new:.1f}; {same} picks are the same in the same order, "
        f"{len(set(expected) & set(found))} in any"
    )


def run_once(config: Any, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds and metrics of a run in a store of its own that is there already."""
    from mlflow.tracking import MlflowClient

    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import flow

    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
    os.chdir(folder)
    tracking.open_store(uri, "hdmap")
    started = time.perf_counter()
    result = flow.execute(config, say=lambda _: None)
    return time.perf_counter() - started, dict(MlflowClient(uri).get_run(result.run_id).data.metrics)


def second(maps: int, backbone: str) -> None:
    """PaDiM with 100 and then with 60 channels: the second reads the features that the first has kept."""
    from benchmarks.compare import configured
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.evaluation import scoring  # noqa: F401 - imports are not what is measured
    from hdmap_mlflow.runs import train  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HDMAP_CACHE"] = f"{folder}/cache"
        root = simulate(folder / "maps", maps, maps // 2)
        totals = []
        for channels in (100, 60):
            extra = f"model.backbone={backbone},model.n_features={channels},data.feature_cache_mb=100000"
            total, metrics = run_once(configured("padim", str(root), 128, extra), folder)
            phases = {phase: metrics[f"cost/{phase}_seconds"] for phase in ("fit", "evaluate")}
            totals.append((total, sum(phases.values())))
            print(
                f"n_features={channels}: {total:.1f} s, "
                + ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in phases.items())
            )
    (first, work), (after, less) = totals
    print(f"{backbone}: second condition {first / after:.2f} x faster, fit and evaluation alone {work / less:.2f} x")


def budget(maps: int) -> None:
    """PatchCore with embedded weights: a bank of every tenth patch, and banks within `model.max_bank_mb`."""
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.runs import setup

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HDMAP_CACHE"] = f"{folder}/cache"
        root = simulate(folder / "maps", maps, 200)
        print("| max_bank_mb | fit, s | source AUROC | mean target AUROC |\n|---:|---:|---:|---:|")
        for limit in (1000, 16, 8, 4, 2, 1):
            settings = f"model.max_bank_mb={limit},model.coreset_sampling_ratio=0.1,data.image_size=[128,128]"
            flags = {"data.root": str(root)}
            config = setup.configure(
                "patchcore", "quickstart", flags=flags, overrides=f"{settings},tracking.heatmaps=0"
            )
            _, found = run_once(config, folder)
            names = ("source/image_AUROC", "target_mean/image_AUROC")
            aurocs = " | ".join(f"{found[metric]:.4f}" for metric in names)
            print(f"| {limit} | {found['cost/fit_seconds']:.1f} | {aurocs} |", flush=True)


MAPS = {"reading": 1000, "coreset": 157, "second": 200, "budget": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=MAPS)
    parser.add_argument("--maps", type=int, default=0, help=f"0: {MAPS}")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--backbone", default="wide_resnet50_2")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    maps = arguments.maps or MAPS[arguments.part]
    works = {
        "reading": lambda: reading(maps),
        "coreset": lambda: coreset(maps, arguments.ratio),
        "second": lambda: second(maps, arguments.backbone),
        "budget": lambda: budget(maps),
    }
    works[arguments.part]()


if __name__ == "__main__":
    main()
