"""PatchCore and PaDiM of our own give anomalib's results, sooner or in less memory; kept features change nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models import Padim, Patchcore
from anomalib.models.components import GaussianBlur2d
from maps import write_domain
from safetensors.torch import save

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.own.padim import Moments, embed
from hdmap_mlflow.models.parts import features
from hdmap_mlflow.models.parts.auroc import AUROC
from hdmap_mlflow.models.parts.blur import SeparableBlur
from hdmap_mlflow.runs import setup, train

PUBLISHED = {"patchcore": Patchcore, "padim": Padim}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fast")
    write_domain(root, "domain_A", train=24, good=8, fault=8)
    return root


def configured(model: str, root: Path, extra: str = "") -> RunConfig:
    overrides = f"data.image_size=[64,96],data.batch_size=5,{extra}"
    return setup.configure(model, flags={"data.root": str(root)}, overrides=overrides)


def fitted_scores(config: RunConfig, folder: Path, published: bool = False, store: Path | None = None):
    """Scores and anomaly maps of the source's test maps after a fit, with our class or with anomalib's."""
    module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
    train.seed(config.train)
    model = builder.build(config)
    if published:
        arguments = {k: v for k, v in config.model.settings.items() if k not in ("max_bank_mb", "row_context")}
        arguments["backbone"] = builder.backbones.resolve(config.model.weights, arguments["backbone"]).name
        parts = {"pre_processor": model.pre_processor, "post_processor": False, "visualizer": False, "evaluator": False}
        train.seed(config.train)
        model = PUBLISHED[config.model.name](**arguments, **parts)
    if store:
        features.reuse(model, 100, config.data.image_size)
    train.fit(config, model, module, trains=False, workdir=folder, progress=False)
    loader = module.scoring_dataloader("domain_A", "test")
    scores = scoring.score(model, loader, "domain_A", "test", "cpu", progress=False).table["score"].to_numpy()
    batch = next(iter(loader))
    with torch.inference_mode():
        maps = model.model(model.pre_processor.transform(batch.image)).anomaly_map
    return scores, maps


@pytest.mark.slow
@pytest.mark.parametrize("model", ["patchcore", "padim"])
def test_scores_and_maps_are_those_of_anomalibs_own_class(model: str, domain: Path, tmp_path: Path) -> None:
    config = configured(model, domain)
    scores, maps = fitted_scores(config, tmp_path / "ours")
    expected, expected_maps = fitted_scores(config, tmp_path / "theirs", published=True)
    np.testing.assert_allclose(scores, expected, rtol=2e-3)
    torch.testing.assert_close(maps.squeeze(), expected_maps.squeeze(), rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_a_small_budget_cuts_the_bank_and_says_so(domain: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", "hdmap_mlflow")
    full, _ = fitted_scores(configured("patchcore", domain), tmp_path / "full")
    config = configured("patchcore", domain, "model.max_bank_mb=0.02")
    cut, _ = fitted_scores(config, tmp_path / "cut")
    said = caplog.text
    assert "memory bank: 46 of 2,304 patches" in said and "selected from all" in said
    assert "selected as they come" in said and "model.max_bank_mb=0.02 cut it from 46" in said
    assert np.corrcoef(full, cut)[0, 1] > 0.9


def test_moments_of_a_stream_are_those_of_all_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = 100 + torch.randn(40, 6, 5, generator=generator) * torch.rand(6, 1, generator=generator)
    moments = Moments(vectors[:7])
    assert moments.total.dtype is moments.products.dtype is torch.float64, "sums over any number of maps"
    for batch in vectors.split(7):
        moments.add(batch)
    torch.testing.assert_close(moments.mean(), vectors.mean(dim=0))
    for place in range(5):
        torch.testing.assert_close(moments.covariance()[place], vectors[:, :, place].T.cov(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_features", [1, 40, 448])
def test_the_chosen_channels_are_anomalibs(n_features: int) -> None:
    sizes = {"layer1": (2, 64, 8, 12), "layer2": (2, 128, 4, 6), "layer3": (2, 256, 2, 3)}
    model = Padim(backbone="resnet18", layers=list(sizes), pre_trained=False, n_features=n_features).model
    maps = {layer: torch.rand(size) for layer, size in sizes.items()}
    torch.testing.assert_close(embed(model, maps), model.generate_embedding(maps), rtol=0, atol=0)


def test_the_blur_is_anomalibs_and_leaves_nothing_in_a_checkpoint() -> None:
    blur = GaussianBlur2d(sigma=4, channels=1)
    maps = torch.rand(2, 1, 40, 96)
    ours = SeparableBlur(blur)
    torch.testing.assert_close(ours(maps), blur(maps))
    assert not ours.state_dict()
    uneven = GaussianBlur2d(sigma=(1, 4), channels=1, kernel_size=(5, 9), border_type="replicate")
    torch.testing.assert_close(SeparableBlur(uneven)(maps), uneven(maps))


class Backbone(torch.nn.Module):
    """Two layers, which count what they compute."""

    layers = ("b", "a")

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += len(images)
        return {"b": images[:, :, ::2, ::2].clone(), "a": self.scale * images}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    return tmp_path / "features"


def backbone(limit_mb: float = 10, scale: float = 2.0) -> features.Features:
    module = torch.nn.Sequential(features.Features(Backbone()))
    module[0].extractor.scale.fill_(scale)
    features.reuse(module, limit_mb, (8, 8))
    return module[0]


def kept_bytes(cache: Path) -> int:
    """The size of the file of one map."""
    backbone(scale=9.0)(torch.rand(1, 3, 8, 8))
    [file] = cache.rglob("*.features")
    size = file.stat().st_size
    assert 0 < size - 4 * (3 * 64 + 3 * 16) < 300  # beside the numbers: names, shapes and the check sum
    shutil.rmtree(file.parent)
    return size


def test_features_seen_before_are_read_not_computed(cache: Path) -> None:
    images = torch.rand(6, 3, 8, 8)
    first, again = backbone(), backbone()
    expected = first(images)
    found = again(images.flip(0))
    assert first.extractor.seen == 6 and again.extractor.seen == 0
    assert list(found) == list(expected)
    for layer, maps in expected.items():
        assert torch.equal(found[layer], maps.flip(0))
    more = again(torch.cat([images[:2], torch.rand(1, 3, 8, 8)]))
    assert again.extractor.seen == 1 and torch.equal(more["b"][:2], expected["b"][:2])


def test_other_weights_or_another_pixel_are_computed(cache: Path) -> None:
    images = torch.rand(2, 3, 8, 8)
    backbone()(images)
    other = backbone(scale=3.0)
    assert torch.equal(other(images)["a"], 3 * images) and other.extractor.seen == 2
    images[0, 0, 0, 0] += 1e-3
    changed = backbone()
    changed(images)
    assert changed.extractor.seen == 1


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "harm",
    [
        lambda b: b[:-5],
        lambda b: flipped(b, len(b) - 50),  # a value
        lambda b: flipped(b, b.index(b"crc32") + 8),
        lambda b: flipped(b, b.index(b'"a":') + 1),  # the name of a layer
        lambda b: b.replace(b"[3,8,8]", b"[8,3,8]"),
        lambda b: b.replace(b'"F32"', b'"I32"'),  # the same bytes are other numbers
        lambda b: b"",
        lambda b: b"\0\1\2\3" + np.arange(240, dtype=np.float32).tobytes(),  # the form of earlier releases
        lambda b: save({"a": torch.ones(3, 8, 8), "b": torch.ones(3, 4, 4)}),  # without a check sum
        lambda b: save({"a": torch.ones(3, 8, 8), "b": torch.ones(3, 4, 4)}, {"crc32": "1"}),
    ],
)
def test_a_damaged_file_is_found_and_computed_again(cache: Path, harm) -> None:
    images = torch.rand(1, 3, 8, 8)
    expected = backbone()(images)
    [file] = cache.rglob("*.features")
    file.write_bytes(harm(file.read_bytes()))
    mended = backbone()
    assert torch.equal(mended(images)["a"], expected["a"]) and mended.extractor.seen == 1
    whole = backbone()
    whole(images)
    assert whole.extractor.seen == 0


def test_the_budget_holds_and_the_longest_unused_backbone_goes_first(cache: Path) -> None:
    size = kept_bytes(cache)
    backbone(limit_mb=2.5 * size / 1e6)(torch.rand(6, 3, 8, 8))
    assert len(list(cache.rglob("*.features"))) == 2
    backbone(limit_mb=1e-6, scale=3.0)
    assert not list(cache.rglob("*.features"))


def test_a_full_disk_ends_the_keeping_not_the_run(cache: Path, monkeypatch, caplog) -> None:
    network = backbone()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(network(images)["a"], 2 * images)
    assert "the disk is full" in caplog.text
    assert not list(cache.rglob("*.features"))
    with caplog.at_level("WARNING"):
        caplog.clear()
        network(torch.rand(1, 3, 8, 8))
    assert not caplog.text, "it is said once"


def test_another_trouble_of_the_disk_is_named_and_leaves_no_half_written_file(cache: Path, monkeypatch, caplog) -> None:
    network = backbone()

    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(network(images)["a"], 2 * images)
    assert "Permission denied" in caplog.text and network.store.room == 0
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_only_single_precision_is_kept(cache: Path) -> None:
    network = backbone()
    assert network(torch.rand(1, 3, 8, 8).double())["a"].dtype is torch.float64
    assert not list(cache.rglob("*.features"))


def test_backbones_layers_and_sizes_have_folders_of_their_own_and_no_budget_has_none(cache: Path) -> None:
    def folder(limit: float = 10, layers: tuple = ("a", "b"), size: tuple = (8, 8), scale: float = 2.0) -> Path | None:
        module = torch.nn.Sequential(features.Features(Backbone()))
        module[0].extractor.layers = layers
        module[0].extractor.scale.fill_(scale)
        features.reuse(module, limit, size)
        return module[0].store and module[0].store.folder

    found = [folder(), folder(layers=("a",)), folder(layers=(3, 4)), folder(size=(8, 16)), folder(scale=3.0)]
    assert len(set(found)) == 5 and all(one.parent == cache and one.is_dir() for one in found)
    assert folder() == found[0]
    assert found[0].name.endswith("-8x8-a+b") and found[3].name.endswith("-8x16-a+b") and folder(0) is None


def test_room_is_counted_in_bytes_with_what_is_there_already(cache: Path) -> None:
    size = kept_bytes(cache)
    first = features.FeatureStore(cache / "one", 2 * size / 1e6 + 0.0001)
    maps = {"a": torch.rand(3, 8, 8), "b": torch.rand(3, 4, 4)}
    for key in ("x", "y", "z"):
        first.put(key, maps)
    assert sorted(file.stem for file in cache.rglob("*.features")) == ["x", "y"]
    taken = sum(file.stat().st_size for file in (cache / "one").iterdir())
    again = features.FeatureStore(cache / "one", 3)
    assert again.room == pytest.approx(3e6 - taken)
    assert again.get("z") is None and all(torch.equal(again.get("x")[layer], maps[layer]) for layer in maps)
    assert features.FeatureStore(cache / "one", 1e-9).folder.is_dir(), "its own folder stays"
    exact = features.FeatureStore(cache / "two", 3)
    exact.room = float(size)
    exact.put("x", maps), exact.put("y", maps)
    assert exact.room == 0 and exact.get("x") is not None and exact.get("y") is None


def test_the_longest_unused_folders_go_until_the_rest_fits(tmp_path: Path) -> None:
    for age, name in enumerate(("d", "a", "c", "b")):
        (tmp_path / name).mkdir()
        for part in (40, 60):
            (tmp_path / name / f"{part}").write_bytes(bytes(part))
        os.utime(tmp_path / name, (1e9 + age, 1e9 + age))
    (tmp_path / "no folder").touch()
    assert features._make_room(tmp_path, 400, tmp_path / "b") == 400
    assert features._make_room(tmp_path, 399, tmp_path / "a") == 300  # d is the oldest
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b", "c"]
    assert features._make_room(tmp_path, 50, tmp_path / "b") == 100
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["b"]


def test_room_is_made_while_another_process_writes_and_removes(cache: Path) -> None:
    for name in ("one", "two"):
        (cache / name).mkdir(parents=True)
        (cache / name / "x.features").write_bytes(bytes(100))
    busy = """
