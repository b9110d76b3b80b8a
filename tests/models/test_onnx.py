"""What `hdmap models` says of ONNX is so, and a file that scores otherwise does not come to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import InferenceBatch
from torch import nn
from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

from hdmap_mlflow.data import dataset, simulate
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import contract, onnx
from hdmap_mlflow.models.registry import REGISTRY

QUICK = ["toothwise", "patchcore", "padim"]


class Largest(nn.Module):
    """The largest pixel of a map, and what `spoil` adds to it."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def forward(self, images):
        return InferenceBatch(pred_score=self.spoil(images.amax((1, 2, 3))))


class Model(nn.Module):
    """As far as an export looks at one."""

    def __init__(self, resize, spoil=lambda score: score):
        super().__init__()
        self.model = Largest(spoil)
        self.pre_processor = nn.Module()
        self.pre_processor.transform = Compose([resize, Normalize([0.5] * 3, [0.25] * 3)])


def maps(count=40):
    return np.random.default_rng(0).gamma(2, 0.2, (count, 31, 95)).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (16, 20), (31, 95)])
@pytest.mark.parametrize("how", ["bilinear", "nearest", "bicubic"])
def test_the_resize_of_a_run_is_in_the_file(tmp_path, size, how):
    resize = Resize(size, InterpolationMode(how), antialias=True)
    assert onnx.export(Model(resize), maps(), tmp_path / "m.onnx") <= onnx.TOLERANCE
    images = Normalize([0.5] * 3, [0.25] * 3)(resize(torch.from_numpy(maps())[:, None].repeat(1, 3, 1, 1)))
    expected = images.amax((1, 2, 3)).numpy()
    for count in (1, 7, 40):
        again = onnx.score(tmp_path / "m.onnx", maps()[:count])
        np.testing.assert_allclose(again, expected[:count], rtol=0, atol=1e-5)


def test_a_file_that_scores_otherwise_does_not_come_to_be(tmp_path, monkeypatch):
    """A path that depends on the maps, taken by the pair that is traced and not by others."""
    model = Model(Resize((32, 32)), lambda score: score + 1 if len(score) > 2 else score)
    monkeypatch.setattr(onnx, "WAYS", onnx.WAYS[:1])
    with pytest.raises(BadInput, match="scores differ by .* sd, at most 0.0001 is allowed"):
        onnx.export(model, maps(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_says_why(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(onnx, "WAYS", onnx.WAYS[:1])  # the other takes half a minute to say so
    model = Model(Resize((32, 32)), lambda score: torch.linalg.eigvals(score[:, None, None].repeat(1, 2, 2)).real[:, 0])
    with pytest.raises(BadInput, match="eig"):
        onnx.export(model, maps(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")


def test_a_run_whose_maps_are_padded_is_refused_before_anything_is_written(tmp_path):
    model = Model(Resize((32, 32)))
    model.padded = True
    with pytest.raises(BadInput, match="^its maps are padded; train it with data.resize=stretch to export it$"):
        onnx.export(model, maps(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_sample_that_tells_nothing_is_no_proof(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "WAYS", onnx.WAYS[:1])
    with pytest.raises(BadInput, match="one score"):
        onnx.export(Model(Resize((32, 32)), lambda score: score * 0), maps(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'hdmap_mlflow\[onnx\]'"):
        onnx.check_packages()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_column_of_the_registry_is_so(name, tmp_path):
    run = contract._configure(name, simulate.simulate(tmp_path / "maps", train=9, test=6), {})
    module = MultiDomainHDMAPDataModule(dataset.read(run).domains, run.data)
    model = contract._build(run)
    contract._fit(run, model, module, tmp_path)
    sample = np.concatenate([batch.image[:, 0].numpy() for batch in module.scoring_dataloader(contract.TARGET, "test")])
    file = Path(tmp_path / "model.onnx")
    assert REGISTRY[name].onnx and onnx.export(model.eval(), sample, file) <= onnx.TOLERANCE and file.exists()
