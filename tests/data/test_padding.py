"""Maps with their aspect kept: in the middle of a model's size, and anomaly maps without what was padded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.config.identity import identifying
from hdmap_mlflow.data.datamodule import resize
from hdmap_mlflow.data.padding import Padded, canvas, middle
from hdmap_mlflow.evaluation.scoring import image_scores
from hdmap_mlflow.runs import setup

NATIVE = (31, 95)


def maps(count=2, seed=0):
    return torch.rand(count, 3, *NATIVE, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("size", [(128, 128), (64, 256), (96, 64), (31, 95), (7, 95)])
@pytest.mark.parametrize("noise", [False, True])
def test_a_map_lies_in_the_middle_as_large_as_fits_and_all_of_it_is_there(size, noise):
    found = Padded(size, "bilinear", noise)(maps())
    assert found.shape == (2, 3, *size)
    scale = min(size[0] / NATIVE[0], size[1] / NATIVE[1])
    height, width = (max(1, round(side * scale)) for side in NATIVE)
    inner = middle(found, (height, width))
    assert (inner >= 0.49).all(), "no padding lies within the map"
    inner.zero_()
    assert noise or not found.any(), "about it is nothing"
    found = Padded(size, "bilinear", noise)(maps())
    torch.testing.assert_close(Padded(size, "bilinear", noise)(found), found)


def test_noise_looks_like_the_map_and_depends_on_no_other_map():
    pad, both = Padded((128, 128), "bilinear", noise=True), maps()
    both[1] *= 10
    together = pad(both)
    assert torch.equal(together[1:], pad(both[1:])) and torch.equal(
        together, Padded((128, 128), "bilinear", True)(both)
    )
    for one, native in zip(together, both, strict=True):
        assert one[0, :40].mean() == pytest.approx(float(native[0].mean()), rel=0.05)
        assert one[0, :40].std() == pytest.approx(float(native[0].std()), rel=0.1)


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 256), (16, 16), (31, 95), (8, 24)])
def test_the_row_of_an_anomaly_map_is_the_row_of_the_map(height, width):
    """A bright native row, padded as maps are, shown by an anomaly map of the model's size: its own row is scored."""
    native = torch.zeros(1, 1, *NATIVE)
    native[..., 20, :] = 1
    shown = Padded((height, width), "bilinear", False)(native)
    assert canvas((height, width), NATIVE) >= NATIVE
    model = SimpleNamespace(image_score="mean", padded=True)
    whole = image_scores(model, SimpleNamespace(anomaly_map=torch.ones(1, 1, height, width)), NATIVE)
    assert whole.item() == pytest.approx(1)
    from hdmap_mlflow.evaluation.scoring import _native

    rows = _native(shown, NATIVE, True).mean(dim=2)[0]
    assert abs(int(rows.argmax()) - 20) <= 31 / min(height, 31) + 0.5
    edges = _native(Padded((height, width), "bilinear", False)(torch.ones(1, 1, *NATIVE)), NATIVE, True)
    assert edges.mean() > 0.8, "what was padded is cut off"


def test_the_way_is_a_setting_that_older_runs_do_not_have():
    config = setup.compose("padim", "quickstart", None, {}, "")
    assert "data.resize" not in identifying(config)
    checked = setup.configure("padim", "quickstart")
    assert "model.row_context" in checked.flat() and "model.row_context" not in identifying(checked)
    assert "model.row_context" in identifying(setup.configure("padim", "quickstart", overrides="model.row_context=[2]"))
    padded = setup.compose("padim", "quickstart", None, {}, "data.resize=pad_noise,data.interpolation=nearest")
    assert identifying(padded)["data.resize"] == "pad_noise"
    made = resize(padded.data)
    assert isinstance(made, Padded) and made.interpolation.value == "nearest" and made.pattern is not None
    assert not isinstance(resize(DataConfig()), Padded)
    old = json.loads(config.model_dump_json())
    del old["data"]["resize"]
    assert type(config).model_validate(old) == config


def test_a_model_gets_padded_maps_in_training_and_when_it_scores():
    from hdmap_mlflow.models import builder

    given = "data.resize=pad,model.weights=random,data.image_size=[64,64],score.image=row"
    model = builder.build(setup.configure("padim", "quickstart", overrides=given))
    assert model.padded and np.isclose(float(model.pre_processor.transform(maps())[0, 0, 0, 0]), (0 - 0.485) / 0.229)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_masks_go_where_their_maps_go_and_what_has_none_gets_none(dtype):
    maps, masks = torch.rand(2, 3, 31, 95), torch.zeros(2, 31, 95, dtype=dtype)
    masks[:, 10:20] = 1
    padded = Padded((64, 64), "bilinear", noise=True)
    both = padded(maps, masks)
    torch.testing.assert_close(both[0], padded(maps))
    assert both[1].dtype == dtype and both[1].shape == (2, 64, 64)
    assert both[1].float().mean() == pytest.approx(10 / 31 * 21 / 64, abs=0.02) and not both[1][:, :21].any()
    assert padded(maps, None)[1] is None
