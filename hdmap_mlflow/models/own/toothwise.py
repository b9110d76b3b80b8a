"""The bar that a gear engineer would set: how far does the worst tooth stand out of the others?

Nothing is learned but a threshold, so there is no transfer to lose. The idea, toothwise fault identification, is the
maps' own authors'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from hdmap_mlflow.annotations import Batch
from hdmap_mlflow.models.parts.rows import deviations, ratios

QUANTILE = 0.99  # of the healthy training maps lie at or below their threshold
AXES: Mapping[str, tuple[int, ...]] = {"rows": (0,), "columns": (1,), "either": (0, 1)}
STATISTICS: Mapping[str, Callable[[Tensor], Tensor]] = {"ratio": ratios, "robust_z": deviations}


class ToothwiseModel(nn.Module):
    """Maps to how far each line stands out, over what the healthy training maps reach; settings as in `Toothwise`."""

    thresholds: Tensor  # (2,): of rows and of columns

    def __init__(self, axis: str, window: int, statistic: str) -> None:
        super().__init__()
        self.axes, self.window, self.statistic = AXES[axis], window, STATISTICS[statistic]
        self.register_buffer("thresholds", torch.ones(2))

    def lines(self, images: Tensor, axis: int) -> Tensor:
        """What each row (axis 0) or column (1) of images (B, 3, H, W) shows, (B, H) or (B, W)."""
        maps = images[:, 0] if axis == 0 else images[:, 0].mT
        if self.window == 2:  # of a gear: the last tooth is the first one's neighbour
            maps = (maps + maps.roll(-1, dims=1)) / 2
        return self.statistic(maps)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Images (B, 3, H, W) to maps (B, 1, H, W) and scores (B,): 1 is the threshold."""
        height, width = images.shape[-2:]
        anomaly_map = torch.full_like(images[:, :1], -torch.inf)
        for axis in self.axes:
            shown = self.lines(images, axis) / self.thresholds[axis]
            if self.window == 2:  # a line shows what the wider of its two windows does
                shown = torch.maximum(shown, shown.roll(1, dims=1))
            full = shown[:, None, :, None] if axis == 0 else shown[:, None, None, :]
            anomaly_map = torch.maximum(anomaly_map, full.expand(-1, 1, height, width))
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(1, 2, 3)), anomaly_map=anomaly_map)


class Toothwise(AnomalibModule):
    """Ha et al., toothwise fault identification of planetary gearboxes (IEEE TIE 2018): the idea, not their filter.

    A score is the largest line of a map over the threshold that 99 % of the healthy training maps keep. Give
    `data.image_size` as teeth: a row that is resized is no tooth.

    Args:
        axis: the lines that are teeth; `either`: the one that stands out more, each by its own threshold.
        window: teeth that a fault spans.
        statistic: a line's mean over the median line's (blind to gain), or its distance from that in units of the MAD.
    """

    model: ToothwiseModel
    learning_type = LearningType.ONE_CLASS
    trainer_arguments = {"max_epochs": 1}

    def __init__(
        self,
        axis: Literal["rows", "columns", "either"] = "rows",
        window: Literal[1, 2] = 1,
        statistic: Literal["ratio", "robust_z"] = "ratio",
        **components: Any,
    ) -> None:
        super().__init__(**components)
        self.model = ToothwiseModel(axis, window, statistic)
        self.seen: list[Tensor] = []

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> None:
        """Note the largest row and column of healthy maps."""
        self.seen.append(torch.stack([self.model.lines(batch.image, axis).amax(dim=1) for axis in (0, 1)]))

    def on_train_epoch_end(self) -> None:
        """Set the thresholds: an observed value of the healthy maps, above 0."""
        kept = torch.cat(self.seen, dim=1).quantile(QUANTILE, dim=1, interpolation="higher")
        self.model.thresholds.copy_(kept.clamp(min=torch.finfo(kept.dtype).tiny))
        self.seen.clear()

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """The batch with `pred_score` (raw) and `anomaly_map`."""
        return batch.update(**self.model(batch.image)._asdict())

    def configure_optimizers(self) -> None:
        """Nothing is trained."""
