"""Everything that one card can do, beside plain anomalib on the same card, with the CPU's results as the measure.

python -m benchmarks.gpu --out gpu.md

Takes less than 8 minutes on one GPU (not measured yet: there was none); `--device cpu --tiny` tries every line of it
anywhere. Markdown, with the card and the versions. A difference from the CPU above its tolerance ends it with exit
code 1, after everything was written.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-3  # of the sd of the CPU's scores: as `hdmap verify` allows for another device
MODELS = ("patchcore", "padim", "reverse_distillation", "draem_sevnet")
BATCHES = (32, 64, 128, 256, 512, 1024)


class Card:
    """The device that is measured: seconds of finished work, and the memory that it took."""

    def __init__(self, device: str) -> None:
        import torch

        self.device, self.cuda = device, torch.cuda if device == "cuda" else None
        self.name = torch.cuda.get_device_name() if device == "cuda" else "CPU"

    def seconds(self, work: Callable[[], object]) -> float:
        """Of the clock, with all that the device was given to do."""
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def peak_mb(self) -> str:
        """The most memory of the card since this was asked last."""
        if not self.cuda:
            return "-"
        peak = self.cuda.max_memory_allocated() / 1e6
        self.cuda.reset_peak_memory_stats()
        return f"{peak:,.0f}"

    def _wait(self) -> None:
        if self.cuda:
            self.cuda.synchronize()


def experiments(card: Card, root: Path, size: int, tiny: bool) -> Iterator[tuple[str, float]]:
    """A line per model and side: fit on the first domain, evaluation of all; and how far scores are from the CPU's."""
    from benchmarks import plain
    from benchmarks.compare import configured
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.evaluation import scoring
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import train

    domains = layout.find_domains(root)[: 2 if tiny else None]
    for name in MODELS[: 2 if tiny else None]:
        config = configured(name, str(root), size, "data.feature_cache_mb=0", card.device)
        module = MultiDomainHDMAPDataModule(layout.read_domains(root, domains), config.data)
        with tempfile.TemporaryDirectory() as folder:
            _, _, theirs = plain.experiment(config, domains, Path(folder))
            memory = card.peak_mb()
            yield f"| {name} | plain | {theirs['fit']:.2f} | {theirs['evaluate']:.2f} | {memory} | | |", 0.0
            train.seed(config.train)
            model = builder.build(config)

            def work(c: Any = config, m: Any = model, maps: Any = module, below: str = folder) -> None:
                train.fit(c, m, maps, trains=builder.trains(c, m), workdir=Path(below), progress=False)

            fit = card.seconds(work)

        def scores(domain: str, device: str, model: Any = model, module: Any = module) -> np.ndarray:
            loader = module.scoring_dataloader(domain, "test")
            return scoring.score(model, loader, domain, "test", device, False).table["score"].to_numpy(float)

        found: dict[str, np.ndarray] = {}
        evaluate = card.seconds(lambda s=scores, f=found: f.update({one: s(one, card.device) for one in domains}))
        memory, expected = card.peak_mb(), scores(domains[-1], "cpu")
        apart = float(np.abs(found[domains[-1]] - expected).max() / expected.std())
        ratio = (theirs["fit"] + theirs["evaluate"]) / (fit + evaluate)
        yield f"| {name} | ours | {fit:.2f} | {evaluate:.2f} | {memory} | {ratio:.1f} | {apart:.1e} |", apart


