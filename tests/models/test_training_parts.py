"""What DRAEM-SevNet and the CutPaste classifier minimise, on numbers that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import AUROC, Evaluator
from anomalib.pre_processing import PreProcessor
from parts import BARE, Called, logs, random
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torchvision.transforms.v2 import Compose, Normalize, Resize

from hdmap_mlflow.data.faults import CutPaste
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own.cutpaste import CutPasteClassifier
from hdmap_mlflow.models.own.draem_sevnet import DraemSevNet, Prediction

SIZE = (32, 64)
TINY: dict[str, Any] = {"reconstructive_width": 2, "discriminative_width": 2, "severity_head_width": 3}
BANDS: dict[str, Any] = {"patch_width_range": (10, 40), "patch_ratio_range": (0.05, 0.1)}


def sevnet(**settings: Any) -> DraemSevNet:
    return DraemSevNet(**(BARE | TINY | BANDS | settings))


def dissimilarity(a: np.ndarray, b: np.ndarray) -> float:
    """(1 - SSIM) / 2 of images (..., H, W) in [0, 1]: Gaussian window of 11 pixels and sd 1.5, mirrored border."""

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (0, 0, 1.5, 1.5), mode="mirror", truncate=3.5)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    ssim = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
    return float(((1 - ssim) / 2).clip(0, 1).mean())


def focal(logits: np.ndarray, mask: np.ndarray, alpha: float, gamma: float) -> float:
    """-w (1 - p)^gamma log p of the pixel's own class, with w = alpha on faults and 1 - alpha elsewhere."""
    p = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))  # of a fault
    p, weight = np.where(mask == 1, p, 1 - p), np.where(mask == 1, alpha, 1 - alpha)
    return float((-weight * (1 - p) ** gamma * np.log(p)).mean())


@pytest.mark.parametrize("kind", ["mse", "smooth_l1"])
def test_the_loss_of_draem_sevnet_is_the_weighted_sum_of_its_four_parts(kind: Any) -> None:
    weights = {"focal_alpha": 0.7, "focal_gamma": 3.0, "ssim_weight": 1.7, "severity_weight": 0.3}
    model = sevnet(severity_max=4.0, severity_loss=kind, **weights)
    healthy, pasted, reconstruction = (random(2, 3, *SIZE, seed=seed) for seed in range(3))
    masks = (random(2, 1, *SIZE, seed=3) < 0.1).float()
    logits = (4 * random(2, 2, *SIZE, seed=4) - 2).requires_grad_()
    told, severity = torch.tensor([0.9, 0.25]), torch.tensor([3.0, 0.0])
    fed: list[Tensor] = []
    object.__setattr__(model.faults, "paste_batch", lambda images: fed.append(images) or (pasted, masks, severity))
    model.model.networks = lambda images: fed.append(images) or (reconstruction, logits, told)  # type: ignore[method-assign]
    values, how = logs(model)

    loss = model.training_step(ImageBatch(image=healthy))

    assert torch.equal(fed[0], healthy) and torch.equal(fed[1], pasted)  # it is asked to undo the fault
    off = np.array([0.9 - 0.75, 0.25 - 0.0])
    expected = {
        "train_loss_l2": float(((reconstruction - healthy) ** 2).mean()),
        "train_loss_ssim": 1.7 * dissimilarity(reconstruction.double().numpy(), healthy.double().numpy()),
        "train_loss_focal": focal(logits.detach().double().numpy(), masks[:, 0].numpy(), 0.7, 3.0),
        "train_loss_severity": 0.3 * float((off**2).mean() / (2 if kind == "smooth_l1" else 1)),
    }
    expected["train_loss"] = sum(expected.values())
    assert values == pytest.approx(expected, rel=1e-4)
    assert loss.requires_grad and loss.item() == pytest.approx(expected["train_loss"], rel=1e-4)
    assert all(one["on_epoch"] and not one["on_step"] and one["batch_size"] == 2 for one in how)


def test_without_a_head_the_loss_has_three_parts() -> None:
    model = sevnet(severity_head_mode="none")
    values, _ = logs(model)
    loss = model.training_step(ImageBatch(image=random(2, 3, *SIZE)))
    assert set(values) == {"train_loss", "train_loss_l2", "train_loss_ssim", "train_loss_focal"}
    assert loss.item() == pytest.approx(sum(values.values()) / 2)
    loss.backward()
    learned = {name.split(".")[1] for name, weight in model.named_parameters() if weight.grad is not None}
    assert learned == {"reconstructive", "discriminative"}


