"""From a configuration to a model: what reaches it, with which weights, and what is refused before it is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import datamodule
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import builder, registry
from hdmap_mlflow.models.entry import ModelEntry, Needs, Weights
from hdmap_mlflow.models.parts import textures

HERE = __name__


class Plain(AnomalibModule):
    """A model that keeps what it is given."""

    trainer_arguments: dict[str, Any] = {}
    learning_type = LearningType.ONE_CLASS

    def __init__(self, level: float = 0.5, folder: str = "generated", **components: Any) -> None:
        super().__init__(**components)
        self.level, self.folder = level, folder
        self.model = torch.nn.Identity()


class Frozen(AnomalibModule):
    """A model with a backbone."""

    trainer_arguments = {"max_epochs": 1}
    learning_type = LearningType.ONE_CLASS

    def __init__(
        self, backbone: str = "test_resnet", layers: Any = ("layer1",), pre_trained: bool = False, **components: Any
    ) -> None:
        super().__init__(**components)
        self.backbone, self.pre_trained = backbone, pre_trained
        self.model = timm.create_model(backbone, pretrained=pre_trained)

    def forward(self, images: Any) -> InferenceBatch:
        return InferenceBatch(pred_score=images.mean())


class Single(Frozen):
    def __init__(self, layer: str = "layer1", **components: Any) -> None:
        super().__init__(**components)


class Fetching(Plain):
    """A model that fetches files of its own before it trains."""

    def __init__(self, **components: Any) -> None:
        super().__init__(**components)
        self.model.load_pretrained_discrete_model_weights = self.prepare_pretrained_model

    def prepare_pretrained_model(self, *_: Any, **__: Any) -> None:
        raise URLError("no route to\nhost")


class Unreachable(Plain):
    """A model that cannot fetch a file while it is made."""

    def __init__(self, **components: Any) -> None:
        raise URLError("no route")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register a class of this file as `mine`."""

    def register(cls: type, **entry: Any) -> None:
        found = ModelEntry(f"{HERE}:{cls.__name__}", paper="", **({"trains": True} | entry))
        monkeypatch.setitem(registry.REGISTRY, "mine", found)

    return register


def config(settings: Any = None, weights: str = "hub", **data: Any) -> RunConfig:
    parts: dict[str, Any] = {"data": {"image_size": (32, 64)} | data, "train": {"max_epochs": 5}}
    return RunConfig(condition="c", model={"name": "mine", "weights": weights, "settings": settings or {}}, **parts)  # type: ignore[arg-type]


def built(settings: Any = None, weights: str = "hub", fetch: bool = True, **data: Any) -> Any:
    checked = builder.check(config(settings, weights, **data))
    return builder.build(checked) if fetch else builder.build(checked, fetch=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights in timm's form, with a scaling of their own."""
    model = timm.create_model("resnet10t")
    for value in model.parameters():
        value.data.fill_(0.125)
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0], "input_size": [3, 32, 32], "num_classes": 1000}
    content = {"architecture": "resnet10t", "num_classes": 1000, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


MAPS = torch.tensor([0.2, 0.6, 3.7])[None, :, None, None].expand(2, 3, 31, 95)  # what exceeds 1 is not clipped
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5,) * 3, (0.5,) * 3


@pytest.mark.parametrize(
    ("backbone", "weights", "mean", "sd"),
    [
        ("resnet10t", "hub", *IMAGENET),
        ("resnet10t", "random", *IMAGENET),
        ("test_resnet", "hub", *HALVES),
        ("test_resnet", "random", *IMAGENET),
        ("resnet10t", "folder", (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)),
    ],
)
def test_maps_are_normalised_by_the_mean_and_sd_of_the_weights(
    known: Any, backbone: str, weights: str, mean: Any, sd: Any, request: pytest.FixtureRequest
) -> None:
    known(Frozen, weights=Weights())
    weights = str(request.getfixturevalue("folder")) if weights == "folder" else weights
    model = built({"backbone": backbone}, weights, fetch=False)
    found = model.pre_processor.transform(MAPS)
    expected = [(value - m) / d for value, m, d in zip((0.2, 0.6, 3.7), mean, sd, strict=True)]
    assert found.dtype is torch.float32 and found.shape == (2, 3, 32, 64)
    torch.testing.assert_close(found, torch.tensor(expected)[None, :, None, None].expand(2, 3, 32, 64))
    assert bool((model.model.conv1[0].weight == 0.125).all()) == weights.endswith("weights")


