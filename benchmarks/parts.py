"""Parts beside their plain counterparts: reading an epoch's maps, the coreset, a second condition, a bounded bank.

python -m benchmarks.parts reading
python -m benchmarks.parts coreset
python -m benchmarks.parts second --backbone wide_resnet50_2
python -m benchmarks.parts budget
python -m benchmarks.parts scoring
python -m benchmarks.parts predict
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


def scoring(maps: int, size: int) -> None:
    """PatchCore's evaluation, quickstart settings: torch and anomalib's search, then one lever after the other.

    At 256 px 1,024 patches a map and a bank of 10,240 x 152. Processor time and clock, the better of two each.
    """
    import contextlib

    import numpy as np
    import torch
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    from hdmap_mlflow.data import dataset
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.evaluation import scoring
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.models.parts import engine
    from hdmap_mlflow.runs import setup, train

    with tempfile.TemporaryDirectory() as folder:
        root = simulate(Path(folder) / "maps", 200, maps // 2)
        ratio = 0.05 if size == 256 else 0.02
        extra = f"data.image_size=[{size},{size}],model.coreset_sampling_ratio={ratio},data.feature_cache_mb=0"
        config = setup.configure("patchcore", flags={"data.root": str(root)}, overrides=extra)
        module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
        model = builder.build(config)
        engine.attach(model, config)
        train.fit(config, model, module, trains=False, workdir=Path(folder), progress=False)
        ours = model.model.nearest_neighbors

        def cost(search: Any, where: contextlib.AbstractContextManager) -> tuple[float, float, np.ndarray]:
            model.model.nearest_neighbors, best = search, (float("inf"), float("inf"))
            with where:
                for _ in range(2):
                    began, used = time.perf_counter(), time.process_time()
                    loader = module.scoring_dataloader("domain_B", "test")
                    table = scoring.score(model, loader, "domain_B", "test", "cpu", False).table
                    spent = (time.process_time() - used, time.perf_counter() - began)
                    best = min(best[0], spent[0]), min(best[1], spent[1])
            return *best, table["score"].to_numpy(float)

        def plain(embedding: torch.Tensor, n_neighbors: int) -> Any:
            return PatchcoreModel.nearest_neighbors(model.model, embedding, n_neighbors)

        print(f"{size} px, bank {' x '.join(map(str, model.model.memory_bank.shape))}, {maps} maps")
        rows = {
            "torch, anomalib's search": cost(plain, engine.at_rest(model)),
            "torch, our search": cost(ours, engine.at_rest(model)),
            "OpenVINO, our search": cost(ours, contextlib.nullcontext()),
        }
        first = rows["torch, anomalib's search"]
        print(
            "| | processors, ms a map | clock, ms a map | ratio | largest difference, sd |\n|---|---:|---:|---:|---:|"
        )
        for name, (used, took, scores) in rows.items():
            apart = np.abs(scores - first[2]).max() / first[2].std()
            cells = [f"{used / maps * 1e3:.1f}", f"{took / maps * 1e3:.1f}", f"{first[0] / used:.1f}", f"{apart:.1e}"]
            print(f"| {name} | {' | '.join(cells)} |")


def predict(maps: int) -> None:
    """`hdmap predict` of many maps in files, by a PatchCore quickstart run: with OpenVINO, and with torch."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.data.simulate import simulate
    from hdmap_mlflow.models.parts import engine
    from hdmap_mlflow.runs import flow, setup
    from hdmap_mlflow.runs import predict as prediction

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder}/mlflow.db"
        os.chdir(folder)
        tracking.open_store(uri, "hdmap")
        root, more = simulate(folder / "maps", 200, 20), simulate(folder / "new", maps, 1)
        extra = "tracking.figures=false,tracking.heatmaps=0"
        config = setup.configure("patchcore", flags={"data.root": str(root)}, overrides=extra)
        run = flow.execute(config, say=lambda _: None).run_id
        wanted = engine.wanted
        for computes in ("OpenVINO", "torch"):
            engine.wanted = wanted if computes == "OpenVINO" else lambda *_: False
            began, used = time.perf_counter(), time.process_time()
            request = prediction.Request(run, [more / "domain_A" / "train"], folder / f"{computes}.csv")
            done = prediction.predict(uri, request, say=lambda _: None)
            took, spent = time.perf_counter() - began, time.process_time() - used
            each = [f"{cost / done.maps * 1e3:.2f} ms" for cost in (spent, took)]
            print(
                f"{computes}: {done.maps} maps, {each[0]} of processors and {each[1]} of the clock per map", flush=True
            )


MAPS = {"predict": 10_000, "scoring": 64, "reading": 1000, "coreset": 157, "second": 200, "budget": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=MAPS)
    parser.add_argument("--maps", type=int, default=0, help=f"0: {MAPS}")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    maps = arguments.maps or MAPS[arguments.part]
    works = {
        "reading": lambda: reading(maps),
        "coreset": lambda: coreset(maps, arguments.ratio),
        "second": lambda: second(maps, arguments.backbone),
        "budget": lambda: budget(maps),
        "scoring": lambda: scoring(maps, arguments.size),
        "predict": lambda: predict(maps),
    }
    works[arguments.part]()


if __name__ == "__main__":
    main()