def test_the_whole_of_draem_sevnet_learns_from_one_step() -> None:
    model = sevnet()
    logs(model)
    model.training_step(ImageBatch(image=random(2, 3, *SIZE))).backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(("mode", "values"), [("single_scale", [6.0] * 16), ("multi_scale", None)])
def test_the_head_reads_the_means_of_the_encoders_blocks(mode: Any, values: list[float] | None) -> None:
    width, factors = 2, (1, 2, 4, 8, 8, 8)
    model = sevnet(severity_head_mode=mode, severity_head_width=5).model
    assert [tuple(weight.shape) for weight in model.severity_head.parameters()][1:] == [(5,), (1, 5), (1,)]  # type: ignore[union-attr]
    images, undone = random(2, 3, *SIZE), random(2, 3, *SIZE, seed=1)
    # A gradient along the columns and one along the rows, with the mean 1 in block 1 to 6 in block 6.
    ramp = (torch.arange(8.0) - 3.5)[:, None] + (torch.arange(4.0) - 1.5)
    blocks = tuple((ramp + i + 1).expand(2, width * factor, 8, 4) for i, factor in enumerate(factors))
    seen: dict[str, Any] = {}
    model.reconstructive = Called(lambda x: undone)  # type: ignore[assignment]
    model.discriminative.encoder_segment = Called(lambda x: seen.update(encoder=x) or blocks)
    model.discriminative.decoder_segment = Called(lambda *x: seen.update(decoder=x) or "logits")
    model.severity_head = Called(lambda x: seen.update(head=x) or torch.tensor([0.0, 2.0]))  # type: ignore[assignment]
    reconstruction, logits, severity = model.networks(images)
    assert reconstruction is undone and logits == "logits"
    assert torch.equal(seen["encoder"], torch.cat([images, undone], dim=1)) and seen["decoder"] == blocks
    values = values or [v for i, f in enumerate(factors[1:]) for v in [i + 2.0] * width * f]
    torch.testing.assert_close(seen["head"], torch.tensor([values, values]))
    torch.testing.assert_close(severity, torch.tensor([0.5, 1 / (1 + np.exp(-2))], dtype=torch.float32))


def test_the_head_is_two_layers_with_a_rectifier_between() -> None:
    head = sevnet(severity_head_mode="single_scale").model.severity_head
    assert head is not None
    first, last = [part for part in head if isinstance(part, nn.Linear)]
    nn.init.constant_(first.weight, 1.0), nn.init.zeros_(first.bias)
    nn.init.constant_(last.weight, 2.0), nn.init.constant_(last.bias, 0.5)
    features = torch.stack([torch.full((16,), 1.0), torch.full((16,), -1.0)])
    torch.testing.assert_close(head(features), torch.tensor([3 * 2 * 16 + 0.5, 0.5]))


def test_the_mask_is_the_softmax_of_two_logits() -> None:
    model = sevnet().model
    logits = 3 * random(2, 2, *SIZE)
    model.networks = lambda images: (images, logits, torch.tensor([0.1, 0.2]))  # type: ignore[method-assign]
    found = model.predict(random(2, 3, *SIZE))
    fault = logits.softmax(dim=1)[:, 1:]
    torch.testing.assert_close(found.anomaly_map, fault)
    torch.testing.assert_close(found.mask_logit.sigmoid(), fault.amax(dim=(1, 2, 3)))
    out = model(random(2, 3, *SIZE))
    torch.testing.assert_close(out.pred_score, (fault.amax(dim=(1, 2, 3)) + torch.tensor([0.1, 0.2])) / 2)
    assert torch.equal(out.anomaly_map, found.anomaly_map)


def test_the_weights_of_mask_and_severity_are_shares() -> None:
    prediction = Prediction(torch.zeros(1, 1, 2, 2), torch.tensor([0.2]).logit(), torch.tensor([0.8]))
    for weights, expected in (((0.0, 2.0), 0.8), ((1.0, 0.0), 0.2), ((1.0, 2.0), 0.6)):
        model = sevnet(score_combination="weighted_average", score_weights=weights)
        assert float(model.model.score(prediction)) == pytest.approx(expected)


