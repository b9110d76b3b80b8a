"""The CutPaste classifier: what it returns, what it ignores, and that it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.engine import Engine
from anomalib.metrics import AUROC, Evaluator
from anomalib.pre_processing import PreProcessor
from parts import BARE, Called, logs, random
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, Resize

from hdmap_mlflow.data.simulate import domain_maps
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own import cutpaste
from hdmap_mlflow.models.own.cutpaste import CutPasteClassifier

BANDS: dict[str, Any] = {"patch_width_range": (10, 80), "patch_ratio_range": (0.02, 0.1)}


def classifier(**settings: Any) -> CutPasteClassifier:
    evaluator = Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")])
    components: dict[str, Any] = {"pre_processor": False, "post_processor": False, "visualizer": False}
    components |= {"evaluator": evaluator, "backbone": "test_resnet"}
    return CutPasteClassifier(**(components | BANDS | settings))


def images(n: int = 4) -> torch.Tensor:
    maps = 0.2 + 0.1 * torch.rand(n, 1, 32, 96, generator=torch.Generator().manual_seed(0))
    return maps.expand(-1, 3, -1, -1)


def loader(maps: np.ndarray, labels: np.ndarray, shuffle: bool = False) -> DataLoader:
    items = [
        ImageItem(image=torch.from_numpy(m).expand(3, -1, -1), gt_label=torch.tensor(int(y)))
        for m, y in zip(maps, labels, strict=True)
    ]
    return DataLoader(items, 16, shuffle=shuffle, collate_fn=ImageBatch.collate)  # type: ignore[arg-type]


def fit(model: CutPasteClassifier, folder: Path, maps: np.ndarray, epochs: int = 1, **loaders: DataLoader) -> Engine:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, **quiet)
    engine.fit(model, train_dataloaders=loader(maps, np.zeros(len(maps)), shuffle=True), **loaders)
    return engine


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def test_the_score_is_the_raw_logit_and_there_is_no_map() -> None:
    model = classifier().eval()
    data = ImageBatch(image=images(), gt_label=torch.zeros(4, dtype=torch.long))
    out = model.validation_step(data)
    torch.testing.assert_close(out.pred_score, model.model.logits(images()))
    assert out.pred_score.shape == (4,) and out.anomaly_map is None
    torch.testing.assert_close(model.predict_step(data, 0).pred_score, out.pred_score)


@pytest.mark.parametrize("gain", [0.05, 8.0])
def test_the_gain_of_a_recording_does_not_change_the_score(gain: float) -> None:
    model = classifier().eval()
    torch.testing.assert_close(model(gain * images()).pred_score, model(images()).pred_score, rtol=1e-3, atol=1e-4)


def test_training_asks_for_a_fault_where_one_was_pasted() -> None:
    model = classifier(anomaly_probability=0.5)
    seen: dict[str, torch.Tensor] = {}
    model.model.logits = lambda x: x.amax(dim=(1, 2, 3))  # type: ignore[method-assign]
    model.loss.forward = lambda logits, target: seen.update(logits=logits, target=target) or logits.mean()
    model.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    model.training_step(ImageBatch(image=images(64), gt_label=torch.zeros(64, dtype=torch.long)))
    assert set(seen["target"].tolist()) == {0.0, 1.0}
    changed = seen["logits"] > images(64).amax(dim=(1, 2, 3))
    assert not changed[seen["target"] == 0].any() and changed[seen["target"] == 1].any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"anomaly_probability": 1.0}, "both kinds"),
        ({"anomaly_probability": 0.0}, "both kinds"),
        ({"severity_range": (2.0, 1.0)}, "severity"),
        ({"patch_width_range": (0, 10)}, "patch width"),
        ({"pre_processor": PreProcessor(Compose([Resize((32, 96)), Normalize([0.5], [0.5])]))}, "Normalize"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words) as raised:
        classifier(**settings)
    assert "\n" not in str(raised.value)


def test_faults_that_do_not_fit_are_refused_before_the_first_map(tmp_path: Path) -> None:
    model = classifier(pre_processor=PreProcessor(Resize((32, 64))))
    with pytest.raises(BadInput, match="does not fit a map of 32x64"):
        fit(model, tmp_path, images().numpy()[:, :1])


@pytest.mark.slow
def test_a_checkpoint_of_plain_data_gives_the_same_scores_back(tmp_path: Path) -> None:
    model = classifier()
    fit(model, tmp_path, images(16).numpy()[:, :1]).trainer.save_checkpoint(tmp_path / "model.ckpt")
    torch.load(tmp_path / "model.ckpt", weights_only=True)  # raises on anything but plain data
    again = CutPasteClassifier.load_from_checkpoint(tmp_path / "model.ckpt").eval()
    assert torch.equal(again(images()).pred_score, model.eval()(images()).pred_score)


@pytest.mark.slow
def test_it_tells_simulated_faults_from_healthy_maps_better_than_the_image_maximum(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits = (("train/good", 192), ("test/good", 64), ("test/fault", 64))
    # 31 x 95 to 32 x 96 by repeating the last row and column.
    train, good, bad = (
        np.pad(domain_maps("domain_A", split, n, rng).pixels, ((0, 0), (0, 1), (0, 1)), mode="edge")[:, None]
        for split, n in splits
    )
    maps, labels = np.concatenate([good, bad]), np.repeat([0, 1], 64)
    model = classifier(backbone="resnet10t", severity_range=(0.25, 2.0))
    engine = fit(model, tmp_path, train, epochs=12, val_dataloaders=loader(maps, labels))
    auroc = float(engine.trainer.callback_metrics["val_image_AUROC"])
    assert auroc > max(0.8, roc_auc_score(labels, maps.max(axis=(1, 2, 3))))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """In place of timm's networks: the mean of each channel times 1, 2 and 3, beside an output nobody asked for."""
    made: list[tuple[Any, ...]] = []

    def network(images: Tensor) -> Tensor:
        return torch.stack([images.amax(dim=(1, 2, 3)), images.mean(dim=(1, 2, 3)) - 7], dim=1)

    def create_model(*given: Any, **named: Any) -> nn.Module:
        made.append((given, named))
        return Called(network)

    monkeypatch.setattr(cutpaste.timm, "create_model", create_model)
    return made


