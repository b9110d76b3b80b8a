"""PatchCore with a coreset that is selected sooner, a bank that stays within a budget and a search that measures less.

Where all patch features of the training maps fit four times the budget, the bank is the one that anomalib 2.7 selects.
Where they do not, it is selected from them as they come (`coreset.StreamingCoreset`). Of several sources each
fills an equal share of the bank.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from anomalib.models.image import Patchcore as _Patchcore
from torch import Tensor, nn

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.parts.blur import SeparableBlur
from hdmap_mlflow.models.parts.context import RowContext
from hdmap_mlflow.models.parts.coreset import Shares, StreamingCoreset
from hdmap_mlflow.models.parts.features import Features
from hdmap_mlflow.models.parts.nearest import Nearest

WORKSPACE = 4  # features held while fitting, as a multiple of the largest bank


def nearest_neighbors(model: Model, embedding: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
    """Distances (n,) and places (n,) in the bank of each patch's nearest row; of several (n, k), as anomalib has them.

    A GPU measures all sooner than it chooses, and a model that is traced holds the plain search.
    """
    bank = model.memory_bank
    plain = bank.device.type == embedding.device.type == "cpu" and bank.dtype == embedding.dtype == torch.float32
    if n_neighbors > 1 or torch.jit.is_tracing() or torch.compiler.is_compiling() or not plain:
        return type(model).nearest_neighbors(model, embedding, n_neighbors)
    searched, version, search = vars(model).get("search", (None, 0, None))
    now = 0 if bank.is_inference() else bank._version
    if searched is not bank or version != now:  # a checkpoint brings another bank
        search = Nearest(bank)
        model.search = bank, now, search
    return search(embedding)


class Patchcore(_Patchcore):
    """Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

    Args:
        max_bank_mb: the largest memory bank, in megabytes; fitting holds up to four times as much.
        row_context: how many neighbours to each side of a patch its row's means are over (see `RowContext`).
    """

    model: Model
    trainer: Any

    def __init__(self, *args: Any, max_bank_mb: float = 500, row_context: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_bank_mb <= 0:
            raise BadInput(f"model.max_bank_mb is {max_bank_mb}; give a positive number of megabytes")
        self.max_bank_mb = max_bank_mb
        self.model.feature_extractor = Features(self.model.feature_extractor)
        self.model.anomaly_map_generator.blur = SeparableBlur(self.model.anomaly_map_generator.blur)
        self.model.nearest_neighbors = MethodType(nearest_neighbors, self.model)
        self.patch_features = nn.Identity()  # which all features pass, so that adapters can keep them
        context, published = RowContext(tuple(row_context)), self.model.generate_embedding
        self.model.generate_embedding = lambda layers: self.patch_features(context.joined(published(layers)))
        self.gathered: StreamingCoreset | Shares | None = None

    def features(self, images: Tensor) -> Tensor:
        """Patch features (B, C, h, w) of images (B, 3, H, W), those that the bank holds."""
        layers = self.model.feature_extractor(images)
        return self.model.generate_embedding({name: self.model.feature_pooler(maps) for name, maps in layers.items()})

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> Any:
        """Gather the patch features of a batch of healthy maps."""
        embedding = self.model(batch.image)
        self.model.embedding_store.clear()
        loader, patches = self.trainer.train_dataloader, len(embedding) // len(batch.image)
        origin: Mapping[str, str] = getattr(loader.dataset, "origin", {})
        if self.gathered is None:
            maps = min(len(loader.dataset), self.trainer.num_training_batches * len(batch.image))
            self.gathered = self._plan(maps, patches, embedding, sorted({*origin.values()}))
        if isinstance(self.gathered, Shares):
            for path, rows in zip(batch.image_path, embedding.split(patches), strict=True):
                self.gathered.add(origin[path], rows)
        else:
            self.gathered.add(embedding)
        return torch.zeros((), requires_grad=True, device=self.device)

    def _plan(
        self, maps: int, patches: int, embedding: Tensor, domains: Sequence[str] = ()
    ) -> StreamingCoreset | Shares:
        """How many patches the bank will hold and how many are held while it is selected, said before it is built."""
        row = embedding.shape[1] * embedding.element_size()
        largest = max(1, int(self.max_bank_mb * 1e6 / row))
        wanted = int(self.coreset_sampling_ratio * maps * patches)
        if wanted < 1:
            raise BadInput(
                f"model.coreset_sampling_ratio={self.coreset_sampling_ratio} leaves no patch of "
                f"{maps} x {patches}; raise it"
            )
        size = min(wanted, largest)
        fits = maps * patches <= WORKSPACE * largest
        how = "selected from all" if fits else f"selected as they come, {WORKSPACE * largest:,} at a time"
        cut = f" (model.max_bank_mb={self.max_bank_mb:g} cut it from {wanted:,})" if size < wanted else ""
        logging.getLogger(__name__).info(
            f"memory bank: {size:,} of {maps * patches:,} patches, {size * row / 1e6:,.1f} MB, {how}{cut}"
        )
        buffer = (maps * patches if fits else WORKSPACE * largest) - size
        if domains:  # whose shares of the maps may differ by one
            return Shares(size, buffer + len(domains) * patches, domains)
        return StreamingCoreset(size, buffer)

    def fit(self) -> None:
        """Select the memory bank."""
        if self.gathered is None:
            raise ValueError("PatchCore has seen no training map")
        self.model.memory_bank = self.gathered.result()
        self.gathered = None
