"""DRAEM-SevNet: DRAEM trained on scaled-CutPaste faults, with a head that predicts how severe the fault is.

DRAEM: Zavrtanik et al., DRAEM - A discriminatively trained reconstruction embedding for surface anomaly detection,
ICCV 2021; its two networks are anomalib's. Faults: CutPaste, Li et al., CVPR 2021, scaled (`data.faults`). Mask loss:
Lin et al., Focal loss for dense object detection, 2017.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from anomalib.data import InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from kornia.losses import FocalLoss, SSIMLoss
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from hdmap_mlflow.annotations import Batch
from hdmap_mlflow.data.faults import CutPaste, map_level
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own.cutpaste import CutPasteModule

HeadMode = Literal["single_scale", "multi_scale", "none"]
Combination = Literal["simple_average", "weighted_average", "maximum"]
SeverityLoss = Literal["mse", "smooth_l1"]
STRIDE = 32  # five halvings in the discriminative encoder, undone in its decoder


class Prediction(NamedTuple):
    """What the networks say of B maps.

    anomaly_map (B, 1, H, W): probability of a fault; mask_logit (B,): log odds of its largest value, unbounded;
    severity (B,): in units of `severity_max`, in (0, 1), or None without a head.
    """

    anomaly_map: Tensor
    mask_logit: Tensor
    severity: Tensor | None


class DraemSevNetModel(nn.Module):
    """The networks of DRAEM-SevNet and the score that joins their outputs; settings as in `DraemSevNet`.

    The severity head pools the discriminative encoder: its last block (8 x the base width, 512 channels by default), or
    blocks 2 to 6 joined (30 x, 1920 channels).
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int],
        head_mode: HeadMode,
        head_width: int,
        combination: Combination,
        score_weights: tuple[float, float],
        level: float | None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.head_mode = head_mode
        self.combination = combination
        self.score_weights = score_weights
        self.level = level
        reconstructive_width, width = widths
        self.reconstructive = ReconstructiveSubNetwork(in_channels, in_channels, reconstructive_width)
        self.discriminative = DiscriminativeSubNetwork(2 * in_channels, 2, width)
        self.severity_head = None
        if head_mode != "none":
            features = width * (8 if head_mode == "single_scale" else 2 + 4 + 8 + 8 + 8)
            self.severity_head = nn.Sequential(
                nn.Linear(features, head_width), nn.ReLU(inplace=True), nn.Linear(head_width, 1), nn.Flatten(0)
            )
        self.to(memory_format=torch.channels_last)  # its convolutions take three quarters of the time so

    def prepare(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) as the networks take them: one channel if asked, and at one level if asked.

        Raises BadInput if height or width is no multiple of 32.
        """
        check_size(*images.shape[-2:])
        if self.in_channels == 1:
            images = images.mean(dim=1, keepdim=True)
        if self.level is not None:
            images = images * (self.level / map_level(images).clamp(min=1e-12))[:, None, None, None]
        return images

    def networks(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Prepared maps -> reconstruction (B, C, H, W), mask logits (B, 2, H, W), severity (B,) in (0, 1) or None."""
        reconstruction = self.reconstructive(images)
        blocks = self.discriminative.encoder_segment(torch.cat([images, reconstruction], dim=1))
        logits = self.discriminative.decoder_segment(*blocks)
        if self.severity_head is None:
            return reconstruction, logits, None
        chosen = blocks[-1:] if self.head_mode == "single_scale" else blocks[1:]
        pooled = torch.cat([block.mean(dim=(2, 3)) for block in chosen], dim=1)
        # A sigmoid keeps the order of scores at both ends, where clamping a free output would tie them.
        return reconstruction, logits, torch.sigmoid(self.severity_head(pooled))

    def predict(self, images: Tensor) -> Prediction:
        """Maps (B, 3, H, W), pre-processed, to a `Prediction`."""
        _, logits, severity = self.networks(self.prepare(images))
        log_odds = logits[:, 1:] - logits[:, :1]
        return Prediction(log_odds.sigmoid(), log_odds.amax(dim=(1, 2, 3)), severity)

    def score(self, prediction: Prediction) -> Tensor:
        """Anomaly scores (B,): mask maximum and scaled severity joined as `combination` says, in [0, 1].

        Without a head: the log odds of the mask maximum, because probabilities of sure faults round to 1 and tie.
        """
        if prediction.severity is None:
            return prediction.mask_logit
        mask, severity = prediction.mask_logit.sigmoid(), prediction.severity
        if self.combination == "maximum":
            return torch.maximum(mask, severity)
        a, b = (1.0, 1.0) if self.combination == "simple_average" else self.score_weights
        return (a * mask + b * severity) / (a + b)

    def forward(self, images: Tensor) -> InferenceBatch:
        """Maps (B, 3, H, W) to `pred_score` (B,) and `anomaly_map` (B, 1, H, W)."""
        prediction = self.predict(images)
        return InferenceBatch(pred_score=self.score(prediction), anomaly_map=prediction.anomaly_map)