def batches(card: Card, size: int, tiny: bool) -> Iterator[str]:
    """The size of a batch that a run chooses by itself, and a line per size: maps a second, until more gains nothing.

    Of PatchCore's scoring, embedded weights.
    """
    import torch

    from hdmap_mlflow.data.datamodule import loose_batch, on_device
    from hdmap_mlflow.evaluation import batch as automatic
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import setup

    config = setup.configure("patchcore", overrides=f"data.image_size=[{size},{size}],train.device={card.device}")
    model = builder.build(config).to(card.device).eval()
    channels = sum(model.model.feature_extractor.extractor.out_dims)
    model.model.memory_bank = torch.rand(64 if tiny else 10_240, channels, device=card.device)
    first = np.random.default_rng(0).random((BATCHES[0], 31, 95), dtype=np.float32)
    loader = torch.utils.data.DataLoader(first, BATCHES[0], collate_fn=lambda maps: loose_batch(np.stack(maps)))
    yield f"| `data.eval_batch_size=auto`: {automatic.fitting(model, loader, card.device)} | | {card.peak_mb()} |"
    best = 0.0
    for maps in BATCHES[: 2 if tiny else None]:
        batch = loose_batch(np.random.default_rng(0).random((maps, 31, 95), dtype=np.float32))
        pixels = batch.image

        @torch.inference_mode()
        def work(batch: Any = batch, pixels: Any = pixels) -> None:
            batch.image = model.pre_processor.transform(on_device(pixels, card.device))
            model.predict_step(batch, 0).pred_score.cpu()

        work()
        rate = maps / min(card.seconds(work) for _ in range(3))
        yield f"| {maps} | {rate:,.0f} | {card.peak_mb()} |"
        if rate < 1.05 * best:
            break
        best = rate


def parts(card: Card, tiny: bool) -> Iterator[tuple[str, float]]:
    """The coreset and the search, on the card and on the CPU."""
    import torch

    from hdmap_mlflow.models.own.patchcore import Patchcore
    from hdmap_mlflow.models.parts.coreset import greedy

    random = torch.Generator().manual_seed(0)
    rows, count = torch.rand(500 if tiny else 40_192, 152, generator=random), 20 if tiny else 4_019
    there = rows.to(card.device)
    greedy(rows[:60], 5, 0)  # compiled once in the life of an installation
    picks = {"card": greedy(there, count, 0).cpu(), "cpu": greedy(rows, count, 0)}
    took = card.seconds(lambda: greedy(there, count, 0)), card.seconds(lambda: greedy(rows, count, 0))
    lost = 1 - len(np.intersect1d(picks["card"], picks["cpu"])) / count
    yield f"| coreset, {count} of {len(rows)} | {took[0]:.2f} | {took[1]:.2f} | {lost:.1%} other picks |", 0.0
    search = Patchcore(backbone="resnet18", layers=["layer1"], pre_trained=False).model
    asked = torch.rand(128 if tiny else 32_768, 152, generator=random)

    def nearest(device: str) -> torch.Tensor:
        search.memory_bank = rows[: len(rows) // 4].to(device)
        return search.nearest_neighbors(asked.to(device), 1)[0].cpu()

    found, expected = nearest(card.device), nearest("cpu")
    took = card.seconds(lambda: nearest(card.device)), card.seconds(lambda: nearest("cpu"))
    apart = float((found - expected).abs().max() / expected.std())
    yield f"| search, {len(asked)} patches | {took[0]:.2f} | {took[1]:.2f} | {apart:.1e} sd |", apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--tiny", action="store_true", help="a few maps and two models: a trial of the program")
    parser.add_argument("--out", type=Path, help="a Markdown file; else the terminal")
    arguments = parser.parse_args()
    import torch

    from hdmap_mlflow.data.simulate import simulate

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; give --device cpu --tiny to try the program")
    card, gaps = Card(arguments.device), list[float]()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "anomalib"))
    lines = [
        f"{card.name}, {versions}, {arguments.size} px",
        "",
        "| model | side | fit, s | evaluate, s | MB | ratio |",
    ]
    lines[-1] += " from the CPU's scores, sd |\n|---|---|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        root = simulate(Path(folder) / "maps", *((12, 4) if arguments.tiny else (200, 100)))
        for line, apart in experiments(card, root, arguments.size, arguments.tiny):
            lines, gaps = [*lines, line], [*gaps, apart]
    lines += [
        "",
        "| maps a batch | scored, maps/s | MB |\n|---:|---:|---:|",
        *batches(card, arguments.size, arguments.tiny),
    ]
    lines += ["", "| part | card, s | CPU, s | apart |\n|---|---:|---:|---:|"]
    for line, apart in parts(card, arguments.tiny):
        lines, gaps = [*lines, line], [*gaps, apart]
    text = "\n".join(lines) + "\n"
    arguments.out.write_text(text, encoding="utf-8") if arguments.out else print(text)
    if not max(gaps) <= TOLERANCE:
        sys.exit(f"a result differs from the CPU's by {max(gaps):.1e} sd, {TOLERANCE:g} is allowed")


if __name__ == "__main__":
    main()