import os, shutil, sys
from pathlib import Path
one, two = Path(sys.argv[1], "one"), Path(sys.argv[1], "two")
print(flush=True)
while True:
    (one / "y.part").write_bytes(bytes(10))
    (one / "y.part").rename(one / "y")
    (one / "y").unlink()
    two.mkdir(exist_ok=True)
    (two / "z").touch()
    shutil.rmtree(two)
"""
    with subprocess.Popen([sys.executable, "-c", busy, str(cache)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout and writer.stdout.readline()
            stores = [features.FeatureStore(cache / "one", 1) for _ in range(300)]
            assert features._make_room(cache, 1, cache / "one") >= 100
        finally:
            writer.kill()
    assert all(1e6 - 300 < store.room <= 1e6 - 100 for store in stores)


def test_the_watched_auroc_takes_scores_of_any_shape_and_ties() -> None:
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")
    scores, labels = torch.tensor([[90.0], [20], [20], [-5]], dtype=torch.float64), torch.tensor([1, 1, 0, 0])
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(
            ImageBatch(image=torch.zeros(len(scores[part]), 3, 4, 4), pred_score=scores[part], gt_label=labels[part])
        )
    found = metric.compute()
    assert found == 3.5 / 4 and found.dtype is torch.float32 and metric.higher_is_better
    assert all(not part.requires_grad and part.ndim == 1 for part in metric.scores + metric.labels)
    metric.reset()
    metric.update(
        ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([1.0, 2]), gt_label=torch.tensor([1, 0]))
    )
    assert metric.compute() == 0
