"""Reverse Distillation on any timm backbone.

anomalib 2.7 has decoders for nine ResNets. With one of these and the published layers the networks here are anomalib's:
the same names, the same weights from a seed, the same output. With any other backbone the one-class bottleneck and the
decoder mirror the encoder's channels and strides; the loss and the anomaly map stay the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule, GaussianBlur2d, TimmFeatureExtractor
from anomalib.models.image import ReverseDistillation as _ReverseDistillation
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.backbones import architecture
from hdmap_mlflow.models.parts.blur import SeparableBlur
from hdmap_mlflow.models.parts.features import Features

PUBLISHED = ("layer1", "layer2", "layer3")
# Of which anomalib has decoders.
RESNETS = {"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"}
RESNETS |= {"resnext50_32x4d", "resnext101_32x8d"}


def convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    """A normalised 3 x 3 convolution."""
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Bottleneck(nn.Module):
    """The one-class embedding: all layers brought to the coarsest stride, joined, and halved once more.

    `halvings` of each layer lead from its stride to the coarsest.
    """

    def __init__(self, channels: Sequence[int], halvings: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.fuse = nn.ModuleList(
            nn.Sequential(*(convolution(width, width, 2) for _ in range(steps)))
            for width, steps in zip(channels, halvings, strict=True)
        )
        self.embed = nn.Sequential(convolution(sum(channels), embedding, 2), convolution(embedding, embedding))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (B, C, H, W), the finest layer first, to the embedding (B, `embedding`, h, w)."""
        return self.embed(torch.cat([fuse(maps) for fuse, maps in zip(self.fuse, features, strict=True)], dim=1))


class Decoder(nn.Module):
    """A stage per layer, from the embedding up to the finest layer; each ends in a plain 1 x 1 convolution.

    Normalised outputs would have to follow features that have no fixed scale: they learned, and forgot again.
    """

    def __init__(self, channels: Sequence[int], embedding: int, width: int) -> None:
        super().__init__()
        inputs = [width] * (len(channels) - 1) + [embedding]
        self.stages = nn.ModuleList(nn.Sequential(convolution(n, width), convolution(width, width)) for n in inputs)
        self.heads = nn.ModuleList(nn.Conv2d(width, out, 1) for out in channels)

    def forward(self, embedding: Tensor, sizes: Sequence[torch.Size]) -> list[Tensor]:
        """The embedding (B, C, h, w) to features (B, C, H, W) of every layer at its `sizes`, the finest first."""
        decoded, state = [], embedding
        for stage, head, size in reversed(list(zip(self.stages, self.heads, sizes, strict=True))):
            state = stage(interpolate(state, size, mode="bilinear", align_corners=False))
            decoded.append(head(state))
        return decoded[::-1]


class Mirrored(nn.Module):
    """Encoder, bottleneck and decoder for a backbone of any channels and strides, used as anomalib's."""

    def __init__(
        self, backbone: str, layers: Sequence[str], mode: AnomalyMapGenerationMode, embedding: int, width: int
    ) -> None:
        super().__init__()
        encoder = TimmFeatureExtractor(backbone, layers, pre_trained=True)
        channels, strides = encoder.out_dims, encoder.reductions
        halvings = [(strides[-1] // stride).bit_length() - 1 for stride in strides]
        self.encoder = Features(encoder)
        self.bottleneck = Bottleneck(channels, halvings, embedding)
        self.decoder = Decoder(channels, embedding, width)
        generator = AnomalyMapGenerator((1, 1), mode=mode)
        self.mode = generator.mode
        self.blur = SeparableBlur(
            GaussianBlur2d(kernel_size=(generator.kernel_size,) * 2, sigma=(generator.sigma,) * 2)
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]] | InferenceBatch:
        """Images (B, 3, H, W) to features and decoded features in training, else to maps (B, 1, H, W) and scores."""
        features = list(self.encoder(images).values())
        decoded = self.decoder(self.bottleneck(features), [maps.shape[-2:] for maps in features])
        if self.training:
            return features, decoded
        pairs = zip(features, decoded, strict=True)
        distances = [1 - cosine_similarity(kept, made)[:, None] for kept, made in pairs]
        stack = torch.stack([interpolate(d, images.shape[-2:], mode="bilinear", align_corners=True) for d in distances])
        maps = self.blur(stack.sum(0) if self.mode == AnomalyMapGenerationMode.ADD else stack.prod(0))
        return InferenceBatch(pred_score=maps.amax((-2, -1)), anomaly_map=maps)


class ReverseDistillation(_ReverseDistillation):
    """Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022.

    Args:
        backbone: any timm architecture whose layers have rising strides.
        layers: from the finest to the coarsest.
        anomaly_map_mode: how the layers' distances are joined.
        embedding: channels of the one-class embedding; a narrow one lets no fault through.
        width: channels of the decoder's stages. Both are those of the mirrored networks, not of anomalib's ResNets.
        topk_ratio: a map's score is the mean of this share of its largest values; 0: the largest, as published.

    Raises BadInput for widths below 1 and a share outside [0, 1].
    """

    model: Model

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        layers: Sequence[str] = PUBLISHED,
        anomaly_map_mode: AnomalyMapGenerationMode = AnomalyMapGenerationMode.ADD,
        pre_trained: bool = True,
        embedding: int = 96,
        width: int = 64,
        topk_ratio: float = 0.0,
        **components: Any,
    ) -> None:
        for name, value in (("embedding", embedding), ("width", width)):
            if value < 1:
                raise BadInput(f"model.{name} is {value}; give 1 or more channels")
        if not 0 <= topk_ratio <= 1:
            raise BadInput(f"model.topk_ratio is {topk_ratio}; give a share of the map in [0, 1]")
        plain = architecture(backbone)
        if plain in RESNETS and tuple(layers) == PUBLISHED:
            super().__init__(plain, layers, anomaly_map_mode, pre_trained and plain == backbone, **components)
            if plain != backbone:  # anomalib knows these ResNets by their bare names
                self.model.encoder = TimmFeatureExtractor(backbone, layers, pre_trained)
        else:
            AnomalibModule.__init__(self, **components)
            self.model = Mirrored(backbone, layers, anomaly_map_mode, embedding, width)
            self.loss = ReverseDistillationLoss()
        self.topk_ratio = topk_ratio
        self.model.register_forward_hook(self._score)  # of both networks, however they are called

    def _score(self, _network: nn.Module, _images: Any, output: Any) -> Any:
        """Predictions with the score that `topk_ratio` asks for; what training gets stays as it is."""
        if self.training or not self.topk_ratio:
            return output
        values = output.anomaly_map.flatten(1)
        largest = values.topk(max(1, round(self.topk_ratio * values.shape[1])), dim=1).values
        return output._replace(pred_score=largest.mean(dim=1))
