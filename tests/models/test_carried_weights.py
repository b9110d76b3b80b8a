"""Checkpoints carried by hand: whatever naming they come in, the network computes what it computed where they were."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones, builder, weights
from hdmap_mlflow.runs import setup

pytestmark = [pytest.mark.slow, pytest.mark.mutants]

LITE = "tf_efficientnet_lite0"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def network(name: str, library=timm, seed: int = 0) -> torch.nn.Module:
    """A network whose every number is its own, the statistics of its normalisations included."""
    torch.manual_seed(seed)
    model = library.create_model(name) if library is timm else library.models.get_model(name)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def saved(model: torch.nn.Module, file: Path, wrap: str = "") -> Path:
    state = model.state_dict()
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({wrap: state, "epoch": 3} if wrap else state, file)
    return file


def found(backbone: str) -> torch.nn.Module:
    """The network that a run with model.weights=local gets."""
    return timm.create_model(backbones.resolve("local", backbone).name, pretrained=True).eval()


@torch.no_grad()
def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return torch.equal(one(images), other(images))


@pytest.mark.parametrize(
    ("library", "theirs", "ours"),
    [
        (timm, "resnet18", "resnet18"),
        (torchvision, "resnet18", "resnet18"),
        (torchvision, "efficientnet_b0", "efficientnet_b0"),  # under names of its own
        (torchvision, "mobilenet_v2", "mobilenetv2_100"),
        pytest.param(torchvision, "densenet121", "densenet121", marks=pytest.mark.slow),
        pytest.param(torchvision, "wide_resnet50_2", "wide_resnet50_2", marks=pytest.mark.slow),
    ],
)
def test_an_imported_network_computes_what_it_did_bit_by_bit(library, theirs, ours, tmp_path):
    model = network(theirs, library)
    (one,) = weights.add(saved(model, tmp_path / "carried.pth"), ours)
    assert (one.name, one.file) == (ours, "carried.pth")
    assert same(found(ours), model)


@pytest.mark.parametrize(
    ("file", "wrap"), [("resnet18.safetensors", ""), ("resnet18.pt", "state_dict"), ("resnet18-best.ckpt", "model")]
)
def test_the_file_names_the_architecture_and_may_wrap_the_state(file, wrap, tmp_path):
    model = network("resnet18")
    (one,) = weights.add(saved(model, tmp_path / file, wrap))
    assert one.name == "resnet18" and same(found("resnet18"), model)


def test_half_precision_and_a_missing_head_are_taken(tmp_path):
    model = network("resnet18").half()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    torch.save(state, tmp_path / "resnet18.pth")
    weights.add(tmp_path / "resnet18.pth")
    features = timm.create_model(backbones.resolve("local", "resnet18").name, pretrained=True, features_only=True)
    assert torch.equal(features.layer4[1].conv2.weight, model.layer4[1].conv2.weight.float())


def test_a_folder_in_timms_form_brings_its_scaling_and_a_folder_of_folders_all_of_them(tmp_path):
    for name, mean in (("resnet18", 0.4), (LITE, 0.6)):
        folder = tmp_path / "stick" / f"the_{name}"
        folder.mkdir(parents=True)
        saved(network(name), folder / "model.safetensors")
        cfg = {"mean": [mean] * 3, "std": [0.2] * 3}
        (folder / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": cfg}))
    assert [one.name for one in weights.add(tmp_path / "stick")] == ["resnet18", LITE]
    for name, mean in (("resnet18", 0.4), (LITE, 0.6)):
        backbone = backbones.resolve("local", name)
        assert (backbone.mean, backbone.std) == ((mean,) * 3, (0.2,) * 3)


def test_a_tag_keeps_two_checkpoints_of_one_architecture_apart(tmp_path):
    first, second = network("resnet18"), network("resnet18", seed=1)
    weights.add(saved(first, tmp_path / "a.pth"), "resnet18")
    weights.add(saved(second, tmp_path / "b.pth"), "resnet18.tv_in1k")
    assert same(found("resnet18"), first) and same(found("resnet18.tv_in1k"), second)


def test_the_same_file_twice_is_one_and_another_is_refused_and_changes_nothing(tmp_path, cache):
    first = network("resnet18")
    weights.add(saved(first, tmp_path / "resnet18.pth"))
    assert weights.add(tmp_path / "resnet18.pth") == weights.imported()
    with pytest.raises(BadInput, match="other weights of resnet18 were imported before"):
        weights.add(saved(network("resnet18", seed=1), tmp_path / "resnet18.pth"))
    assert same(found("resnet18"), first)
    assert [path.name for path in (cache / "weights" / "local").iterdir()] == ["resnet18"]


def test_a_run_records_which_checkpoint_it_took_and_takes_no_other(tmp_path, cache):
    others = "model.backbone=resnet18,model.layers=[layer2,layer3]"

    def configured(of: str):
        return setup.configure("patchcore", "quickstart", overrides=f"{others},model.weights={of}")

    weights.add(saved(network("resnet18"), tmp_path / "resnet18.pth"))
    config = configured("local")
    assert config.model.weights == f"local:{weights.imported()[0].sha256[:16]}"
    assert configured(config.model.weights).model.weights == config.model.weights
    shutil.rmtree(cache / "weights" / "local")
    weights.add(saved(network("resnet18", seed=1), tmp_path / "resnet18.pth"))
    assert builder.check(config) == config, "what was recorded stays readable"
    with pytest.raises(BadInput, match="the imported weights of 'resnet18' are"):
        builder.reach([config])


def test_what_is_fetched_on_one_machine_is_imported_on_another(tmp_path, monkeypatch):
    """The hub is a folder here; loading, writing, carrying and importing are the real ones."""
    hub, asked = network("resnet18"), []
    saved(hub, tmp_path / "hub.safetensors")

    def download(repo_id: str, filename: str = "", **_: object) -> str:
        asked.append(repo_id)
        return str(tmp_path / "hub.safetensors")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    (folder,) = weights.fetch(["resnet18.tv_in1k"], tmp_path / "stick")
    assert set(asked) == {"timm/resnet18.tv_in1k"}
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}
    (one,) = weights.add(tmp_path / "stick")
    assert one.name == "resnet18" and same(found("resnet18"), hub)


def test_nothing_is_left_where_the_hub_does_not_answer(tmp_path, monkeypatch):
    def download(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    with pytest.raises(BadInput, match="'resnet18' cannot be fetched .*no route to host.* reaches the hub"):
        weights.fetch(["resnet18"], tmp_path / "stick")
    assert not (tmp_path / "stick").exists()


def test_the_list_shows_every_checkpoint_with_its_hash(tmp_path, exit_code, capsys):
    assert exit_code("weights", "list") == 0
    assert "no weights were imported" in capsys.readouterr().out
    assert exit_code("weights", "import", str(saved(network("resnet18"), tmp_path / "resnet18.pth"))) == 0
    assert exit_code("weights", "list") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("resnet18")]
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0][:3] == ["resnet18", weights.imported()[0].sha256[:16], "resnet18.pth"]


def test_patchcore_runs_on_imported_weights(tmp_path, maps):
    from hdmap_mlflow.runs import flow

    weights.add(saved(network("resnet18"), tmp_path / "resnet18.pth"))
    settings = "model.weights=local,model.backbone=resnet18,model.layers=[layer2,layer3],data.image_size=[32,96]"
    config = setup.configure("patchcore", "quickstart", flags={"data.root": str(maps)}, overrides=settings)
    result = flow.execute(config)
    from mlflow.tracking import MlflowClient

    tags = MlflowClient(result.uri).get_run(result.run_id).data.tags
    assert tags["hdmap.weights"].startswith(f"local:{weights.imported()[0].sha256[:16]}:")
