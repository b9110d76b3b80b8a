"""OpenVINO computes frozen backbones as torch does, wherever it may, and leaves the rest to torch."""

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.models.components import TimmFeatureExtractor
from maps import write_domain

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.parts import engine
from hdmap_mlflow.models.parts.features import Features, reuse
from hdmap_mlflow.runs import setup, train
from hdmap_mlflow.runs.extras import Extras
from hdmap_mlflow.runs.steps import prepare

pytest.importorskip("openvino")
SIZE = (32, 64)
HALF = "bf16-true"


def config(weights: str = "random", **settings: str) -> RunConfig:
    return RunConfig.model_validate(
        {
            "condition": "c",
            "data": {"image_size": SIZE},
            "model": {"name": "patchcore", "weights": weights},
            "train": {"engine": "openvino"} | settings,
        }
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Sequential:
    """Frozen, beside one that is trained."""
    torch.manual_seed(0)
    frozen, student = (TimmFeatureExtractor("resnet10t", ["layer1", "layer2"], False, grad) for grad in (False, True))
    model = torch.nn.Sequential(frozen, student).eval()
    assert engine.attach(model, config()).startswith("openvino 2")
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def computed(extractor: torch.nn.Module) -> int:
    """How often OpenVINO is asked; the handle counts in place of the compiled network."""
    return engine.engine_of(extractor).compiled.calls


@pytest.fixture
def counted(backbone: torch.nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """The frozen backbone, whose calls of OpenVINO are counted."""
    of = engine.engine_of(backbone[0])
    inner = of.compiled

    def call(pixels: np.ndarray):
        call.calls += 1
        return inner(pixels)

    call.calls = 0
    monkeypatch.setattr(of, "compiled", call)
    return backbone[0]


def plain(extractor: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return TimmFeatureExtractor.forward(extractor, images)


def test_features_are_torchs_for_any_number_of_maps(counted, images) -> None:
    for batch in (images, images[:1], images.repeat(5, 1, 1, 1), images.contiguous(memory_format=torch.channels_last)):
        found, expected = counted(batch), plain(counted, batch)
        assert list(found) == list(expected) == ["layer1", "layer2"]
        for layer, features in expected.items():
            assert found[layer].shape == features.shape
            assert (found[layer] - features).abs().max() < 1e-5 * features.abs().max()
    assert computed(counted) == 4


def test_only_what_is_frozen_is_openvinos_and_names_of_weights_stay(backbone) -> None:
    assert engine.engine_of(backbone[0]) and not engine.engine_of(backbone[1])
    bare = TimmFeatureExtractor("resnet10t", ["layer1", "layer2"], False)
    assert list(backbone[0].state_dict()) == list(bare.state_dict())


def test_no_random_number_is_drawn() -> None:
    model = torch.nn.Sequential(TimmFeatureExtractor("resnet10t", ["layer1"], False))
    before = torch.get_rng_state()
    engine.attach(model, config())
    assert torch.equal(torch.get_rng_state(), before) and engine.engine_of(model[0])


@pytest.mark.parametrize(
    "where",
    [
        lambda model: engine.at_rest(model),
        lambda _: torch.autocast("cpu", torch.bfloat16),
    ],
    ids=["at rest", "autocast"],
)
def test_torch_computes_within(where, counted, images) -> None:
    with where(counted):
        torch.testing.assert_close(counted(images), plain(counted, images), rtol=0, atol=0)
    assert computed(counted) == 0
    counted(images)
    assert computed(counted) == 1  # and not after


def test_torch_computes_other_sizes_and_other_numbers(counted, images) -> None:
    counted(images[..., :32])
    with pytest.raises(RuntimeError, match="[Dd]ouble"):  # as torch says it of weights of another kind
        counted(images.double())
    assert computed(counted) == 0


def test_a_traced_model_holds_torchs_own_layers(counted, images) -> None:
    class Second(torch.nn.Sequential):
        def forward(self, x):
            return self[0](x)["layer2"]

    traced = torch.jit.trace(Second(counted).eval(), images, check_trace=False)
    assert computed(counted) == 0
    torch.testing.assert_close(traced(images + 1), plain(counted, images + 1)["layer2"])


def test_a_copy_is_torchs_and_the_original_stays(counted, images) -> None:
    copied = copy.deepcopy(counted)
    with torch.no_grad():
        next(copied.parameters()).mul_(2)
    assert not torch.equal(copied(images)["layer1"], plain(counted, images)["layer1"])
    torch.testing.assert_close(copied(images), plain(copied, images), rtol=0, atol=0)
    counted(images)
    assert computed(counted) == 1


def test_weights_that_are_loaded_once_more_are_the_same_and_others_are_torchs(images) -> None:
    model = torch.nn.Sequential(TimmFeatureExtractor("resnet10t", ["layer1"], False)).eval()
    engine.attach(model, config())
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert engine.engine_of(model[0]).takes(images)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert not engine.engine_of(model[0]).takes(images)
    torch.testing.assert_close(model[0](images), plain(model[0], images), rtol=0, atol=0)


def test_a_backbone_is_converted_once_for_its_weights_and_its_size(cache, monkeypatch, images) -> None:
    torch.manual_seed(0)
    weights = TimmFeatureExtractor("resnet10t", ["layer1"], False).state_dict()
    converted, own = [], engine._converted
    monkeypatch.setattr(engine, "_converted", lambda *given: converted.append(given) or own(*given))

    def built(scale: float = 1.0, size: tuple[int, int] = SIZE, kept: str = "embedded") -> torch.nn.Module:
        model = torch.nn.Sequential(TimmFeatureExtractor("resnet10t", ["layer1"], False)).eval()
        model[0].load_state_dict(weights)
        with torch.no_grad():
            next(model.parameters()).mul_(scale)
        asked = config(kept)
        engine.attach(model, asked.model_copy(update={"data": asked.data.model_copy(update={"image_size": size})}))
        return model[0]

    first, again = built(), built()
    assert len(converted) == 1 and torch.equal(first(images)["layer1"], again(images)["layer1"])
    built(size=(32, 32))
    other = built(scale=2.0)
    assert len(converted) == 3
    torch.testing.assert_close(other(images), plain(other, images), rtol=1e-4, atol=1e-4)
    built(kept="random")  # which no other run will have
    assert len(converted) == 4 and len([*cache.glob("engines/*/backbone.xml")]) == 3


def test_kept_features_of_one_engine_are_not_the_others(cache, images) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(Features(TimmFeatureExtractor("resnet10t", ["layer1"], False))).eval()
    engine.attach(model, config())
    reuse(model, 10, SIZE)
    with engine.at_rest(model):
        by_torch = model(images)["layer1"]
        exact = plain(model[0].extractor, images.contiguous(memory_format=torch.channels_last))["layer1"]
        assert torch.equal(by_torch, exact)
    swift = model(images)["layer1"]
    assert not torch.equal(swift, by_torch) and torch.equal(model(images)["layer1"], swift)
    with engine.at_rest(model):
        assert torch.equal(model(images)["layer1"], by_torch)


@pytest.mark.parametrize(
    ("asked", "weights", "device", "there", "expected"),
    [
        ("auto", "embedded", "cpu", True, True),
        ("auto", "hub", "cpu", True, True),
        ("auto", "random", "cpu", True, False),
        ("openvino", "random", "cpu", True, True),
        ("auto", "embedded", "cuda", True, False),
        ("auto", "embedded", "cpu", False, False),
        ("openvino", "embedded", "cpu", False, False),  # a run that is read on another machine
        ("torch", "embedded", "cpu", True, False),
    ],
)
def test_when_openvino_is_taken(asked, weights, device, there, expected, monkeypatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if there else None)
    assert engine.wanted(config(weights, engine=asked), device) is expected


def half(**settings: str) -> RunConfig:
    return config(frozen_precision=HALF, **settings)


@pytest.mark.parametrize(
    ("device", "there", "problem"),
    [
        ("cuda", True, "is on cuda; give train.device=cpu, or 32-true"),
        ("cpu", False, r"has none; pip install 'hdmap_mlflow\[openvino\]', or 32-true"),
        ("mps", False, "has none"),
    ],
)
def test_bfloat16_that_cannot_be_had_is_refused_and_not_replaced(device, there, problem, monkeypatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if there else None)
    with pytest.raises(BadInput, match=f"^train.frozen_precision=bf16-true is for OpenVINO on a CPU.* {problem}"):
        engine.wanted(half(), device)


def test_bfloat16_is_openvinos_for_random_weights_too() -> None:
    assert engine.wanted(half(engine="auto"), "cpu")


@pytest.mark.parametrize(
    ("model", "extra", "problem"),
    [
        ("patchcore", "train.engine=torch", "is OpenVINO's, not train.engine=torch's; leave one of them out"),
        ("draem_sevnet", "train.engine=auto", "draem_sevnet has no frozen backbone; leave train.frozen_precision"),
        ("patchcore", "train.device=cuda", "computes on a CPU, not on train.device=cuda"),
    ],
)
def test_bfloat16_that_means_nothing_is_refused_before_a_run(model, extra, problem) -> None:
    with pytest.raises(BadInput, match=problem):
        setup.configure(model, "quickstart", overrides=f"train.frozen_precision=bf16-true,{extra}")


def test_a_model_without_a_backbone_for_it_is_refused_bfloat16() -> None:
    trained = torch.nn.Sequential(TimmFeatureExtractor("resnet10t", ["layer1"], False, True))
    with pytest.raises(BadInput, match="patchcore has no frozen backbone that OpenVINO computes; give 32-true"):
        engine.attach(trained, half())


def test_a_processor_without_bfloat16_says_so(monkeypatch) -> None:
    monkeypatch.setattr(engine, "_core", lambda: SimpleNamespace(get_property=lambda *_: ["FP32"]))
    network = SimpleNamespace(reshape=lambda _: None)
    with pytest.raises(BadInput, match="this processor does not compute in bfloat16; give 32-true"):
        engine.Engine(TimmFeatureExtractor("resnet10t", ["layer1"], False), SIZE, network, HALF)


def test_bfloat16_is_near_to_torch_and_has_kept_features_of_its_own(cache, images) -> None:
    if "BF16" not in engine._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor does not compute in bfloat16")
    torch.manual_seed(0)
    model = torch.nn.Sequential(Features(TimmFeatureExtractor("resnet10t", ["layer1"], False))).eval()
    reuse(model, 10, SIZE)
    exact = model(images)["layer1"]
    assert engine.attach(model, config()).startswith("openvino")
    swift = model(images)["layer1"]
    vars(model[0].extractor).pop("forward")
    assert engine.attach(model, half()).endswith(", bfloat16")
    near = model(images)["layer1"]
    assert 1e-4 < float((near - exact).abs().max() / exact.abs().max()) < 0.1
    assert float((swift - exact).abs().max() / exact.abs().max()) < 1e-5
    with engine.at_rest(model):
        assert torch.equal(model(images)["layer1"], exact)


@pytest.mark.parametrize("flaw", [BadInput("this processor has none"), RuntimeError("no such graph")])
def test_torch_does_not_go_on_in_the_place_of_bfloat16(flaw, root, cache, monkeypatch) -> None:
    def failing(*_: object) -> None:
        raise flaw

    monkeypatch.setattr(engine, "attach", failing)
    asked = configured("patchcore", root, "train.frozen_precision=bf16-true")
    with pytest.raises(type(flaw), match=str(flaw)):
        prepare(asked, dataset.read(asked), Extras(print))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engine")
    write_domain(root, "domain_A", train=24, good=8, fault=8)
    write_domain(root, "domain_B", train=2, good=8, fault=8, gain=1.4)
    return root


def configured(model: str, root: Path, extra: str = "") -> RunConfig:
    extra = f"data.image_size=[64,96],train.max_epochs=2,data.batch_size=8,data.feature_cache_mb=0,{extra}"
    return setup.configure(model, "quickstart", flags={"data.root": str(root)}, overrides=extra)


@pytest.mark.parametrize("flaw", ["fails", "is wrong"])
def test_torch_goes_on_where_a_conversion(flaw, root, cache, monkeypatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("no such operator\nin the graph")

    if flaw == "fails":
        monkeypatch.setattr(engine, "_converted", failing)
    else:
        monkeypatch.setitem(engine.TOLERANCES, "32-true", 1e-12)
    said: list[str] = []
    asked = configured("patchcore", root, "train.engine=openvino")
    ready = prepare(asked, dataset.read(asked), Extras(said.append))
    reason = "no such operator" if flaw == "fails" else "features differ from torch's by"
    assert ready.engine == "torch" and len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("left out: OpenVINO, torch goes on: ") and reason in said[0]
    assert engine.engine_of(ready.model.model.feature_extractor.extractor) is None


@pytest.mark.slow
@pytest.mark.parametrize("model", ["patchcore", "padim", "dfm", "dfkde", "reverse_distillation", "stfpm"])
def test_scores_are_torchs(model, root, tmp_path) -> None:
    """Root mean square within 1e-5 sd of a domain's scores, each within 1e-4: torch's own kernels are as far apart."""
    extra = "model.n_features=20" if model == "padim" else "model.n_pca_components=8" if model == "dfkde" else ""
    config = configured(model, root, extra)
    module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
    train.seed(config.train)
    built = builder.build(config)
    assert engine.attach(built, config).startswith("openvino")
    train.fit(config, built, module, trains=builder.trains(config, built), workdir=tmp_path, progress=False)

    def scores(domain: str, where: contextlib.AbstractContextManager) -> np.ndarray:
        with where:
            loader = module.scoring_dataloader(domain, "test")
            return scoring.score(built, loader, domain, "test", "cpu", False).table["score"].to_numpy(float)

    for domain in ("domain_A", "domain_B"):
        swift, expected = scores(domain, contextlib.nullcontext()), scores(domain, engine.at_rest(built))
        apart = np.abs(swift - expected) / expected.std()
        assert 0 < np.sqrt((apart**2).mean()) < 1e-5 and apart.max() < 1e-4


@pytest.mark.slow
def test_training_is_torchs(root, tmp_path) -> None:
    """Training makes other weights of other last digits; with one engine or the other it ends with the same."""
    states = []
    for name in ("torch", "openvino"):
        config = configured("reverse_distillation", root, f"train.engine={name}")
        data = dataset.read(config)
        ready = prepare(config, data, Extras(print))
        assert ready.engine.split()[0] == name
        train.fit(config, ready.model, ready.datamodule, trains=True, workdir=tmp_path / name, progress=False)
        states.append(ready.model.state_dict())
    torch.testing.assert_close(*states, rtol=0, atol=0)


TWO_MODELS = """
import ctypes, gc, os, signal, sys
from test_engine import config, engine, torch, TimmFeatureExtractor

models = [torch.nn.Sequential(TimmFeatureExtractor("resnet10t", ["layer1"], False, False)).eval() for _ in range(2)]
for model in models:
    engine.attach(model, config())
"""
SIGNALLED = """
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
while models:
    del models[0], model
    gc.collect()
    model = None
os.kill(os.getpid(), signal.SIGUSR1)

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

found = Stack()
ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
spans = [line.split()[0].split("-") for line in open("/proc/self/maps")]
there = any(int(low, 16) <= found.start < int(high, 16) for low, high in spans) if found.start else True
print("a stack that is there" if there else "a stack that is gone")
"""
FORKED = """
from hdmap_mlflow.models.parts.coreset import greedy

greedy(torch.rand(50, 20), 5, 0)
if not os.fork():
    os._exit(0)
os.wait()
print("forked")
"""


@pytest.mark.slow  # two processes that import torch; and a child of a mutation run would be asked for mutmut's settings
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("script", "says"), [(SIGNALLED, ["heard", "a stack that is there"]), (FORKED, ["forked"])], ids=["signal", "fork"]
)
def test_after_engines_a_signal_is_heard_and_a_fork_is_silent(script, says):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", TWO_MODELS + script]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == says
