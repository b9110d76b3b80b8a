"""DRAEM-SevNet: what it takes, what it returns, how it is scored, and that it learns."""

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.pre_processing import PreProcessor
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, Resize

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own.draem_sevnet import DraemSevNet, Prediction

HEIGHT, WIDTH = 32, 96
BANDS: dict[str, Any] = {"patch_width_range": (10, 80), "patch_ratio_range": (0.02, 0.1)}
TINY = BANDS | {"reconstructive_width": 4, "discriminative_width": 4, "severity_head_width": 8}


def healthy(n: int, generator: torch.Generator) -> torch.Tensor:
    """Maps (n, 1, 32, 96): column stripes, three humps, lognormal noise, and a gain that differs from map to map."""
    stripes = 0.12 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(7))
    humps = 0.25 * torch.cos(6 * torch.pi * torch.arange(WIDTH) / WIDTH)
    noise = 0.25 * torch.randn(n, 1, HEIGHT, WIDTH, generator=generator)
    gain = 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    return 0.23 * torch.exp(stripes + humps + noise + gain)


def faulty(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps with a broken band of two rows, 20 to 120 % brighter; their masks; their severities (n,)."""
    severity = 0.2 + torch.rand(n, generator=generator)
    top = torch.randint(0, HEIGHT - 2, (n, 1, 1, 1), generator=generator)
    rows = torch.arange(HEIGHT)[:, None]
    unbroken = torch.rand(n, 1, 1, WIDTH // 8, generator=generator).repeat_interleave(8, dim=-1) < 0.8
    masks = ((rows >= top) & (rows < top + 2) & unbroken).float()
    return healthy(n, generator) * (1 + masks * severity[:, None, None, None]), masks, severity


def loader(maps: torch.Tensor, labels: torch.Tensor, shuffle: bool = False) -> DataLoader:
    items = [ImageItem(image=m.expand(3, -1, -1), gt_label=y.long()) for m, y in zip(maps, labels, strict=True)]
    return DataLoader(items, 8, shuffle=shuffle, collate_fn=ImageBatch.collate)  # type: ignore[arg-type]


def network(**settings: Any) -> DraemSevNet:
    evaluator = Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")])
    components: dict[str, Any] = {"pre_processor": False, "post_processor": False, "visualizer": False}
    return DraemSevNet(**(components | {"evaluator": evaluator} | TINY | settings))


def batch(n: int = 4, height: int = HEIGHT, width: int = WIDTH) -> ImageBatch:
    maps = 0.2 + 0.1 * torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0))
    return ImageBatch(image=maps.expand(-1, 3, -1, -1), gt_label=torch.zeros(n, dtype=torch.long))


def fit(model: DraemSevNet, folder: Path, maps: torch.Tensor, epochs: int = 1, **loaders: DataLoader) -> Engine:
    """Fit on healthy maps as the project does, with an Engine on one CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, **quiet)
    engine.fit(model, train_dataloaders=loader(maps, torch.zeros(len(maps)), shuffle=True), **loaders)
    return engine


def losses(model: DraemSevNet, data: ImageBatch) -> dict[str, float]:
    """The parts of one training loss."""
    logged: dict[str, float] = {}
    model.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign, assignment]
    model.log_dict = lambda parts, **_: logged.update({k: float(v) for k, v in parts.items()})  # type: ignore[method-assign, assignment]
    loss = model.training_step(data)
    assert float(loss.detach()) == pytest.approx(logged["train_loss"])
    return logged


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_every_setting_has_a_default_and_a_type() -> None:
    parameters = list(inspect.signature(DraemSevNet).parameters.values())
    assert all(p.default is not p.empty and p.annotation is not p.empty for p in parameters)


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("head", ["single_scale", "multi_scale", "none"])
def test_validation_gives_scores_maps_and_severities(in_channels: int, head: str) -> None:
    model = network(in_channels=in_channels, severity_head_mode=head, severity_max=3.0).eval()
    out = model.validation_step(batch())
    assert out.pred_score.shape == (4,) and out.anomaly_map.shape[-2:] == (HEIGHT, WIDTH)
    assert hasattr(out, "pred_severity") == (head != "none")
    if head != "none":
        assert ((out.pred_score > 0) & (out.pred_score < 1)).all()
        assert out.pred_severity.shape == (4,) and ((out.pred_severity > 0) & (out.pred_severity < 3)).all()


@pytest.mark.parametrize(("head", "features"), [("single_scale", 512), ("multi_scale", 1920)])
def test_the_head_reads_the_published_number_of_features(head: str, features: int) -> None:
    model = network(severity_head_mode=head, discriminative_width=64)
    assert model.model.severity_head[0].in_features == features
    model(batch(2, 32, 32).image)  # and they are there


@pytest.mark.parametrize(
    ("combination", "expected"), [("simple_average", 0.5), ("weighted_average", 0.35), ("maximum", 0.8)]
)
def test_mask_and_severity_join_as_named(combination: str, expected: float) -> None:
    model = network(score_combination=combination, score_weights=(3.0, 1.0), severity_max=10.0)
    prediction = Prediction(torch.zeros(1, 1, 2, 2), torch.tensor([0.2]).logit(), torch.tensor([0.8]))
    assert float(model.model.score(prediction)) == pytest.approx(expected)


