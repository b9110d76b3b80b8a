"""U-Flow on any timm backbone; anomalib 2.7 knows three by name, and these stay its own."""

from __future__ import annotations

from typing import Any, cast

from anomalib.models.components import AnomalibModule
from anomalib.models.image import Uflow as _Uflow
from anomalib.models.image.uflow.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.uflow.feature_extraction import AVAILABLE_EXTRACTORS
from anomalib.models.image.uflow.loss import UFlowLoss
from anomalib.models.image.uflow.torch_model import UflowModel
from torch import Tensor, nn

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.parts.features import Pyramid

STRIDES = (4, 8, 16)


class Normalised(Pyramid):
    """Features as U-Flow wants them: each level under a layer norm of its own."""

    def __init__(self, backbone: str, size: tuple[int, int]) -> None:
        super().__init__(backbone, STRIDES)
        self.scales = range(len(STRIDES))
        self.norms = nn.ModuleList(nn.LayerNorm(level) for level in self.sizes(*size))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to normalised features (B, C, h, w) of every level."""
        return [norm(level) for norm, level in zip(self.norms, super().forward(images), strict=True)]


class FreeUflow(UflowModel):
    """anomalib's U-shaped flow, in the channels and sizes of any backbone's features."""

    def __init__(
        self, size: tuple[int, int], flow_steps: int, backbone: str, clamp: float, ratio: float, permute_soft: bool
    ) -> None:
        nn.Module.__init__(self)
        self.input_size = size
        self.affine_clamp, self.affine_subnet_channels_ratio, self.permute_soft = clamp, ratio, permute_soft
        self.feature_extractor = Normalised(backbone, size)
        self.flow = self.build_flow(flow_steps)
        self.anomaly_map_generator = AnomalyMapGenerator(size)


class Uflow(_Uflow):
    """Tailanian et al., U-Flow: A U-shaped Normalizing Flow with Unsupervised Threshold, JMIV 2024."""

    model: Model

    def __init__(
        self,
        backbone: str = "mcait",
        flow_steps: int = 4,
        affine_clamp: float = 2.0,
        affine_subnet_channels_ratio: float = 1.0,
        permute_soft: bool = False,
        **components: Any,
    ) -> None:
        flow = (affine_clamp, affine_subnet_channels_ratio, permute_soft)
        if backbone in AVAILABLE_EXTRACTORS:
            super().__init__(backbone, flow_steps, *flow, **components)
            return
        AnomalibModule.__init__(self, **components)
        size = cast(tuple[int, int], self.input_size)  # of the pre-processor, which is always ours
        self.model = FreeUflow(size, flow_steps, backbone, *flow)
        self.loss = UFlowLoss()