@pytest.mark.parametrize(
    ("weights", "scales", "expected"),
    [
        (None, True, MAPS),  # a model without a backbone
        (Weights("", library="own"), False, MAPS),
        (Weights("", library="own", local=False), True, None),
        (Weights("", library="torchvision", local=False), True, None),
    ],
)
def test_other_models_get_maps_in_their_own_unit_or_imagenets(known: Any, weights: Any, scales: bool, expected: Any):
    known(Plain, weights=weights, needs=Needs(scaled=scales))
    found = built().pre_processor.transform(MAPS)
    if expected is None:
        expected = (MAPS - torch.tensor(IMAGENET[0])[:, None, None]) / torch.tensor(IMAGENET[1])[:, None, None]
    torch.testing.assert_close(found, expected[..., :1, :1].expand(2, 3, 32, 64))


@pytest.mark.parametrize("kind", ["bilinear", "nearest", "bicubic"])
def test_every_resize_of_a_run_is_the_configured_one_with_antialiasing(known: Any, kind: Any) -> None:
    """Pillow, which always filters when it shrinks, on channels that differ; nearest takes a map's own pixels."""
    known(Plain)
    maps = (
        torch.rand(1, 3, 62, 96, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 5.0, 0.1])[:, None, None]
    )
    size = (31, 32)
    if kind == "nearest":
        expected = maps[0, :, ::2, ::3]
    else:
        filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
        pictures = [Image.fromarray(channel.numpy()).resize(size[::-1], filters[kind]) for channel in maps[0]]
        expected = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])
    settings = config(image_size=size, interpolation=kind)
    before = builder.build(builder.check(config(image_size=(32, 32), interpolation=kind))).pre_processor.transform(maps)
    assert before.shape == (1, 3, 32, 32)
    for resize in (builder.build(settings).pre_processor.transform, datamodule.resize(settings.data)):
        torch.testing.assert_close(resize(maps)[0], expected, rtol=1e-4, atol=1e-4)


def test_scores_stay_raw_and_are_watched_on_validation(known: Any) -> None:
    known(Plain)
    model = built({"level": 0.25})
    assert model.post_processor is None and model.visualizer is None and model.level == 0.25
    assert [metric.name for metric in model.evaluator.val_metrics] == ["val_image_AUROC"]
    assert (
        list(model.evaluator.val_metrics[0].fields) == ["pred_score", "gt_label"] and not model.evaluator.test_metrics
    )


@pytest.mark.parametrize(
    ("weights", "fetch", "asked"), [("hub", False, [False]), ("random", True, [False]), ("hub", True, [True])]
)
def test_random_weights_are_asked_for_where_a_checkpoint_follows_or_the_user_says_so(
    known: Any, monkeypatch: pytest.MonkeyPatch, weights: str, fetch: bool, asked: list[bool]
) -> None:
    known(Frozen, weights=Weights())
    checked = builder.check(config({"backbone": "test_resnet"}, weights))
    seen: list[bool] = []
    fetched: list[Any] = []
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: seen.append(pretrained) or make(name))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *given, **_: fetched.append(given))
    model = builder.build(checked, fetch=fetch)
    assert seen == asked and model.pre_trained is True and model.backbone == "test_resnet"
    assert fetched == ([("timm/test_resnet.r160_in1k", "model.safetensors")] if asked == [True] else [])


@pytest.mark.parametrize(
    ("weights", "fetch", "fetches"), [("hub", True, True), ("hub", False, False), ("random", True, False)]
)
def test_files_of_a_models_own_are_left_out_with_random_weights(
    known: Any, weights: str, fetch: bool, fetches: bool
) -> None:
    known(Fetching, weights=Weights("", library="own", local=False))
    model = built(weights=weights, fetch=fetch)
    for step in (model.prepare_pretrained_model, model.model.load_pretrained_discrete_model_weights):
        if fetches:
            with pytest.raises(BadInput, match="files of mine cannot be downloaded"), builder.downloads("mine"):
                step("a", b=1)
        else:
            step("a", b=1) if step is not model.prepare_pretrained_model else step()


def test_a_download_that_fails_while_a_model_is_made_names_the_model(known: Any) -> None:
    known(Unreachable)
    with pytest.raises(BadInput, match="files of mine cannot be downloaded"):
        built()