class DraemSevNet(CutPasteModule):
    """DRAEM with scaled-CutPaste faults and a severity head; without the head it is scaled-CutPaste DRAEM.

    Batches hold maps (B, 3, H, W) of three equal channels, roughly in [0, 1] and never clipped; H and W divide by 32.
    `pred_score` is raw: in [0, 1], or log odds without a head. With a head, a predicted batch also has `pred_severity`
    (B,), in the unit of `severity_max`.

    Args:
        in_channels: 3, or 1 to use the mean of the three equal channels (less to compute).
        reconstructive_width, discriminative_width: base widths of the two networks (the paper's: 128 and 64).
        severity_head_mode: `single_scale`, `multi_scale`, or `none` for scores from the mask alone.
        severity_head_width: hidden units of the head.
        score_combination: how mask maximum and severity / severity_max become the score.
        score_weights: of mask and severity in `weighted_average`; equal ones, as here, make it `simple_average`.
        patch_width_range: pixels at the network's input size.
        patch_ratio_range: patch height / width; flat patches are bands.
        patch_count: patches a faulty map gets, 1 to 4; they share their properties.
        severity_max: severities are uniform on 0 to this, in the unit of the maps (after `map_level`, if set).
        anomaly_probability: share of training maps that get a fault.
        map_level: if set, every map is scaled to this median before the networks, which makes the scores blind to gain
            and takes maps of any scale into DRAEM's range (0.25 is usual for HDMAP); None leaves maps as they are.
        focal_alpha, focal_gamma: focal loss of the mask; background weighs 1 - alpha, the much rarer fault alpha.
        ssim_weight, severity_weight: of these losses, beside 1 for L2 and focal.
        severity_loss: on severity / severity_max.

    Raises BadInput for a setting out of range, a normalising pre-processor, or a map size that does not divide by 32.
    """

    model: DraemSevNetModel
    learning_rate = 1e-4
    weight_decay = 0.0

    def __init__(
        self,
        in_channels: Literal[1, 3] = 3,
        reconstructive_width: int = 128,
        discriminative_width: int = 64,
        severity_head_mode: HeadMode = "multi_scale",
        severity_head_width: int = 128,
        score_combination: Combination = "simple_average",
        score_weights: tuple[float, float] = (0.5, 0.5),
        patch_width_range: tuple[int, int] = (32, 192),
        patch_ratio_range: tuple[float, float] = (0.05, 0.25),
        patch_count: int = 1,
        severity_max: float = 1.0,
        anomaly_probability: float = 0.5,
        map_level: float | None = None,
        focal_alpha: float = 0.75,
        focal_gamma: float = 2.0,
        ssim_weight: float = 2.0,
        severity_weight: float = 0.5,
        severity_loss: SeverityLoss = "smooth_l1",
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        if not 0 < focal_alpha < 1:
            raise BadInput(
                f"focal_alpha is {focal_alpha}; give one inside (0, 1): the background weighs 1 - alpha and the fault "
                "alpha, so at 1 the background would not be learned at all"
            )
        for name, value, hint in (
            ("in_channels", in_channels, Literal[1, 3]),
            ("severity_head_mode", severity_head_mode, HeadMode),
            ("score_combination", score_combination, Combination),
            ("severity_loss", severity_loss, SeverityLoss),
        ):
            if value not in get_args(hint):
                raise BadInput(f"{name} is {value!r}; give one of {', '.join(map(str, get_args(hint)))}")
        for name, number in {
            "reconstructive_width": reconstructive_width,
            "discriminative_width": discriminative_width,
            "severity_head_width": severity_head_width,
            "severity_max": severity_max,
            "map_level": 1 if map_level is None else map_level,
        }.items():
            if number <= 0:
                raise BadInput(f"{name} is {number}; give a positive one")
        if min(score_weights) < 0 or sum(score_weights) == 0:
            raise BadInput(f"score_weights are {list(score_weights)}; give two of at least 0 and one above it")

        faults = CutPaste(
            width=patch_width_range,
            ratio=patch_ratio_range,
            count=patch_count,
            severity=(0.0, severity_max),
            probability=anomaly_probability,
        )
        self.learn_from(faults)
        self.severity_max = severity_max
        self.ssim_weight = ssim_weight
        self.severity_weight = severity_weight
        self.model = DraemSevNetModel(
            in_channels,
            (reconstructive_width, discriminative_width),
            severity_head_mode,
            severity_head_width,
            score_combination,
            score_weights,
            map_level,
        )
        self.l2 = nn.MSELoss()
        self.ssim = SSIMLoss(window_size=11)
        self.focal = FocalLoss(alpha=focal_alpha, gamma=focal_gamma, reduction="none")
        self.severity_criterion = nn.MSELoss() if severity_loss == "mse" else nn.SmoothL1Loss()

    def on_fit_start(self) -> None:
        """Raises BadInput early if the pre-processor's size does not divide by 32 or the faults do not fit it."""
        if self.input_size:
            check_size(*self.input_size)
        super().on_fit_start()

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> Tensor:
        """Put faults on healthy maps, and learn to undo them, to mark them and to say how severe they are."""
        healthy = self.model.prepare(batch.image)
        # No clamp here: a clipped fault would not have the severity on its label.
        images, masks, severity = self.faults.paste_batch(healthy)
        reconstruction, logits, predicted = self.model.networks(images)
        parts = {
            "l2": self.l2(reconstruction, healthy),
            "ssim": self.ssim_weight * self.ssim(reconstruction, healthy),
            # kornia's mean would be over the classes too, which halves the loss of a pixel.
            "focal": self.focal(logits, masks[:, 0].long()).sum(dim=1).mean(),
        }
        if predicted is not None:
            parts["severity"] = self.severity_weight * self.severity_criterion(predicted, severity / self.severity_max)
        loss = torch.stack(list(parts.values())).sum()
        size = len(healthy)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=size)
        self.log_dict(
            {f"train_loss_{name}": part.detach() for name, part in parts.items()},
            on_step=False,
            on_epoch=True,
            batch_size=size,
        )
        return loss

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """The batch with `pred_score` (raw), `anomaly_map` and, with a head, `pred_severity`."""
        prediction = self.model.predict(batch.image)
        if prediction.severity is not None:
            batch.pred_severity = prediction.severity * self.severity_max
        return batch.update(pred_score=self.model.score(prediction), anomaly_map=prediction.anomaly_map)

    def test_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """As in validation."""
        return self.validation_step(batch)

    def predict_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """As in validation."""
        return self.validation_step(batch)

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize only, to 256 x 256 by default. Raises BadInput for a size that does not divide by 32."""
        check_size(*(image_size or (256, 256)))
        return CutPasteModule.configure_pre_processor(image_size)


def check_size(height: int, width: int) -> None:
    """Raises BadInput if a map of this size does not pass DRAEM's five halvings unchanged."""
    if height % STRIDE or width % STRIDE or min(height, width) < STRIDE:
        raise BadInput(
            f"DRAEM-SevNet needs height and width in multiples of {STRIDE}, got {height}x{width}; "
            "set data.image_size, e.g. [96, 288]"
        )
