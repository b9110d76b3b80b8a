"""CutPaste classifier: an image classifier that tells healthy maps from maps with a synthetic fault.

Li et al., CutPaste: Self-Supervised Learning for Anomaly Detection and Localization, CVPR 2021; with the scaled,
added patches of `data.faults`, and the classifier's own output as the score in place of a density of its features.
"""

from __future__ import annotations

import timm
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.data.transforms.utils import extract_transforms_by_type
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from hdmap_mlflow.annotations import Batch, Document
from hdmap_mlflow.data.faults import CutPaste
from hdmap_mlflow.errors import BadInput


class CutPasteModule(AnomalibModule):
    """What models that learn from synthetic faults share: maps in their own unit, healthy ones only, AdamW.

    A subclass sets `model` and calls `learn_from` in its constructor; `learning_rate` and `weight_decay` are constant
    over the epochs, and `train.*` of a run replaces them.
    """

    learning_rate = 1e-3
    weight_decay = 1e-4

    def learn_from(self, faults: CutPaste) -> None:
        """Keep the faults. Raises BadInput for a pre-processor that normalises."""
        transform = getattr(self.pre_processor, "transform", None)
        if transform is not None and extract_transforms_by_type(transform, Normalize):
            raise BadInput("faults are pasted in the unit of the maps; take Normalize out of the pre-processor")
        self.faults = faults

    def on_fit_start(self) -> None:
        """Raises BadInput, before any map is read, if the faults do not fit the size that the pre-processor makes."""
        if self.input_size:
            self.faults.check_fits(*self.input_size)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without a schedule: with one, the project's `train.optimizer` could not replace it."""
        return torch.optim.AdamW(self.model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    @property
    def trainer_arguments(self) -> Document:
        """No gradient clipping, and no validation before training."""
        return {"gradient_clip_val": 0, "num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """Healthy maps only; every fault is synthetic."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize only, to 256 x 256 by default."""
        return PreProcessor(transform=Compose([Resize(image_size or (256, 256), antialias=True)]))


class CutPasteModel(nn.Module):
    """A timm network with one output: the logit of a fault.

    Every map is standardised by its own mean and sd first: recordings differ in gain for reasons other than a fault,
    so the score must not depend on it.
    """

    def __init__(self, backbone: str, pre_trained: bool) -> None:
        super().__init__()
        self.standardise = nn.InstanceNorm2d(3, eps=1e-12)
        self.network = timm.create_model(backbone, pretrained=pre_trained, num_classes=1)

    def logits(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) to logits (B,)."""
        return self.network(self.standardise(images))[:, 0]

    def forward(self, images: Tensor) -> InferenceBatch:
        """Maps (B, 3, H, W) to `pred_score` (B,), the raw logit; there is no anomaly map."""
        return InferenceBatch(pred_score=self.logits(images))


class CutPasteClassifier(CutPasteModule):
    """A classifier of healthy against pasted maps; `pred_score` is the logit of a fault, unbounded.

    Batches hold maps (B, 3, H, W) of three equal channels in any positive unit. Half of every training batch (by
    `anomaly_probability`) gets a fault.

    Args:
        backbone, pre_trained: a timm network, from scratch by default.
        patch_width_range: pixels at the network's input size.
        patch_ratio_range: patch height / width; flat patches are bands.
        patch_count: patches a faulty map gets, 1 to 4.
        severity_range: bounds of the uniform severity, in units of the map's own level. One near 0 labels faults
            that do not show.
        anomaly_probability: share of training maps that get a fault.

    Raises BadInput for a setting out of range or a normalising pre-processor.
    """

    model: CutPasteModel

    def __init__(
        self,
        backbone: str = "resnet18",
        pre_trained: bool = False,
        patch_width_range: tuple[int, int] = (32, 192),
        patch_ratio_range: tuple[float, float] = (0.05, 0.25),
        patch_count: int = 1,
        severity_range: tuple[float, float] = (0.5, 4.0),
        anomaly_probability: float = 0.5,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        if not 0 < anomaly_probability < 1:
            raise BadInput(f"anomaly_probability is {anomaly_probability}; give one in (0, 1), both kinds are needed")
        faults = CutPaste(
            width=patch_width_range,
            ratio=patch_ratio_range,
            count=patch_count,
            severity=severity_range,
            relative=True,
            probability=anomaly_probability,
        )
        self.learn_from(faults)
        self.model = CutPasteModel(backbone, pre_trained)
        self.loss = nn.BCEWithLogitsLoss()

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> Tensor:
        """Put faults on some of the healthy maps and learn which."""
        images, _, severity = self.faults.paste_batch(batch.image)
        loss = self.loss(self.model.logits(images), (severity > 0).to(images))
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """The batch with `pred_score` (raw)."""
        return batch.update(pred_score=self.model.logits(batch.image))
