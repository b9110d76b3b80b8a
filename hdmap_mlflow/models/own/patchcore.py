"""PatchCore with a coreset that is selected sooner and a memory bank that stays within a budget.

Where all patch features of the training maps fit four times the budget, the bank is the one that anomalib 2.7 selects.
Where they do not, it is selected from them as they come (`coreset.StreamingCoreset`).
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from anomalib.models.image import Patchcore as _Patchcore
from torch import Tensor

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.parts.blur import SeparableBlur
from hdmap_mlflow.models.parts.coreset import StreamingCoreset
from hdmap_mlflow.models.parts.features import Features

WORKSPACE = 4  # features held while fitting, as a multiple of the largest bank


class Patchcore(_Patchcore):
    """Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.

    Args:
        max_bank_mb: the largest memory bank, in megabytes; fitting holds up to four times as much.
    """

    model: Any
    trainer: Any

    def __init__(self, *args: Any, max_bank_mb: float = 500, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_bank_mb <= 0:
            raise BadInput(f"model.max_bank_mb is {max_bank_mb}; give a positive number of megabytes")
        self.max_bank_mb = max_bank_mb
        self.model.feature_extractor = Features(self.model.feature_extractor)
        self.model.anomaly_map_generator.blur = SeparableBlur(self.model.anomaly_map_generator.blur)
        self.gathered: StreamingCoreset | None = None

    def training_step(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Gather the patch features of a batch of healthy maps."""
        embedding = self.model(batch.image)
        self.model.embedding_store.clear()
        if self.gathered is None:
            loader, batches = self.trainer.train_dataloader, self.trainer.num_training_batches
            maps = min(len(loader.dataset), batches * len(batch.image))
            self.gathered = self._plan(maps, len(embedding) // len(batch.image), embedding)
        self.gathered.add(embedding)
        return torch.zeros((), requires_grad=True, device=self.device)

    def _plan(self, maps: int, patches: int, embedding: Tensor) -> StreamingCoreset:
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
        return StreamingCoreset(size, (maps * patches if fits else WORKSPACE * largest) - size)

    def fit(self) -> None:
        """Select the memory bank."""
        if self.gathered is None:
            raise ValueError("PatchCore has seen no training map")
        self.model.memory_bank = self.gathered.result()
        self.gathered = None
