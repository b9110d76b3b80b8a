"""The same experiment as a researcher writes it with anomalib alone: a TIFF decoded an item, its Engine, its parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from anomalib.engine import Engine
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Normalize

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.models import backbones, signature
from hdmap_mlflow.models.registry import find_model
from hdmap_mlflow.runs import train

# anomalib's own class where ours stands in the registry.
PUBLISHED = {
    "patchcore": "anomalib.models.image:Patchcore",
    "padim": "anomalib.models.image:Padim",
    "cflow": "anomalib.models.image:Cflow",
}


class Folder(Dataset):
    """Files of one domain and split, decoded one at a time; three equal channels."""

    def __init__(self, root: Path, roles: tuple[str, ...]) -> None:
        self.items = [(file, int(role.endswith("fault"))) for role in roles for file in sorted((root / role).iterdir())]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ImageItem:
        file, label = self.items[index]
        pixels = torch.from_numpy(tifffile.imread(file).astype(np.float32))
        return ImageItem(image=pixels.repeat(3, 1, 1), gt_label=torch.tensor(label), image_path=str(file))


class Domains(AnomalibDataModule):
    """Source train, and the source's test maps to validate on, as the guideline has it."""

    def __init__(self, root: Path, source: str, config: RunConfig) -> None:
        super().__init__(config.data.batch_size, config.data.eval_batch_size, 0)
        self.root, self.source, self.size = root, source, config.data.eval_batch_size

    def _setup(self, _stage: str | None = None) -> None: ...
    def setup(self, stage: str | None = None) -> None: ...

    def train_dataloader(self) -> DataLoader:
        data = Folder(self.root / self.source, ("train/good",))
        return DataLoader(data, self.train_batch_size, shuffle=True, collate_fn=ImageBatch.collate)

    def val_dataloader(self) -> DataLoader:
        return self.tests(self.source)

    def test_dataloader(self) -> DataLoader:
        return self.tests(self.source)

    def tests(self, domain: str) -> DataLoader:
        data = Folder(self.root / domain, ("test/good", "test/fault"))
        return DataLoader(data, self.size, collate_fn=ImageBatch.collate)


def experiment(config: RunConfig, domains: list[str], folder: Path) -> tuple[Any, Domains, dict[str, float]]:
    """Fit on the first domain and test on all: the model, its data and the seconds of each stage."""
    root = Path(config.data.root)
    module = Domains(root, domains[0], config)
    train.seed(config.train)
    seconds = {}
    started = time.perf_counter()
    model = build(config)
    seconds["build"] = time.perf_counter() - started
    engine = Engine(
        default_root_dir=folder,
        accelerator="gpu" if config.train.device == "cuda" else config.train.device,
        devices=1,
        max_epochs=config.train.max_epochs,
        enable_progress_bar=False,
        logger=False,
    )
    started = time.perf_counter()
    engine.fit(model, datamodule=module)
    seconds["fit"] = time.perf_counter() - started
    started = time.perf_counter()
    for domain in domains:
        engine.test(model, dataloaders=module.tests(domain), verbose=False)
    seconds["evaluate"] = time.perf_counter() - started
    return model, module, seconds


def build(config: RunConfig) -> Any:
    """anomalib's class with its own pre-processor, post-processor, evaluator and visualizer."""
    entry = find_model(config.model.name)
    path = PUBLISHED.get(config.model.name, entry.path)
    settings = {k: v for k, v in config.model.settings.items() if k in signature.parameters(path)}
    arguments = signature.arguments(path, settings)
    found: Any = signature.load_class(path)
    before = found.configure_pre_processor(config.data.image_size)
    if config.model.weights not in ("random", "none"):  # whose scale is not ImageNet's, which anomalib takes for any
        backbone = backbones.resolve(config.model.weights, arguments["backbone"])
        arguments["backbone"] = backbone.name
        before.transform.transforms[-1] = Normalize(backbone.mean, backbone.std)
        return found(pre_processor=before, **arguments)
    with backbones.random_weights():
        return found(pre_processor=before, **arguments)


def raw_scores(model: Any, module: Domains, domains: list[str]) -> dict[str, float]:
    """`pred_score` as the model computes it, before its post-processor."""
    model.eval()
    out = {}
    with torch.inference_mode():
        for domain in domains:
            for batch in module.tests(domain):
                scores = model.model(model.pre_processor.transform(batch.image)).pred_score.reshape(-1)
                out |= dict(zip(batch.image_path, scores.tolist(), strict=True))
    return out
