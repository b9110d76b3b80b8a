"""UniNet on any timm backbone; anomalib 2.7 knows torchvision's larger ResNets by name, and these stay its own.

Teachers of other channels get the bottleneck and the decoder of our Reverse Distillation, which mirror them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor
from anomalib.models.image import UniNet as _UniNet
from anomalib.models.image.uninet.components import DomainRelatedFeatureSelection
from anomalib.models.image.uninet.components.loss import UniNetLoss
from anomalib.models.image.uninet.torch_model import Teachers, UniNetModel
from torch import Tensor, nn

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.backbones import architecture, at_strides
from hdmap_mlflow.models.own.reverse_distillation import Bottleneck, Decoder

PUBLISHED = ("resnet50", "resnet101", "wide_resnet50_2", "wide_resnet101_2")
STRIDES, EMBEDDING, WIDTH = (4, 8, 16), 96, 64


class FreeTeachers(Teachers):
    """Two of a timm backbone: the source's is frozen, the target's learns."""

    source_teacher: Model
    target_teacher: Model

    def __init__(self, backbone: str) -> None:
        nn.Module.__init__(self)
        layers = at_strides(architecture(backbone), STRIDES)
        self.source_teacher = TimmFeatureExtractor(backbone, layers, pre_trained=True).eval()
        self.target_teacher = TimmFeatureExtractor(backbone, layers, pre_trained=True, requires_grad=True)


class Embedding(Bottleneck):
    """The one-class embedding, and the size of each level that it is of."""

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[torch.Size]]:  # type: ignore[override]
        """Features (B, C, H, W), the finest first, to the embedding (B, C, h, w) and their sizes (H, W)."""
        return super().forward(features), [maps.shape[-2:] for maps in features]


class Student(Decoder):
    """Decodes what `Embedding` returns."""

    def forward(self, embedded: tuple[Tensor, list[torch.Size]]) -> list[Tensor]:  # type: ignore[override]
        """An embedding and sizes to features (B, C, H, W) of every level, the finest first."""
        return super().forward(*embedded)


class FreeUniNet(UniNetModel):
    """anomalib's UniNet, in the channels of any backbone's features."""

    bottleneck: Model
    student: Model

    def __init__(self, backbone: str, loss: nn.Module) -> None:
        nn.Module.__init__(self)
        self.teachers = FreeTeachers(backbone)
        channels = self.teachers.source_teacher.out_dims
        self.bottleneck = Embedding(channels, range(len(STRIDES))[::-1], EMBEDDING)
        self.student = Student(channels, EMBEDDING, WIDTH)
        self.dfs = DomainRelatedFeatureSelection()
        for i, width in enumerate(channels, start=1):  # anomalib's have the channels of ResNets
            setattr(self.dfs, f"theta{i}", nn.Parameter(torch.zeros(1, width, 1, 1)))
        self.loss, self.bce_loss = loss, nn.BCEWithLogitsLoss()
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(channels[0], 1)


class UniNet(_UniNet):
    """Wei et al., UniNet: A Contrastive Learning-guided Unified Framework with Feature Selection, CVPR 2025.

    The student of a teacher that anomalib does not know mirrors it, whatever `student_backbone` says.
    """

    model: Model

    def __init__(
        self,
        student_backbone: str = "wide_resnet50_2",
        teacher_backbone: str = "wide_resnet50_2",
        temperature: float = 0.1,
        **components: Any,
    ) -> None:
        if teacher_backbone in PUBLISHED:
            super().__init__(student_backbone, teacher_backbone, temperature, **components)
            return
        AnomalibModule.__init__(self, **components)
        self.loss = UniNetLoss(temperature=temperature)
        self.model = FreeUniNet(teacher_backbone, self.loss)
