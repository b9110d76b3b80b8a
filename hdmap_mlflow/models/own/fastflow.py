"""FastFlow on any timm backbone; anomalib 2.7 knows four by name, and these stay its own."""

from __future__ import annotations

from typing import Any, cast

from anomalib.models.components import AnomalibModule
from anomalib.models.image import Fastflow as _Fastflow
from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.fastflow.loss import FastflowLoss
from anomalib.models.image.fastflow.torch_model import FastflowModel, create_fast_flow_block
from torch import nn

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.parts.features import Pyramid

PUBLISHED = ("resnet18", "wide_resnet50_2", "cait_m48_448", "deit_base_distilled_patch16_384")
STRIDES = (4, 8, 16)


class FreeFastflow(FastflowModel):
    """anomalib's flows and norms, in the channels and sizes of any backbone's features."""

    def __init__(
        self, size: tuple[int, int], backbone: str, flow_steps: int, conv3x3_only: bool, hidden_ratio: float
    ) -> None:
        nn.Module.__init__(self)
        self.input_size = size
        self.feature_extractor = Pyramid(backbone, STRIDES)
        levels = self.feature_extractor.sizes(*size)
        self.norms = nn.ModuleList(nn.LayerNorm(level) for level in levels)
        self.fast_flow_blocks = nn.ModuleList(
            create_fast_flow_block(list(level), conv3x3_only, hidden_ratio, flow_steps) for level in levels
        )
        self.anomaly_map_generator = AnomalyMapGenerator(input_size=size)


class Fastflow(_Fastflow):
    """Yu et al., FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing Flows, 2021."""

    model: Model

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = True,
        flow_steps: int = 8,
        conv3x3_only: bool = False,
        hidden_ratio: float = 1.0,
        **components: Any,
    ) -> None:
        if backbone in PUBLISHED:
            super().__init__(backbone, pre_trained, flow_steps, conv3x3_only, hidden_ratio, **components)
            return
        AnomalibModule.__init__(self, **components)
        size = cast(tuple[int, int], self.input_size)  # of the pre-processor, which is always ours
        self.model = FreeFastflow(size, backbone, flow_steps, conv3x3_only, hidden_ratio)
        self.loss = FastflowLoss()
