"""Features of a frozen backbone: computed in the memory layout that suits it, and kept for the next run.

A second condition with the same backbone, layers and maps reads them in place of the forward pass. Entries are found
by the content of the network's input, so nothing that changes a map or the weights can bring up a wrong one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from anomalib.models.components import TimmFeatureExtractor
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hdmap_mlflow.files import cache_dir, size_of, why, write_whole
from hdmap_mlflow.models.backbones import architecture, at_strides, weights_digest
from hdmap_mlflow.models.parts.engine import engine_of

Maps = dict[str, Tensor]  # layer -> (B, C, H, W)


class Features(nn.Module):
    """An anomalib feature extractor, channels last; with a `store`, maps seen before on a CPU are read from it."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor.to(memory_format=torch.channels_last)
        self.store: FeatureStore | None = None

    @property
    def layers(self) -> list[str]:
        return list(self.extractor.layers)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Maps:
        """Images (B, 3, H, W) to the contiguous features of every layer, by its name."""
        # A GPU computes sooner than a disk reads; half precision would need files of its own.
        if self.store is None or images.device.type != "cpu" or images.dtype != torch.float32:
            return self._compute(images)
        engine = engine_of(self.extractor)
        by = f"-{engine.name}" if engine and engine.takes(images) else ""  # torch has last digits of its own
        keys = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest() + by for image in images]
        found = [self.store.get(key) for key in keys]
        missing = [i for i, features in enumerate(found) if features is None]
        if missing:
            computed = self._compute(images[missing])
            for row, i in enumerate(missing):
                found[i] = one = {layer: maps[row] for layer, maps in computed.items()}
                self.store.put(keys[i], one)
        return {layer: torch.stack([one[layer] for one in found if one]) for layer in self.layers}

    def _compute(self, images: Tensor) -> Maps:
        features = self.extractor(images.contiguous(memory_format=torch.channels_last))
        return {layer: maps.contiguous() for layer, maps in features.items()}


class Pyramid(nn.Module):
    """A frozen timm backbone as models take it that know a few by name: a list of features, the finest first.

    `channels` and `scale_factors` (strides) of each level follow from the backbone. Raises BadInput where it has no
    layer at one of the strides.
    """

    def __init__(self, backbone: str, strides: Sequence[int]) -> None:
        super().__init__()
        extractor = TimmFeatureExtractor(backbone, at_strides(architecture(backbone), strides), pre_trained=True)
        self.channels, self.scale_factors = list(extractor.out_dims), list(extractor.reductions)
        self.features = Features(extractor)

    def sizes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Channels, height and width of every level for images of a size."""
        levels = zip(self.channels, self.scale_factors, strict=True)
        return [(channels, height // stride, width // stride) for channels, stride in levels]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to features (B, C, h, w) of every level."""
        return list(self.features(images).values())


class FeatureStore:
    """Features on disk: one folder per backbone with its weights and layers, one safetensors file per map.

    Takes at most `limit_mb` together with the folders of other backbones, of which the longest unused go first. A file
    with another check sum or in another form is computed again; a full disk only ends the keeping.
    """

    def __init__(self, folder: Path, limit_mb: float) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        self.room = limit_mb * 1e6 - _make_room(folder.parent, limit_mb * 1e6, keep=folder)

    def get(self, key: str) -> Maps | None:
        """The features (C, H, W) of one map, or None."""
        try:
            with safe_open(self._path(key), "pt") as file:
                features = {layer: file.get_tensor(layer) for layer in file.keys()}  # noqa: SIM118
                kept = (file.metadata() or {}).get("crc32")
        except (OSError, SafetensorError):
            return None
        single = all(part.dtype is torch.float32 for part in features.values())  # the sum is of bytes alone
        return features if single and kept == _check_sum(features) else None

    def put(self, key: str, features: Maps) -> None:
        """Keep the features of one map while there is room."""
        features = {layer: part.contiguous() for layer, part in features.items()}
        content = save(features, {"crc32": _check_sum(features)})
        if self.room < len(content):
            return
        try:
            write_whole(self._path(key), content)
            self.room -= len(content)
        except OSError as error:
            logging.getLogger(__name__).warning("features are not kept any longer: %s", why(error))
            self.room = 0

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.features"


def _check_sum(features: Maps) -> str:
    """Of the layers' names, shapes and values."""
    total = 0
    for layer, part in sorted(features.items()):
        total = zlib.crc32(part.numpy().data, zlib.crc32(f"{layer} {list(part.shape)}".encode(), total))
    return f"{total:08x}"


def reuse(model: nn.Module, limit_mb: float, size: tuple[int, int]) -> None:
    """Let the frozen backbones of a built model keep their features, `limit_mb` in all; 0 keeps none."""
    for module in model.modules():
        if isinstance(module, Features) and limit_mb > 0:
            name = f"{weights_digest(module.extractor)}-{size[0]}x{size[1]}-{'+'.join(map(str, module.layers))}"
            module.store = FeatureStore(cache_dir() / "features" / name, limit_mb)


def _make_room(root: Path, limit: float, keep: Path) -> float:
    """Remove the folders that were unused for longest until what is there fits; returns its size in bytes."""
    used = {folder: _last_use(folder) for folder in root.iterdir() if folder.is_dir()}
    folders = sorted(used, key=used.__getitem__)
    sizes = {folder: float(size_of(folder)) for folder in folders}
    for folder in folders:
        if sum(sizes.values()) <= limit or folder == keep:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        sizes.pop(folder)
    return sum(sizes.values())


def _last_use(folder: Path) -> float:
    """When a store was last opened; a folder that another process removes meanwhile comes first."""
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
