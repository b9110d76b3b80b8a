"""The registry, the check of settings against signatures, and the weights."""

import json

import pytest

from hdmap_mlflow import run
from hdmap_mlflow.config import PACKAGED_CONDITIONS, load_conditions
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones, builder, registry


@pytest.mark.parametrize("model", registry.REGISTRY)
def test_every_packaged_condition_is_accepted_by_its_model(model):
    conditions = load_conditions(PACKAGED_CONDITIONS / f"{model}.json")
    assert {f"{model}_quickstart", f"{model}_baseline"} <= set(conditions)
    for name in conditions:
        assert run.configure(model, name).model.name == model


@pytest.mark.parametrize("model", registry.REGISTRY)
def test_every_search_space_names_settings_that_exist_and_holds_the_default(model):
    entry = registry.find_model(model)
    flat = run.configure(model, "baseline").flat()
    for key, law in entry.space.items():
        assert key in flat, key
        if law["type"] == "categorical":
            assert flat[key] in [str(choice) for choice in law["choices"]]
        else:
            assert law["low"] <= float(flat[key]) <= law["high"]


@pytest.mark.parametrize(
    ("model", "overrides", "says"),
    [
        ("patchcore", "model.num_neighbours=5", "did you mean 'num_neighbors'"),
        ("patchcore", "model.num_neighbors=few", "model.num_neighbors"),
        ("patchcore", "model.backbone=resnet1", "did you mean"),
        ("patchcore", "model.layers=[layer9]", "it has: "),
        ("reverse_distillation", "model.backbone=vgg16", "takes backbones named"),
        ("reverse_distillation", "data.image_size=[100,100]", "multiples of 32"),
        ("reverse_distillation", "model.anomaly_map_mode=divide", "model.anomaly_map_mode"),
    ],
)
def test_a_wrong_model_setting_is_one_line_before_anything_is_loaded(model, overrides, says):
    with pytest.raises(BadInput) as caught:
        run.configure(model, "quickstart", overrides=overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_model_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'patchcore'"):
        run.configure("pachcore")


def test_embedded_weights_fit_and_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    import timm

    found = backbones.resolve("embedded", backbones.EMBEDDED)
    assert found.pretrained and found.mean == (0.5, 0.5, 0.5)
    model = timm.create_model(found.name, pretrained=True, features_only=True)
    random = timm.create_model(backbones.EMBEDDED, pretrained=False, features_only=True)
    assert backbones.weights_digest(model) != backbones.weights_digest(random)
    stamp = (tmp_path / "weights" / backbones.EMBEDDED / "model.safetensors").stat().st_mtime_ns
    backbones.resolve("embedded", backbones.EMBEDDED)
    assert (tmp_path / "weights" / backbones.EMBEDDED / "model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.slow
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
    with pytest.raises(BadInput, match="hub cannot be reached for the weights of 'resnet18'.*weights=embedded"):
        backbones.resolve("hub", "resnet18")


def test_a_class_that_is_no_anomalib_model_is_refused():
    with pytest.raises(BadInput, match="not an anomalib model"):
        builder.load_class("collections:OrderedDict")
    with pytest.raises(BadInput, match="cannot be imported"):
        builder.load_class("no_such_package.models:Model")
