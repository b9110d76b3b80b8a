"""Two parts beside their plain counterparts: reading the maps of an epoch, and selecting a coreset.

python -m benchmarks.parts reading --maps 1000
python -m benchmarks.parts coreset --maps 157
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def reading(maps: int) -> None:
    """The best of five epochs without resizing, masks or shuffling: a TIFF decoded an item, and packed maps."""
    from benchmarks.plain import Folder
    from hdmap_mlflow import config
    from hdmap_mlflow.data import layout
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
                lambda: [layout.read_map(Path(file)) for file in files],
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
    from hdmap_mlflow.models.coreset import greedy

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
    print(f"{' x '.join(map(str, features.shape))} features, {len(expected)} picks: anomalib {old:.1f} s, "
          f"ours {new:.1f} s, ratio {old / new:.1f}; {same} picks are the same in the same order, "
          f"{len(set(expected) & set(found))} in any")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["reading", "coreset"])
    parser.add_argument("--maps", type=int, default=1000)
    parser.add_argument("--ratio", type=float, default=0.1)
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    if arguments.part == "reading":
        reading(arguments.maps)
    else:
        coreset(arguments.maps, arguments.ratio)


if __name__ == "__main__":
    main()
