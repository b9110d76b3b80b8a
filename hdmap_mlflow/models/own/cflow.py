"""CFlow whose score of a map does not depend on the maps that share its batch.

anomalib 2.7 takes likelihoods relative to the largest of the batch; here they are relative to the largest of the
training maps, which is measured once before every validation and kept in the checkpoint.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from anomalib.models.image import Cflow as _Cflow
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdmap_mlflow.annotations import Batch, Model

STRIDE = 32  # of the coarsest layer that a backbone has


class FixedReference(nn.Module):
    """Anomaly maps from the log likelihoods of each layer, relative to a kept reference a layer."""

    reference: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("reference", torch.zeros(layers))

    def forward(self, distribution: list[Tensor], height: list[int], width: list[int], image_size: Any) -> Tensor:
        """Log likelihoods (B * h * w,) a layer to maps (B, H, W); higher is more anomalous."""
        anomaly_map: Any = len(distribution)
        for likelihood, reference, h, w in zip(distribution, self.reference, height, width, strict=True):
            relative = torch.exp(likelihood - reference).reshape(-1, 1, h, w)
            anomaly_map = anomaly_map - interpolate(relative, image_size, mode="bilinear", align_corners=True)[:, 0]
        return anomaly_map


class _Largest(nn.Module):
    """Stands in for the map generator while the references are measured."""

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.reference = reference.fill_(-torch.inf)

    def forward(self, distribution: list[Tensor], image_size: Any, **_: Any) -> Tensor:
        for i, likelihood in enumerate(distribution):
            self.reference[i] = torch.maximum(self.reference[i], likelihood.max())
        return likelihood.new_zeros(1, *image_size)


class Cflow(_Cflow):
    """Gudovskiy et al., CFLOW-AD: Real-Time Unsupervised Anomaly Detection with Localization, WACV 2022."""

    model: Model
    trainer: Any
    pre_processor: Model

    # anomalib keeps the name of a decoder and always makes this one: another is refused where settings are checked.
    def __init__(self, *args: Any, decoder: Literal["freia-cflow"] = "freia-cflow", **kwargs: Any) -> None:
        super().__init__(*args, decoder=decoder, **kwargs)  # type: ignore[misc]
        self.model.anomaly_map_generator = FixedReference(len(self.model.pool_layers))
        self.fibres = self.model.fiber_batch_size

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """As anomalib's; a short last batch takes as many fibres as it has, where anomalib's would raise."""
        count, _, height, width = batch.image.shape
        self.model.fiber_batch_size = min(self.fibres, count * (height // STRIDE) * (width // STRIDE))
        return super().training_step(batch, *args, **kwargs)

    def on_validation_start(self) -> None:
        """Measure the references: one pass over the training maps."""
        super().on_validation_start()
        fixed = self.model.anomaly_map_generator
        self.model.anomaly_map_generator = _Largest(fixed.reference)
        try:
            for batch in self.trainer.datamodule.train_dataloader():
                self.model(self.pre_processor.transform(batch.image.to(self.device)))
        finally:
            self.model.anomaly_map_generator = fixed
