"""CFA on any timm backbone; anomalib 2.7 knows three of torchvision's by name, and these stay its own."""

from __future__ import annotations

from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from anomalib.models.image import Cfa as _Cfa
from anomalib.models.image.cfa.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.cfa.loss import CfaLoss
from anomalib.models.image.cfa.torch_model import CfaModel, CoordConv2d, Descriptor
from torch import Tensor, nn

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.parts.features import Pyramid

PUBLISHED = ("vgg19_bn", "resnet18", "wide_resnet50_2")
STRIDES = (4, 8, 16)


class Levels(Pyramid):
    """Features by their layers' names."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """Images (B, 3, H, W) to features (B, C, h, w) of every level."""
        return self.features(images)


class FreeDescriptor(Descriptor):
    """anomalib's descriptor for so many channels."""

    def __init__(self, channels: int, gamma_d: int) -> None:
        nn.Module.__init__(self)
        self.backbone = ""
        self.layer = CoordConv2d(in_channels=channels, out_channels=channels // gamma_d, kernel_size=1)


class FreeCfa(CfaModel):
    """anomalib's coupled hyperspheres, about the features of any backbone."""

    feature_extractor: Model

    def __init__(
        self, backbone: str, gamma_c: int, gamma_d: int, neighbours: int, hard_negatives: int, radius: float
    ) -> None:
        super(CfaModel, self).__init__()
        self.gamma_c, self.gamma_d, self.backbone = gamma_c, gamma_d, backbone
        self.num_nearest_neighbors, self.num_hard_negative_features = neighbours, hard_negatives
        self.register_buffer("memory_bank", torch.tensor(0.0))
        self.feature_extractor = Levels(backbone, STRIDES)
        self.descriptor = FreeDescriptor(sum(self.feature_extractor.channels), gamma_d)
        self.radius = torch.ones(1, requires_grad=True) * radius
        self.anomaly_map_generator = AnomalyMapGenerator(num_nearest_neighbors=neighbours)

    def get_scale(self, input_size: tuple[int, int] | torch.Size) -> torch.Size:
        """Height and width of the finest level."""
        return torch.Size(self.feature_extractor.sizes(*input_size)[0][1:])


class Cfa(_Cfa):
    """Lee et al., CFA: Coupled-hypersphere-based Feature Adaptation, IEEE Access 2022."""

    model: Model

    def __init__(
        self,
        backbone: str = "wide_resnet50_2",
        gamma_c: int = 1,
        gamma_d: int = 1,
        num_nearest_neighbors: int = 3,
        num_hard_negative_features: int = 3,
        radius: float = 1e-5,
        **components: Any,
    ) -> None:
        sphere = (num_nearest_neighbors, num_hard_negative_features, radius)
        if backbone in PUBLISHED:
            super().__init__(backbone, gamma_c, gamma_d, *sphere, **components)
            return
        AnomalibModule.__init__(self, **components)
        self.model = FreeCfa(backbone, gamma_c, gamma_d, *sphere)
        self.loss = CfaLoss(*sphere)