def test_textures_are_a_folder_by_then(known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(textures, "COUNT", 2)
    known(Plain, textures="folder")
    assert built().folder == str(tmp_path / "cache" / "textures")
    (tmp_path / "mine.PNG").touch()
    assert built({"folder": str(tmp_path)}).folder == str(tmp_path)
    with pytest.raises(BadInput, match="model.folder=/no/such: mine needs a folder with PNG or JPEG"):
        built({"folder": "/no/such"})


@pytest.mark.parametrize(
    ("told", "cls", "trains"), [(None, Frozen, False), (None, Plain, True), (True, Frozen, True), (False, Plain, False)]
)
def test_a_model_trains_if_its_entry_says_so_or_else_if_it_takes_more_than_one_pass(
    known: Any, told: Any, cls: Any, trains: bool
) -> None:
    known(cls, trains=told)
    model = type("Model", (), {"trainer_arguments": cls.trainer_arguments})()
    assert builder.trains(config(), model) is trains


# -------------------------------------------------------------------------------------------------- what check refuses
def test_settings_are_completed_and_weights_that_do_not_exist_are_said_to_be_none(known: Any) -> None:
    known(Plain, derived={"level": lambda config: config.data.image_size[1] / 100})
    found = builder.check(config())
    assert found.model.settings == {"level": 0.64, "folder": "generated"} and found.model.weights == "none"
    assert builder.check(found) == found
    assert builder.check(config({"level": 3})).model.settings["level"] == 3.0
    with pytest.raises(BadInput, match="mine starts from scratch; leave model.weights out"):
        builder.check(config(weights="random"))


@pytest.mark.parametrize(
    ("entry", "settings", "weights", "says"),
    [
        ({"needs": Needs(package="no_such_package")}, {}, "hub", "mine needs a package.*hdmap_mlflow\\[mine\\]"),
        ({"needs": Needs(multiple=48)}, {}, "hub", "mine needs height and width in multiples of 48; .*32x64"),
        ({"needs": Needs(online=True), "weights": Weights()}, {}, "random", "mine runs with weights from the hub only"),
        ({"weights": Weights(local=False)}, {}, "embedded", "takes model.weights=hub or random only; got embedded"),
        ({"weights": Weights(local=False)}, {}, "/some", "mine takes model.weights=hub or random only; got /some"),
        ({"weights": Weights(library="own")}, {}, "/some", "mine takes model.weights=hub or random only; got /some"),
        ({"weights": Weights(names=("vit_*", "res*"))}, {}, "hub", "model.backbone vit_\\*, res\\*; got 'test_resnet'"),
        ({"weights": Weights()}, {"backbone": "test_resnet9"}, "hub", "resnet9' .did you mean 'test_resnet'.*test_"),
        ({"weights": Weights()}, {"backbone": "zzzzz"}, "hub", "no backbone 'zzzzz'; e.g. resnet10"),
        ({"weights": Weights()}, {"layers": ["layer1", "layer7"]}, "hub", "'layer7'; it has: act1, layer1"),
    ],
)
def test_what_a_model_cannot_do_is_one_line(known: Any, entry: Any, settings: Any, weights: str, says: str) -> None:
    known(Frozen if "weights" in entry else Plain, **entry)
    with pytest.raises(BadInput, match=says) as raised:
        builder.check(config(settings, weights))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "settings", "weights"),
    [
        ({"needs": Needs(package="json")}, {}, "hub"),
        ({"needs": Needs(online=True)}, {}, "hub"),
        ({"weights": Weights(local=False)}, {}, "random"),
        ({"weights": Weights()}, {}, "/some"),  # looked for when it is built
        ({"weights": Weights(names=("vit_*", "test_res*"))}, {}, "hub"),
        ({"weights": Weights()}, {"layers": ["act1", "layer4"]}, "hub"),
        ({"weights": Weights()}, {"layers": [1, 9]}, "hub"),  # blocks by number
        ({"weights": Weights()}, {"backbone": "vit_tiny_patch16_224", "layers": ["9"]}, "hub"),
        ({"weights": Weights()}, {"layers": None}, "hub"),
        ({"weights": Weights(library="own")}, {"backbone": "only_its_own"}, "hub"),
    ],
)
def test_what_a_model_can_do_is_taken(known: Any, entry: Any, settings: Any, weights: str) -> None:
    known(Frozen if "weights" in entry else Plain, **entry)
    assert builder.check(config(settings, weights)).model.weights == (weights if "weights" in entry else "none")


def test_the_one_layer_of_a_model_is_checked_too(known: Any) -> None:
    known(Single, weights=Weights())
    builder.check(config({"layer": "layer2"}))
    with pytest.raises(BadInput, match="has no layer 'layer9'"):
        builder.check(config({"layer": "layer9"}))


@pytest.mark.parametrize(
    "error", [URLError("no route to\nhost"), LocalEntryNotFoundError("nothing"), ConnectionError()]
)
def test_a_failed_download_is_one_line_with_the_way_out(error: Exception) -> None:
    reason = "no route to host" if isinstance(error, URLError) else type(error).__name__
    says = f"files of mine cannot be downloaded .{reason}.*model.weights=random"
    with pytest.raises(BadInput, match=says), builder.downloads("mine"):
        raise error
    with pytest.raises(KeyError), builder.downloads("mine"):
        raise KeyError("another")
