"""CS-Flow on any timm backbone; anomalib 2.7 has torchvision's EfficientNet-B5 only, and that stays its own."""

from __future__ import annotations

from typing import Any, cast

from anomalib.models.components import AnomalibModule
from anomalib.models.image import Csflow as _Csflow
from anomalib.models.image.csflow.anomaly_map import AnomalyMapGenerator, AnomalyMapMode
from anomalib.models.image.csflow.loss import CsFlowLoss
from anomalib.models.image.csflow.torch_model import (
    CrossScaleFlow,
    CsFlowModel,
    ParallelGlowCouplingLayer,
    ParallelPermute,
)
from FrEIA.framework import GraphINN, InputNode, Node, OutputNode
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.parts.features import Pyramid

PUBLISHED = "efficientnet_b5"
STRIDE, SCALES = 32, 3


class Scales(Pyramid):
    """The coarsest features of an image, and of the image at a half and a quarter of its size."""

    def __init__(self, backbone: str, size: tuple[int, int]) -> None:
        super().__init__(backbone, (STRIDE,))
        self.input_size = size

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to features (B, C, h, w) of every scale."""
        height, width = self.input_size
        smaller = [interpolate(images, (height >> scale, width >> scale)) for scale in range(1, SCALES)]
        return [super(Scales, self).forward(one)[0] for one in (images, *smaller)]


class FreeFlow(CrossScaleFlow):
    """anomalib's graph, whose inputs have the 304 channels of EfficientNet-B5, for so many."""

    def __init__(self, channels: int, *given: Any) -> None:
        self.channels = channels
        super().__init__(*given)

    def _create_graph(self) -> GraphINN:
        _, height, width = self.input_dims
        strides = [STRIDE << scale for scale in range(SCALES)]
        nodes: list[Node] = [InputNode(self.channels, height // stride, width // stride) for stride in strides]
        ends = [node.out0 for node in nodes]
        for block, kernel in enumerate(self.kernel_sizes):
            subnet = {"channels_hidden": self.cross_conv_hidden_channels, "kernel_size": kernel}
            permute = Node(ends, ParallelPermute, {"seed": block})
            mixed = [permute.out0, permute.out1, permute.out2]
            couple = Node(mixed, ParallelGlowCouplingLayer, {"clamp": self.clamp, "subnet_args": subnet})
            ends = [couple.out0, couple.out1, couple.out2]
            nodes += [permute, couple]
        return GraphINN(nodes + [OutputNode([end]) for end in ends])


class FreeCsflow(CsFlowModel):
    """anomalib's cross-scale flow, in the channels of any backbone's features."""

    feature_extractor: Model

    def __init__(
        self, size: tuple[int, int], hidden: int, blocks: int, clamp: int, num_channels: int, backbone: str
    ) -> None:
        nn.Module.__init__(self)
        self.input_dims = (num_channels, *size)
        self.clamp, self.cross_conv_hidden_channels = clamp, hidden
        self.feature_extractor = Scales(backbone, size).eval()
        self.graph = FreeFlow(self.feature_extractor.channels[0], self.input_dims, blocks, clamp, hidden)
        self.anomaly_map_generator = AnomalyMapGenerator(input_dims=self.input_dims, mode=AnomalyMapMode.ALL)


class Csflow(_Csflow):
    """Rudolph et al., Fully Convolutional Cross-Scale-Flows for Image-based Defect Detection, WACV 2022."""

    model: Model

    def __init__(
        self,
        cross_conv_hidden_channels: int = 1024,
        n_coupling_blocks: int = 4,
        clamp: int = 3,
        num_channels: int = 3,
        backbone: str = PUBLISHED,
        **components: Any,
    ) -> None:
        flow = (cross_conv_hidden_channels, n_coupling_blocks, clamp, num_channels)
        if backbone == PUBLISHED:
            super().__init__(*flow, **components)
            return
        AnomalibModule.__init__(self, **components)
        size = cast(tuple[int, int], self.input_size)  # of the pre-processor, which is always ours
        self.model = FreeCsflow(size, *flow, backbone)
        self.loss = CsFlowLoss()