def test_every_step_that_is_not_training_gives_the_same_and_severities_in_their_own_unit() -> None:
    model = sevnet(severity_max=3.0).eval()
    prediction = Prediction(random(2, 1, *SIZE), torch.tensor([0.3, -1.0]), torch.tensor([0.5, 0.9]))
    model.model.predict = lambda images: prediction  # type: ignore[method-assign]
    for step in (model.validation_step, model.test_step, model.predict_step):
        out = step(ImageBatch(image=random(2, 3, *SIZE)))
        torch.testing.assert_close(out.pred_severity, torch.tensor([1.5, 2.7]))
        torch.testing.assert_close(out.pred_score, model.model.score(prediction))
        assert out.anomaly_map.flatten().tolist() == prediction.anomaly_map.flatten().tolist()


def test_an_empty_map_stays_empty_at_any_level() -> None:
    assert torch.equal(sevnet(map_level=0.25).model.prepare(torch.zeros(1, 3, *SIZE)), torch.zeros(1, 3, *SIZE))


@pytest.mark.parametrize("channels", [1, 3])
def test_networks_have_the_channels_and_widths_that_are_asked_for(channels: Any) -> None:
    model = DraemSevNet(in_channels=channels, reconstructive_width=3, discriminative_width=2, **BARE).model
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert next(shape for name, shape in shapes.items() if name.startswith("reconstructive"))[:2] == (3, channels)
    assert next(s for name, s in shapes.items() if name.startswith("discriminative"))[:2] == (2, 2 * channels)
    reconstruction, logits, severity = model.networks(model.prepare(random(2, 3, *SIZE)))
    assert reconstruction.shape == (2, channels, *SIZE) and logits.shape == (2, 2, *SIZE)
    assert severity is not None and severity.shape == (2,)


def test_the_faults_are_those_of_the_settings() -> None:
    patches: dict[str, Any] = {"patch_width_range": (5, 9), "patch_ratio_range": (0.2, 0.4), "patch_count": 3}
    model = sevnet(**patches, severity_max=2.5, anomaly_probability=0.2)
    assert model.faults == CutPaste((5, 9), ratio=(0.2, 0.4), count=3, severity=(0.0, 2.5), probability=0.2)
    other = CutPasteClassifier(
        **BARE, backbone="test_resnet", **patches, severity_range=(1.0, 2.0), anomaly_probability=0.2
    )
    assert CutPasteClassifier(**BARE, backbone="test_resnet").faults.count == 1
    same: dict[str, Any] = {"ratio": (0.2, 0.4), "count": 3, "severity": (1.0, 2.0), "probability": 0.2}
    assert other.faults == CutPaste((5, 9), **same, relative=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"reconstructive_width": 0},
        {"reconstructive_width": -1},
        {"severity_head_width": 0},
        {"severity_max": -1.0},
        {"map_level": -0.1},
        {"score_weights": (-1.0, 3.0)},
        {"score_weights": (1.0, -0.5)},
        {"focal_alpha": 1.5},
        {"focal_alpha": -0.5},
        {"in_channels": 4},
        {"severity_loss": "mae"},
        {"score_combination": "least"},
        {"severity_head_mode": "some"},
        {"discriminative_width": 0},
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_name_and_value(settings: dict[str, Any]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(BadInput, match=f"^{name} (is|are) ") as raised:
        sevnet(**settings)
    shown = str(list(value)) if isinstance(value, tuple) else str(value)
    assert shown in str(raised.value) and raised.value.args[0].count("give") == 1


def test_the_published_settings_of_draem_sevnet() -> None:
    with torch.device("meta"):  # shapes without weights
        model = DraemSevNet()
    shapes = {name: tuple(weight.shape) for name, weight in model.model.named_parameters()}
    assert shapes["reconstructive.encoder.block1.0.weight"][:2] == (128, 3)
    assert shapes["discriminative.encoder_segment.block1.0.weight"][:2] == (64, 6)
    assert shapes["severity_head.0.weight"] == (128, 1920)
    assert model.faults == CutPaste((32, 192), ratio=(0.05, 0.25), severity=(0.0, 1.0), probability=0.5)
    assert (model.severity_max, model.ssim_weight, model.severity_weight) == (1.0, 2.0, 0.5)
    assert (model.focal.alpha, model.focal.gamma, model.model.level) == (0.75, 2.0, None)
    assert (model.model.combination, model.model.score_weights) == ("simple_average", (0.5, 0.5))
    assert isinstance(model.severity_criterion, nn.SmoothL1Loss)


def test_a_choice_that_does_not_exist_is_answered_by_those_that_do() -> None:
    with pytest.raises(BadInput, match="single_scale, multi_scale, none"):
        sevnet(severity_head_mode="some")


def test_small_but_possible_settings_are_taken() -> None:
    model = sevnet(reconstructive_width=1, discriminative_width=1, severity_head_width=1, severity_max=0.5)
    assert model.severity_max == 0.5
    sevnet(focal_alpha=0.01, score_weights=(0.0, 0.1), map_level=0.01, severity_loss="mse", in_channels=1)
    sevnet(focal_alpha=0.99)


@pytest.mark.parametrize("model", [DraemSevNet, CutPasteClassifier])
def test_the_components_that_are_given_are_the_models(model: Any) -> None:
    pre, evaluator = PreProcessor(Resize((32, 192))), Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"])])
    small = TINY if model is DraemSevNet else {"backbone": "test_resnet"}
    built = model(pre_processor=pre, post_processor=False, evaluator=evaluator, visualizer=False, **small)
    assert built.pre_processor is pre and built.evaluator is evaluator
    assert built.post_processor is None and built.visualizer is None
    defaults = model(**small)
    parts = (defaults.pre_processor, defaults.post_processor, defaults.evaluator, defaults.visualizer)
    assert all(part is not None for part in parts)
    assert tuple(defaults.input_size) == (256, 256)
    assert defaults.learning_type is LearningType.ONE_CLASS
    assert defaults.trainer_arguments == {"gradient_clip_val": 0, "num_sanity_val_steps": 0}


@pytest.mark.parametrize(("model", "rate", "decay"), [(DraemSevNet, 1e-4, 0.0), (CutPasteClassifier, 1e-3, 1e-4)])
def test_adamw_learns_all_weights_at_the_published_rate(model: Any, rate: float, decay: float) -> None:
    built = CutPasteClassifier(**BARE, backbone="test_resnet") if model is CutPasteClassifier else sevnet()
    optimizer = built.configure_optimizers()
    [group] = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW) and (group["lr"], group["weight_decay"]) == (rate, decay)
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in built.model.parameters())