def test_without_a_head_the_score_is_the_log_odds_of_the_maximum_of_the_mask() -> None:
    out = network(severity_head_mode="none").eval().validation_step(batch())
    maximum = torch.as_tensor(out.anomaly_map).flatten(1).amax(dim=1)
    torch.testing.assert_close(out.pred_score, maximum.logit(), rtol=1e-3, atol=1e-4)


def test_sure_faults_do_not_tie() -> None:
    log_odds = torch.tensor([20.0, 30.0, 40.0, 50.0])  # probabilities that float32 rounds to 1
    assert (log_odds.sigmoid() == 1).all()
    score = network(severity_head_mode="none").model.score(Prediction(torch.zeros(4, 1, 2, 2), log_odds, None))
    assert (score.diff() > 0).all()


@pytest.mark.parametrize("severity_max", [0.5, 20.0])
def test_loss_and_score_scale_the_severity_alike(severity_max: float) -> None:
    model = network(severity_max=severity_max, severity_loss="mse", severity_weight=1.0, anomaly_probability=1.0)
    # A head that says "the largest severity" of every map: the loss sees 1, the batch gets severity_max.
    model.model.severity_head[2].bias.data.fill_(20.0)
    seen = []
    paste = model.faults.paste_batch
    object.__setattr__(model.faults, "paste_batch", lambda x: seen.append(paste(x)) or seen[-1])
    logged = losses(model, batch(8))
    expected = float(((1 - seen[0][2] / severity_max) ** 2).mean())
    assert logged["train_loss_severity"] == pytest.approx(expected, abs=1e-3)
    out = model.eval().validation_step(batch())
    torch.testing.assert_close(out.pred_severity, torch.full((4,), severity_max))
    mask = out.anomaly_map.flatten(1).amax(dim=1)
    torch.testing.assert_close(out.pred_score, torch.as_tensor((mask + 1) / 2))


def test_training_faults_are_not_clipped() -> None:
    model = network(severity_max=50.0, anomaly_probability=1.0)
    seen = []
    model.model.networks = lambda images: (seen.append(images), real(images))[1]
    real = type(model.model).networks.__get__(model.model)
    losses(model, batch(16))
    assert seen[0].max() > 10


def test_without_faults_severity_and_mask_targets_are_empty() -> None:
    model = network(anomaly_probability=0.0, severity_loss="mse", severity_weight=1.0)
    model.model.severity_head[2].bias.data.fill_(-20.0)  # it says "no fault"
    assert losses(model, batch())["train_loss_severity"] == pytest.approx(0, abs=1e-6)


def test_the_losses_weigh_what_their_settings_say() -> None:
    parts = []
    for weight in (1.0, 4.0):
        torch.manual_seed(0)
        parts.append(losses(network(ssim_weight=weight, severity_weight=weight), batch()))
    ratio = {name: parts[1][name] / parts[0][name] for name in parts[0]}
    assert ratio["train_loss_ssim"] == pytest.approx(4) and ratio["train_loss_severity"] == pytest.approx(4)
    assert ratio["train_loss_l2"] == pytest.approx(1) and ratio["train_loss_focal"] == pytest.approx(1)


@pytest.mark.parametrize(("probability", "weight"), [(0.0, 0.2), (1.0, 0.8)])
def test_the_focal_loss_learns_background_and_fault_by_their_weights(probability: float, weight: float) -> None:
    whole = {"patch_width_range": (32, 32), "patch_ratio_range": (1.0, 1.0)}  # a fault covers the map
    model = network(focal_alpha=0.8, focal_gamma=0.0, anomaly_probability=probability, **whole)
    last = model.model.discriminative.decoder_segment.fin_out[0]
    torch.nn.init.zeros_(last.weight), torch.nn.init.zeros_(last.bias)  # both classes are equally likely everywhere
    logged = losses(model, batch(4, 32, 32))
    assert logged["train_loss_focal"] == pytest.approx(weight * math.log(2), rel=1e-4)


@pytest.mark.parametrize("gain", [0.05, 8.0])
def test_a_map_level_makes_scores_blind_to_gain_and_only_a_map_level_does(gain: float) -> None:
    images = batch().image
    blind, plain = network(map_level=0.25).eval(), network().eval()
    torch.testing.assert_close(blind.model.prepare(images).flatten(1).median(dim=1).values, torch.full((4,), 0.25))
    torch.testing.assert_close(blind(gain * images).pred_score, blind(images).pred_score)
    torch.testing.assert_close(plain.model.prepare(gain * images), gain * images)


