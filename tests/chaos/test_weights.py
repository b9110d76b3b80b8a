"""Checkpoints that cannot be: another architecture's, cut short, holding code, none at all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.slow

NETWORK = "mobilenetv3_small_050"  # the smallest of its kind: 1.6 million numbers


class Code:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file and folder that is refused below."""
    import timm

    from hdmap_mlflow.runs import flow, train  # noqa: F401 - imports are not what is timed

    root = tmp_path_factory.mktemp("stick")
    state = timm.create_model(NETWORK).state_dict()

    def folder(name: str, config: str | None = None, file: bytes | None = None) -> None:
        (root / name).mkdir()
        if config is not None:
            (root / name / "config.json").write_text(config)
        if file is not None:
            (root / name / "model.safetensors").write_bytes(file)

    torch.save(state, root / f"{NETWORK}.pth")
    save_file(state, root / f"{NETWORK}.safetensors")
    whole = {suffix: (root / f"{NETWORK}{suffix}").read_bytes() for suffix in (".pth", ".safetensors")}
    for suffix, content in whole.items():
        for name, part in (("half", len(content) // 2), ("head", 100), ("empty", 0)):
            (root / f"{name}{suffix}").write_bytes(content[:part])
    (root / f"{NETWORK}-0123abcd.pth").write_bytes(whole[".pth"])
    torch.save({"state_dict": state, "code": Code()}, root / "code.pth")
    torch.save(Code(), root / "only_code.bin")
    torch.save(timm.create_model(NETWORK), root / "model.pt")  # pickled as a whole
    (root / "text.pth").write_text("<html>404</html>")
    torch.save(state["conv_stem.weight"], root / "tensor.pth")
    torch.save([1, 2], root / "list.pth")
    torch.save({"epoch": 3}, root / "numbers.pth")
    torch.save({}, root / "nothing.pth")
    torch.save({"state_dict": None}, root / "none.pth")
    torch.save(state | {"conv_stem.weight": state["conv_stem.weight"] * torch.nan}, root / "nan.pth")
    torch.save(state | {"conv_stem.weight": torch.zeros(16, 1, 3, 3)}, root / "channels.pth")
    torch.save({name: value for name, value in state.items() if name != "conv_head.weight"}, root / "lacks.pth")
    torch.save(state | {"more.weight": torch.zeros(3)}, root / "more.pth")
    folder("bare")
    (root / "bare" / "readme.md").write_text("")
    folder("config_only", json.dumps({"architecture": NETWORK}))
    folder("broken_config", "{", whole[".safetensors"])
    folder("deep_config", "[" * 100_000, whole[".safetensors"])
    folder("transformers", json.dumps({"architectures": ["ResNet"]}), whole[".safetensors"])
    folder("scale", json.dumps({"architecture": NETWORK, "pretrained_cfg": {"mean": ["a"]}}), whole[".safetensors"])
    folder("cut", json.dumps({"architecture": NETWORK}), whole[".safetensors"][:9999])
    folder("other", json.dumps({"architecture": "resnet18"}), whole[".safetensors"])
    folder("pair")
    for name in ("a.pth", "b.pth"):
        (root / "pair" / name).write_bytes(whole[".pth"])
    folder("good_and_bad")
    (root / "good_and_bad" / f"{NETWORK}.pth").write_bytes(whole[".pth"])
    (root / "good_and_bad" / "resnet18.pth").write_bytes(whole[".pth"][:5000])
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))


