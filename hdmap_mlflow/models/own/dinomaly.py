"""Dinomaly and INP-Former with a learning rate that moves by steps; Dinomaly with groups of layers of one's own.

anomalib 2.7 hands Lightning their warm-up and cosine schedule, which counts steps, without saying so; it then moves
once an epoch, and a short run trains at a rate of almost zero.
"""

from __future__ import annotations

from typing import Any

from anomalib.models.image import Dinomaly as _Dinomaly
from anomalib.models.image import InpFormer as _InpFormer
from anomalib.models.image.dinomaly.components.optimizer import WarmCosineScheduler

WARM_UP = 100  # steps, as published, but never more than a tenth of the training


class Schedule(WarmCosineScheduler):
    """The published schedule at another rate: every step's rate is worked out beforehand."""

    def scale(self, factor: float) -> None:
        """Multiply every rate, as the trainer asks where `train.learning_rate` is another one."""
        self.schedule = self.schedule * factor


def by_steps(optimizers: Any) -> dict[str, Any]:
    """The one optimizer with its schedule, moved every step; peak and final rate are the published ones."""
    [optimizer], [schedule] = optimizers
    total, peak = schedule.total_iters, float(max(schedule.schedule))
    warm_up = min(WARM_UP, total // 10)
    scheduler = Schedule(optimizer, peak, schedule.final_value, total, warm_up)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Dinomaly(_Dinomaly):
    """Guo et al., Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection, CVPR 2025."""

    # anomalib 2.7 forgets the groups of layers that it is given, and raises in the first step.
    def __init__(
        self,
        *args: Any,
        fuse_layer_encoder: list[list[int]] | None = None,
        fuse_layer_decoder: list[list[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if fuse_layer_encoder is not None:
            self.model.fuse_layer_encoder = fuse_layer_encoder
        if fuse_layer_decoder is not None:
            self.model.fuse_layer_decoder = fuse_layer_decoder

    def configure_optimizers(self) -> Any:
        """StableAdamW at a rate that moves every step."""
        return by_steps(super().configure_optimizers())


class InpFormer(_InpFormer):
    """Luo et al., Exploring Intrinsic Normal Prototypes within a Single Image, CVPR 2025."""

    def configure_optimizers(self) -> Any:
        """StableAdamW at a rate that moves every step."""
        return by_steps(super().configure_optimizers())
