"""Models that anomalib has for a few backbones by name: anomalib's with these, of any other's channels with others."""

import pytest
import timm
import torch
from anomalib.data import ImageBatch
from anomalib.models.image import Cfa, Csflow, Fastflow, Uflow, UniNet

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones, builder, signature
from hdmap_mlflow.models.own import uninet
from hdmap_mlflow.models.parts.features import Pyramid
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import setup

pytestmark = [pytest.mark.slow, pytest.mark.mutants]

# The published class, a backbone that it knows, and what makes a network of it small.
PUBLISHED = {
    "fastflow": (Fastflow, "resnet18", "model.flow_steps=1"),
    "uflow": (Uflow, "resnet18", "model.flow_steps=1"),
    "cfa": (Cfa, "resnet18", ""),
    "csflow": (Csflow, "efficientnet_b5", "model.n_coupling_blocks=1,model.cross_conv_hidden_channels=4"),
    "uninet": (UniNet, "resnet50", ""),
}


def configured(model, backbone, weights="random", more=""):
    setting = REGISTRY[model].weights.setting
    size = max(64, REGISTRY[model].needs.multiple)
    given = [f"model.{setting}={backbone},model.weights={weights},data.image_size=[{size},{size}]"]
    return setup.configure(model, "baseline", overrides=",".join(filter(None, [*given, PUBLISHED[model][2], more])))


@pytest.mark.parametrize("model", PUBLISHED)
def test_with_a_backbone_that_anomalib_knows_the_networks_are_anomalibs_name_by_name(model):
    published, backbone, _ = PUBLISHED[model]
    config = configured(model, backbone)
    torch.manual_seed(0)
    ours = builder.build(config)
    arguments = signature.arguments(REGISTRY[model].path, config.model.settings)
    arguments = {name: value for name, value in arguments.items() if name != "backbone" or model != "csflow"}
    torch.manual_seed(0)
    with backbones.random_weights():
        theirs = published(**arguments, **builder.components(config))
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in state)


def embedded(model):
    """The frozen backbone of a built model."""
    if isinstance(model.model, uninet.FreeUniNet):
        return model.model.teachers.source_teacher
    return model.model.feature_extractor.features.extractor


@pytest.mark.parametrize("model", PUBLISHED)
def test_another_backbone_brings_its_own_weights_and_channels_and_stays_as_it_is(model):
    built = builder.build(configured(model, backbones.EMBEDDED, "embedded"))
    kept = {key: value.clone() for key, value in embedded(built).feature_extractor.state_dict().items()}
    loaded = timm.create_model(backbones.resolve("embedded", backbones.EMBEDDED).name, pretrained=True).state_dict()
    assert kept and all(torch.equal(value, loaded[key]) for key, value in kept.items())
    built.train()
    images = torch.rand(2, 3, *built.input_size)
    with torch.no_grad():
        if model == "uninet":
            built.model(images, masks=torch.zeros(2, *built.input_size), labels=torch.zeros(2))
        elif model == "cfa":
            built.model.memory_bank = torch.rand(sum(built.model.feature_extractor.channels), 16 * 16)
            built.model(images)
        else:
            built.model(images)
    assert all(torch.equal(value, kept[key]) for key, value in embedded(built).feature_extractor.state_dict().items())
    found = built.eval().predict_step(ImageBatch(image=torch.rand(2, 3, *built.input_size)), 0)
    assert found.pred_score.shape[0] == 2 and torch.isfinite(found.pred_score).all()


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_backbone_without_the_strides_is_refused_before_anything_is_made(model):
    with pytest.raises(BadInput, match="has no layer at stride .*its layers and strides: blocks.0 16"):
        configured(model, "mixer_b16_224")


@pytest.mark.parametrize(("backbone", "strides"), [("tf_efficientnet_lite0", (4, 8, 16)), ("test_resnet", (8, 32))])
def test_a_pyramid_has_the_levels_that_it_says(backbone, strides):
    with backbones.random_weights():
        pyramid = Pyramid(backbone, strides)
    levels = pyramid(torch.rand(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == pyramid.sizes(64, 96)
    assert [64 // level.shape[2] for level in levels] == list(strides)


def test_a_student_mirrors_its_teacher_and_another_is_refused():
    assert configured("uninet", "test_resnet").model.settings["student_backbone"] == "test_resnet"
    assert configured("uninet", "resnet50").model.settings["student_backbone"] == "wide_resnet50_2"
    with pytest.raises(BadInput, match="mirrors test_resnet; leave model.student_backbone=resnet50 out"):
        configured("uninet", "test_resnet", more="model.student_backbone=resnet50")


@pytest.mark.parametrize("model", [name for name, entry in REGISTRY.items() if entry.weights and entry.weights.strides])
def test_the_strides_of_a_model_are_those_of_its_published_layers(model):
    """Of a ResNet they give the class's own default, so that the published settings are what they were."""
    taken, entry = signature.parameters(REGISTRY[model].path), REGISTRY[model]
    at = {stride: layer for layer, (_, stride) in backbones.layers("resnet18").items()}
    layers = [at[stride] for stride in entry.weights.strides]
    published = setup.configure(model, "baseline").model.settings
    for name in {"layers", "layer"} & set(taken):
        default = taken[name].default or ["layer2", "layer3"]  # GLASS's, which its network fills in
        assert published[name] == (layers if name == "layers" else layers[0])
        assert list(default) == layers if name == "layers" else default == layers[0]