NAMED = ["--name", NETWORK]
IMPORT = [
    # another architecture
    ([f"{NETWORK}.pth", "--name", "resnet18"], [f"{NETWORK}.pth", "resnet18", "conv1.weight", "--name"]),
    ([f"{NETWORK}.safetensors", "--name", "resnet18"], ["resnet18", "conv1.weight", "--name"]),
    ([f"{NETWORK}.pth", "--name", "mobilenetv3_small_100"], ["mobilenetv3_small_100", "not"]),
    (["other"], ["resnet18", "conv1.weight"]),
    (["channels.pth", *NAMED], ["channels.pth", "conv_stem.weight", "16x1x3x3"]),
    (["lacks.pth", *NAMED], ["lacks.pth", "conv_head.weight"]),
    (["more.pth", *NAMED], ["more.pth", "more.weight"]),
    # cut short, or no checkpoint
    *(
        ([f"{name}{end}", *NAMED], [f"{name}{end}", "copy it again"])
        for name in ("half", "head", "empty")
        for end in (".pth", ".safetensors")
    ),
    ([f"{NETWORK}-0123abcd.pth"], ["SHA-256", "copy it again"]),
    (["cut"], ["model.safetensors", "copy it again"]),
    (["text.pth", *NAMED], ["text.pth"]),
    (["tensor.pth", *NAMED], ["tensor.pth"]),
    (["list.pth", *NAMED], ["list.pth"]),
    (["numbers.pth", *NAMED], ["numbers.pth", "state_dict"]),
    (["nothing.pth", *NAMED], ["nothing.pth", "state_dict"]),
    (["none.pth", *NAMED], ["none.pth"]),
    (["nan.pth", *NAMED], ["nan.pth", "conv_stem.weight", "NaN"]),
    # holding code
    (["code.pth", *NAMED], ["code.pth", "code", "safetensors"]),
    (["only_code.bin", *NAMED], ["only_code.bin", "code", "safetensors"]),
    (["model.pt", *NAMED], ["model.pt", "code", "safetensors"]),
    # folders
    (["bare"], ["bare", "no weights"]),
    (["config_only"], ["config_only", "no weights"]),
    (["broken_config"], ["config.json"]),
    (["deep_config"], ["config.json"]),
    (["transformers"], ["config.json", "--name"]),
    (["scale"], ["config.json", "mean"]),
    (["pair", *NAMED], ["--name", "2"]),
    (["good_and_bad"], ["resnet18.pth", "copy it again"]),
    (["gone.pth"], ["gone.pth", "not there"]),
    # names
    (["half.pth"], ["half", "--name"]),
    ([f"{NETWORK}.pth", "--name", "resnet81"], ["resnet81", "did you mean"]),
    ([f"{NETWORK}.pth", "--name", "../../x"], ["../../x"]),
    ([f"{NETWORK}.pth", "--name", "resnet18.nobody_in1k"], ["resnet18.nobody_in1k", "resnet18.a1_in1k"]),
    ([f"{NETWORK}.pth", "--name", "resnet18/../../x"], ["resnet18/../../x"]),
]


@pytest.mark.parametrize(("arguments", "says"), IMPORT, ids=[" ".join(row[0]) for row in IMPORT])
def test_a_checkpoint_that_cannot_be_is_refused_and_runs_nothing(arguments, says, stick, refused):
    path, *more = arguments
    refused("weights", "import", str(stick / path), *more, says=says, leaves=("cache",))
    assert not Path("ran").exists()
    assert not list(Path("cache").rglob("config.json")) and not list(Path("cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("resnet81", ["resnet81", "did you mean"]),
        ("resnet18,nope", ["nope"]),
        ("resnet18.nobody_in1k", ["nobody_in1k"]),
        (",", ["no backbone"]),
        ("nf_ecaresnet26", ["nf_ecaresnet26", "nobody publishes"]),
    ],
)
def test_what_cannot_be_fetched_is_refused_before_the_hub_is_asked(names, says, refused, monkeypatch):
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: pytest.fail("asked"))
    refused("weights", "fetch", names, "--out", "new", says=says)


def test_a_folder_that_is_not_empty_is_not_fetched_into(refused, monkeypatch):
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *_, **__: pytest.fail("asked"))
    Path("full").mkdir()
    Path("full", "mine").write_text("")
    refused("weights", "fetch", "resnet18", "--out", "full", says=["full", "--out"])


RUNS = [
    ("local", ["model.weights=local", "resnet18", "hdmap weights import"]),
    ("local:0123456789abcdef", ["resnet18", "hdmap weights import"]),
    ("{stick}/bare", ["no config.json"]),
    ("{stick}/broken_config", ["config.json"]),
    ("{stick}/transformers", ["config.json"]),
    ("{stick}/other_cut", ["copy it again"]),
    ("{stick}/other_bare", ["no weights"]),
    ("{stick}/other_code", ["code", "safetensors"]),
]


@pytest.mark.parametrize(("weights", "says"), RUNS, ids=[row[0] for row in RUNS])
def test_a_run_whose_weights_cannot_be_is_refused_before_it_begins(weights, says, stick, refused):
    for name, file in (("bare", ""), ("cut", "half.pth"), ("code", "code.pth")):
        (stick / f"other_{name}").mkdir(exist_ok=True)
        (stick / f"other_{name}" / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
        if file:
            (stick / f"other_{name}" / "pytorch_model.bin").write_bytes((stick / file).read_bytes())
    chosen = f"model.weights={weights.format(stick=stick)},model.backbone=resnet18,model.layers=[layer2]"
    refused("train", "patchcore", "--overrides", chosen, says=says, leaves=("cache",))
    assert not Path("mlflow.db").exists()
