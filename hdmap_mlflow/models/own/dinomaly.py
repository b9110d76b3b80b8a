"""Dinomaly and INP-Former with a learning rate that moves by steps; Dinomaly with groups of layers of one's own.

anomalib 2.7 hands Lightning their warm-up and cosine schedule, which counts steps, without saying so; it then moves
once an epoch, and a short run trains at a rate of almost zero.

Three settings, off by default, are after what the authors of the maps train it with (taewanHwang/anomalib): a loss over
the worst places alone, and dropout of whole rows and of keys, so that the decoder cannot copy a band.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
from anomalib.models.image import Dinomaly as _Dinomaly
from anomalib.models.image import InpFormer as _InpFormer
from anomalib.models.image.dinomaly.components.optimizer import WarmCosineScheduler
from lightning.pytorch.utilities.types import OptimizerLRScheduler, OptimizerLRSchedulerConfig
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from hdmap_mlflow.annotations import Model

WARM_UP = 100  # steps, as published, but never more than a tenth of the training


class Schedule(WarmCosineScheduler):
    """The published schedule at another rate: every step's rate is worked out beforehand."""

    def scale(self, factor: float) -> None:
        """Multiply every rate, as the trainer asks where `train.learning_rate` is another one."""
        self.schedule = self.schedule * factor


def by_steps(optimizers: Any) -> OptimizerLRSchedulerConfig:
    """The one optimizer with its schedule, moved every step; peak and final rate are the published ones."""
    [optimizer], [schedule] = optimizers
    total, peak = schedule.total_iters, float(max(schedule.schedule))
    warm_up = min(WARM_UP, total // 10)
    scheduler = Schedule(optimizer, peak, schedule.final_value, total, warm_up)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class TopLoss(nn.Module):
    """Mean cosine distance of encoder and decoder over the share of a map's places where it is largest."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, encoder_features: list[Tensor], decoder_features: list[Tensor], global_step: int) -> Tensor:
        """Lists of features (B, C, h, w), by layer, to the loss, ()."""
        worst = []
        for own, made in zip(encoder_features, decoder_features, strict=True):
            apart = 1 - cosine_similarity(own.detach(), made).flatten(1)
            worst.append(apart.topk(max(1, round(self.share * apart.shape[1])), dim=1).values.mean())
        return torch.stack(worst).mean()


class RowDropout(nn.Module):
    """Dropout of whole rows of a map's patches, tokens (B, T, C) of which the last h x w are patches; `width` is w."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share, self.grid = share, (0, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        """The same tokens outside training."""
        if not self.training:
            return tokens
        height, width = self.grid
        kept = torch.rand(len(tokens), height, 1, 1, device=tokens.device) >= self.share
        scale = (kept / (1 - self.share)).to(tokens).expand(-1, -1, width, -1).flatten(1, 2)
        first = tokens.shape[1] - height * width
        return torch.cat([tokens[:, :first], tokens[:, first:] * scale], dim=1)


def drop_keys(share: float, layer: nn.Module, _given: object, made: Tensor) -> Tensor:
    """A hook of a layer that makes queries, keys and values (B, T, 3 C): tokens without a key, and so without a value.

    Linear attention weighs a token by elu(key) + 1, which is 0 at minus infinity.
    """
    if not layer.training:
        return made
    dropped = torch.rand(*made.shape[:2], 1, device=made.device) < share
    query, key, value = made.chunk(3, dim=-1)
    return torch.cat([query, key.masked_fill(dropped, -torch.inf), value], dim=-1)


Share = Annotated[float, Field(ge=0, lt=1)]


class Dinomaly(_Dinomaly):
    """Guo et al., Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection, CVPR 2025.

    Args:
        topk_ratio: share of a map's places, the worst, that the loss is over; 1: the published loss over all.
        row_dropout: share of the rows of patches that are dropped before the decoder while it trains.
        kv_dropout: share of the tokens that the decoder's attention does not see while it trains.
    """

    # anomalib 2.7 forgets the groups of layers that it is given, and raises in the first step.
    def __init__(
        self,
        *args: Any,
        fuse_layer_encoder: list[list[int]] | None = None,
        fuse_layer_decoder: list[list[int]] | None = None,
        topk_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0,
        row_dropout: Share = 0.0,
        kv_dropout: Share = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        model: Model = self.model
        if topk_ratio < 1:
            model.loss_fn = TopLoss(topk_ratio)
        if row_dropout:
            rows = RowDropout(row_dropout)
            model.bottleneck.append(rows)
            model.register_forward_pre_hook(self._say_grid(rows))
        for block in model.decoder if kv_dropout else ():
            block.attn.qkv.register_forward_hook(partial(drop_keys, kv_dropout))
        if fuse_layer_encoder is not None:
            self.model.fuse_layer_encoder = fuse_layer_encoder
        if fuse_layer_decoder is not None:
            self.model.fuse_layer_decoder = fuse_layer_decoder

    def _say_grid(self, rows: RowDropout) -> Callable[[Model, tuple[Tensor, ...]], None]:
        """A hook by which the rows know how many patches an image has."""

        def hook(model: Model, given: tuple[Tensor, ...]) -> None:
            patch = model.encoder.patch_size
            rows.grid = (given[0].shape[-2] // patch, given[0].shape[-1] // patch)

        return hook

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """StableAdamW at a rate that moves every step."""
        return by_steps(super().configure_optimizers())


class InpFormer(_InpFormer):
    """Luo et al., Exploring Intrinsic Normal Prototypes within a Single Image, CVPR 2025."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """StableAdamW at a rate that moves every step."""
        return by_steps(super().configure_optimizers())