@pytest.mark.parametrize("size", [None, (64, 192)])
def test_the_pre_processor_resizes_with_antialiasing_to_the_size_asked_for(size: Any) -> None:
    fine = torch.zeros(1, 3, 512, 768)
    fine[..., ::4] = 1.0  # every fourth column: without antialiasing a quarter of the pixels would see them, or none
    for model in (DraemSevNet, CutPasteClassifier):
        out = model.configure_pre_processor(size).transform(fine)
        assert out.shape[-2:] == (size or (256, 256))
        assert (out[..., 2:-2] - 0.25).abs().max() < 0.15


def test_faults_and_sizes_are_checked_before_the_first_map() -> None:
    def model(size: Any, **settings: Any) -> DraemSevNet:
        return DraemSevNet(**(BARE | TINY | settings | {"pre_processor": PreProcessor(Resize(size))}))

    model((32, 64), **BANDS).on_fit_start()
    sevnet().on_fit_start()  # the size is not known
    with pytest.raises(BadInput, match="multiples of 32, got 32x80"):
        model((32, 80), **BANDS).on_fit_start()
    with pytest.raises(BadInput, match="does not fit a map of 32x64"):
        model((32, 64)).on_fit_start()
    for size in ((64, 32), (32, 32)):
        DraemSevNet.configure_pre_processor(size)
    for size in ((0, 32), (32, 0), (16, 32), (33, 32), (32, 33)):
        with pytest.raises(BadInput, match=f"multiples of 32, got {size[0]}x{size[1]}.*data.image_size"):
            DraemSevNet.configure_pre_processor(size)


def test_only_a_pre_processor_that_normalises_is_refused() -> None:
    steps = Compose([Resize((32, 96)), Normalize([0.5], [0.5])])
    for model in (sevnet, lambda **given: CutPasteClassifier(**(BARE | {"backbone": "test_resnet"} | given))):
        assert model(pre_processor=PreProcessor(Resize((32, 192)))).pre_processor
        with pytest.raises(BadInput, match="Normalize out of the pre-processor"):
            model(pre_processor=PreProcessor(steps))
