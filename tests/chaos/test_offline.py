"""Backbones and weights that cannot be, on a machine without a hub: one line, before anything starts."""

import json
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from hdmap_mlflow.models import backbones

pytestmark = pytest.mark.slow

RANDOM = "model.weights=random"
ROWS = [
    # layers that a backbone does not have
    ("patchcore", f"model.backbone=convnext_atto,{RANDOM},model.layers=[layer2]", ["layer2", "it has: stages.0"]),
    ("dfm", f"model.backbone=convnext_atto,{RANDOM},model.layer=layer3", ["layer3", "it has: stages.0"]),
    (
        "patchcore",
        f"model.backbone=vit_tiny_patch16_224,{RANDOM},model.layers=[layer2]",
        ["layer2", "it has: blocks.0"],
    ),
    ("patchcore", f"model.backbone=vit_tiny_patch16_224,{RANDOM},model.layers=[blocks.12]", ["blocks.12", "blocks.11"]),
    ("patchcore", f"model.backbone=vit_tiny_patch16_224,{RANDOM}", ["no layer at stride 8", "blocks.0 16"]),
    ("stfpm", f"model.backbone=mixer_b16_224,{RANDOM}", ["no layer at stride 4, 8", "blocks.0 16"]),
    ("fastflow", f"model.backbone=mixer_b16_224,{RANDOM}", ["no layer at stride 4, 8", "another backbone"]),
    ("uflow", f"model.backbone=convmixer_768_32,{RANDOM}", ["no layer at stride 4, 8, 16", "blocks.0 7"]),
    ("cfa", f"model.backbone=vit_tiny_patch16_224,{RANDOM}", ["no layer at stride 4, 8", "blocks.0 16"]),
    ("csflow", f"model.backbone=mixer_b16_224,{RANDOM}", ["no layer at stride 32", "blocks.0 16"]),
    ("uninet", f"model.teacher_backbone=mixer_b16_224,{RANDOM}", ["no layer at stride 4, 8", "blocks.0 16"]),
    ("uninet", "model.student_backbone=resnet50", ["tf_efficientnet_lite0", "model.student_backbone=resnet50"]),
    ("reverse_distillation", "model.layers=[blocks.2]", ["two or more", "blocks.0 2"]),
    ("patchcore", f"{RANDOM},model.layers=[]", ["model.layers=[]", "one layer or more"]),
    ("padim", f"{RANDOM},model.layers=[blocks.2,blocks.1,blocks.2]", ["blocks.2", "each once"]),
    # a network that is not what its name lets anomalib think, or that timm does not know
    ("patchcore", f"model.backbone=mobilevit_s,{RANDOM}", ["mobilevit_s", "vision transformer", "another"]),
    ("fastflow", f"model.backbone=tiny_vit_5m_224,{RANDOM}", ["tiny_vit_5m_224", "vision transformer", "another"]),
    ("cfa", f"model.backbone=resnet_18,{RANDOM}", ["resnet_18", "did you mean 'resnet18'"]),
    ("csflow", f"model.backbone=[resnet18],{RANDOM}", ["model.backbone", "resnet18"]),
    # maps below the stride
    ("patchcore", f"model.backbone=csatv2,{RANDOM},model.layers=[stages.3],data.image_size=[32,96]", ["32x96", "64"]),
    ("cfa", f"model.backbone=csatv2,{RANDOM}", ["no layer at stride 4", "stem_dct 8"]),
    # weights that are not of the backbone
    ("fastflow", "model.backbone=resnet18", ["fastflow", "embedded", "model.backbone=resnet18", backbones.EMBEDDED]),
    ("csflow", "model.backbone=efficientnet_b5", ["csflow", "embedded", backbones.EMBEDDED]),
    ("uflow", "model.backbone=resnet34", ["embedded", "resnet34", f"model.backbone={backbones.EMBEDDED}"]),
    ("uninet", "model.teacher_backbone=resnet34", ["embedded", f"model.teacher_backbone={backbones.EMBEDDED}"]),
    ("efficient_ad", "model.weights=embedded", ["efficient_ad", "hub or random"]),
]


@pytest.mark.parametrize(("model", "overrides", "says"), ROWS, ids=[f"{row[0]} {row[1][:50]}" for row in ROWS])
def test_a_backbone_is_refused(refused, maps, model, overrides, says):
    refused("train", model, "--data-root", maps, "--overrides", overrides, says=says, seconds=60)


def folder_of(tmp_path, name, state, file="model.safetensors"):
    folder = tmp_path / "carried"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 1000}))
    if file.endswith("bin"):
        torch.save(state, folder / file)
    else:
        save_file(state, folder / file)
    return folder


class Evil:
    def __reduce__(self):
        return (open, ("ran", "w"))


def other(tmp_path):
    return folder_of(tmp_path, "resnet10t", timm.create_model("test_resnet").state_dict())


def part(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    return folder_of(tmp_path, "resnet10t", {key: value for key, value in state.items() if "layer2" not in key})


def cut(tmp_path):
    folder = folder_of(tmp_path, "resnet10t", timm.create_model("resnet10t").state_dict())
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    return folder


def code(tmp_path):
    folder = folder_of(tmp_path, "resnet10t", {}, "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    return folder


def empty(tmp_path):
    folder = folder_of(tmp_path, "resnet10t", {})
    (folder / "model.safetensors").unlink()
    return folder


def wild(tmp_path):
    folder = folder_of(tmp_path, "resnet10t", {})
    (folder / "config.json").write_text("[1]")
    return folder


@pytest.mark.parametrize("make", [other, part, cut, code, empty, wild])
def test_what_lies_in_a_folder_of_weights_is_refused(refused, maps, tmp_path, make):
    given = f"model.backbone=resnet10t,model.weights={make(tmp_path)}"
    says = ["carried", "config.json" if make is wild else "no checkpoint of resnet10t"]
    refused("train", "patchcore", "--data-root", maps, "--overrides", given, says=says)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9" if "https" in name.lower() else "")


@pytest.mark.parametrize(
    ("command", "model", "backbone"),
    [
        (["tune"], "patchcore", "wide_resnet50_2"),
        (["tune"], "cfa", "wide_resnet50_2"),  # of torchvision
        (["grid", "--sources", "domain_A,domain_B", "--seeds", "0,1"], "padim", "resnet18"),
        (["grid", "--sources", "domain_A"], "patchcore,csflow", "wide_resnet50_2"),
    ],
)
def test_many_runs_without_a_hub_end_before_the_first(refused, maps, no_hub, command, model, backbone):
    name, *flags = command
    if name == "grid":
        arguments = ["grid", "--models", model, "--conditions", "baseline", *flags]
    else:
        arguments = ["tune", model, "--condition", "baseline", *flags]
    says = [backbone, "weights=random", "downloaded" if model == "cfa" else "hub cannot be reached"]
    refused(*arguments, "--data-root", maps, says=says, seconds=10, leaves=("cache",))