def test_the_classifier_sees_every_map_at_mean_0_and_sd_1(small: list) -> None:
    model = CutPasteClassifier(**BARE, backbone="mine", pre_trained=True)
    assert small == [(("mine",), {"pretrained": True, "num_classes": 1})]
    images = 1e-4 * random(3, 3, 32, 64) * torch.tensor([1.0, 1.0, 1e3])[:, None, None, None]
    array = images.double().numpy()
    mean, sd = array.mean(axis=(2, 3), keepdims=True), array.std(axis=(2, 3), keepdims=True)
    expected = torch.from_numpy((array - mean) / sd).float()
    torch.testing.assert_close(model.model.standardise(images), expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(model.model(images).pred_score, expected.amax(dim=(1, 2, 3)), rtol=1e-2, atol=1e-3)


def test_the_loss_of_the_classifier_is_the_cross_entropy_of_fault_or_not(small: list) -> None:
    model = CutPasteClassifier(**BARE)
    severity = torch.tensor([0.0, 0.3, 2.0])
    object.__setattr__(model.faults, "paste_batch", lambda images: (images + 1, None, severity))
    logits = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    model.model.logits = lambda images: logits + 0 * images.sum() if images.min() >= 1 else None  # type: ignore[method-assign]
    values, how = logs(model)
    loss = model.training_step(ImageBatch(image=random(3, 3, 32, 64)))
    p = 1 / (1 + np.exp([-0.5, 1.0, -2.0]))
    expected = -np.mean([np.log(1 - p[0]), np.log(p[1]), np.log(p[2])])
    assert loss.item() == pytest.approx(expected) and values == {"train_loss": pytest.approx(expected)}
    assert loss.requires_grad
    assert how == [{"on_step": False, "on_epoch": True, "prog_bar": True, "batch_size": 3}]


@pytest.mark.parametrize("probability", [0.01, 0.99])
def test_any_share_of_faults_between_none_and_all_is_taken(small: list, probability: float) -> None:
    assert CutPasteClassifier(**BARE, anomaly_probability=probability).faults.probability == probability
    with pytest.raises(BadInput, match="anomaly_probability is 1.5"):
        CutPasteClassifier(**BARE, anomaly_probability=1.5)