def test_channels_lie_last_in_memory_which_changes_nothing_but_the_time() -> None:
    model = network().eval()
    kernels = [part.weight for part in model.modules() if isinstance(part, torch.nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    maps = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found = model.model(maps)
    model.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found.anomaly_map, model.model(maps).anomaly_map, rtol=1e-4, atol=1e-5)


def test_one_channel_takes_the_mean_of_three() -> None:
    model = network(in_channels=1)
    images = torch.stack([torch.full((HEIGHT, WIDTH), v) for v in (0.1, 0.2, 0.6)])[None]
    torch.testing.assert_close(model.model.prepare(images), torch.full((1, 1, HEIGHT, WIDTH), 0.3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"focal_alpha": 1.0}, "background"),
        ({"focal_alpha": 0.0}, "focal_alpha"),
        ({"severity_head_mode": "double_scale"}, "single_scale"),
        ({"score_combination": "minimum"}, "maximum"),
        ({"severity_loss": "l1"}, "smooth_l1"),
        ({"in_channels": 2}, "in_channels"),
        ({"severity_max": 0.0}, "severity_max"),
        ({"map_level": 0.0}, "map_level"),
        ({"discriminative_width": 0}, "discriminative_width"),
        ({"score_weights": (0.0, 0.0)}, "score_weights"),
        ({"patch_count": 0}, "patch count"),
        ({"patch_ratio_range": (0.3, 0.1)}, "patch ratio"),
        ({"pre_processor": PreProcessor(Compose([Resize((32, 96)), Normalize([0.5], [0.5])]))}, "Normalize"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words) as raised:
        network(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("size", [(31, 95), (32, 95), (0, 32)])
def test_a_size_that_does_not_divide_by_32_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="multiples of 32"):
        DraemSevNet.configure_pre_processor(size)
    with pytest.raises(BadInput, match=f"multiples of 32, got {size[0]}x{size[1]}"):
        network()(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(("size", "words"), [((48, 96), "multiples of 32"), ((32, 64), "does not fit")])
def test_a_size_that_cannot_be_trained_on_is_refused_before_the_first_map(
    size: tuple[int, int], words: str, tmp_path: Path
) -> None:
    model = network(pre_processor=PreProcessor(Resize(size)))
    model.training_step = lambda *_: pytest.fail("a map was read")  # type: ignore[method-assign]
    with pytest.raises(BadInput, match=words):
        fit(model, tmp_path, batch().image[:, :1])


def test_the_pre_processor_resizes_and_leaves_values_as_they_are() -> None:
    resized = DraemSevNet.configure_pre_processor((64, 96))(torch.full((1, 3, 31, 95), 2.5))
    torch.testing.assert_close(resized, torch.full((1, 3, 64, 96), 2.5))


@pytest.mark.slow
def test_a_checkpoint_of_plain_data_gives_the_same_scores_back(tmp_path: Path) -> None:
    settings = {"patch_count": 2, "map_level": 0.25, "score_combination": "maximum"}
    model = network(**settings)
    engine = fit(model, tmp_path, healthy(8, torch.Generator().manual_seed(0)))
    path = tmp_path / "model.ckpt"
    engine.trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)  # raises on anything but plain data
    assert content["hyper_parameters"]["patch_width_range"] == (10, 80)
    again = DraemSevNet.load_from_checkpoint(path).eval()
    rebuilt = network(**settings).eval()
    rebuilt.load_state_dict(content["state_dict"], strict=True)
    expected = model.eval()(batch().image).pred_score
    assert torch.equal(again(batch().image).pred_score, expected)
    assert torch.equal(rebuilt(batch().image).pred_score, expected)


def test_the_parts_of_the_loss_are_logged_every_epoch(tmp_path: Path) -> None:
    engine = fit(network(), tmp_path, healthy(8, torch.Generator().manual_seed(0)))
    logged = {name for name in engine.trainer.callback_metrics if name.startswith("train_")}
    parts = {"train_loss_l2", "train_loss_ssim", "train_loss_focal", "train_loss_severity"}
    assert logged == {"train_loss"} | parts


@pytest.mark.slow
def test_it_finds_bands_that_the_image_maximum_misses_and_ranks_their_severity(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    train, good = healthy(64, generator), healthy(48, generator)
    bad, masks, severity = faulty(48, generator)
    maps, labels = torch.cat([good, bad]), torch.arange(96) >= 48
    model = network(discriminative_width=8)
    model.learning_rate = 2e-3

    engine = fit(model, tmp_path, train, epochs=12, val_dataloaders=loader(maps, labels))
    watched = float(engine.trainer.callback_metrics["val_image_AUROC"])
    batches = engine.predict(model, dataloaders=loader(maps, labels))
    score, predicted = (torch.cat([getattr(b, name) for b in batches]) for name in ("pred_score", "pred_severity"))
    heat = torch.cat([b.anomaly_map for b in batches])

    auroc = roc_auc_score(labels, score)
    pixel_auroc = roc_auc_score(masks.flatten(), heat[48:].flatten())
    rank_correlation = spearmanr(predicted[48:], severity).statistic
    print(f"AUROC {auroc:.3f}, pixel AUROC {pixel_auroc:.3f}, severity Spearman {rank_correlation:.3f}")
    assert watched == pytest.approx(auroc, abs=1e-4)  # raw scores are what the Evaluator sees
    assert auroc > max(0.88, roc_auc_score(labels, maps.amax(dim=(1, 2, 3))))
    assert pixel_auroc > 0.8
    assert rank_correlation > 0.6
