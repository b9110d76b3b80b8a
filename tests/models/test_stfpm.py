"""STFPM is anomalib's, but for the order of its numbers in memory and a teacher that is asked once for each map."""

import pytest
import torch
from anomalib.models.image import Stfpm as Plain

from hdmap_mlflow.models.own.stfpm import Stfpm
from hdmap_mlflow.models.parts.features import reuse

SETTINGS = {"backbone": "resnet10t", "layers": ("layer1", "layer2")}
IMAGES = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def _built(kind):
    torch.manual_seed(0)
    return kind(**SETTINGS, visualizer=False, evaluator=False)


@pytest.fixture(autouse=True)
def _random_weights(monkeypatch: pytest.MonkeyPatch):
    """Without a hub."""
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **rest: create(name, **rest | {"pretrained": False}))


def test_a_seed_gives_anomalibs_weights_losses_and_scores():
    ours, plain = _built(Stfpm), _built(Plain)
    losses = [one.loss(*one.model.train()(IMAGES)) for one in (ours, plain)]
    torch.testing.assert_close(*losses)
    found, expected = (one.model.eval()(IMAGES) for one in (ours, plain))
    torch.testing.assert_close(found.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pred_score, expected.pred_score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Plain, Stfpm], ids=["of before", "of now"])
def test_a_checkpoint_is_read_that_was_written(kind):
    written = _built(kind)
    torch.nn.init.normal_(next(written.model.student_model.parameters()))
    torch.nn.init.normal_(next(written.model.teacher_model.parameters()))
    read = _built(Stfpm)
    read.load_state_dict(written.state_dict())
    torch.testing.assert_close(read.model.eval()(IMAGES).anomaly_map, written.model.eval()(IMAGES).anomaly_map)


def test_the_teacher_is_asked_once_for_each_map_and_the_student_every_time(monkeypatch, tmp_path):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    model, asked = _built(Stfpm), []
    reuse(model, 10, (64, 96))
    for name, part in (("teacher", model.model.teacher_model.extractor), ("student", model.model.student_model)):
        part.register_forward_pre_hook(lambda _, given, name=name: asked.append((name, len(given[0]))))
    first = [model.model.train()(maps)[0] for maps in (IMAGES, IMAGES[1:])]
    torch.testing.assert_close(first[0]["layer1"][1:], first[1]["layer1"], rtol=0, atol=0)
    model.model.eval()(IMAGES)
    assert asked == [("teacher", 3), ("student", 3), ("student", 2), ("student", 3)]
