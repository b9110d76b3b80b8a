"""Reverse Distillation of our own is anomalib's class on its ResNets, and mirrors any other backbone."""

import json
from itertools import pairwise

import pytest
import timm
import torch
from anomalib.data import ImageBatch
from anomalib.models.image import ReverseDistillation as Published
from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode, AnomalyMapGenerator
from anomalib.pre_processing import PreProcessor
from safetensors.torch import save_file
from torchvision.transforms.v2 import Resize

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones, builder
from hdmap_mlflow.models.own import reverse_distillation
from hdmap_mlflow.models.own.reverse_distillation import Mirrored, ReverseDistillation
from hdmap_mlflow.models.parts.features import Features
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import setup

pytestmark = [pytest.mark.slow, pytest.mark.mutants]

SIZE = (32, 64)
PARTS = {"pre_processor": PreProcessor(Resize(SIZE)), "post_processor": False, "evaluator": False, "visualizer": False}


def made(cls, seed=0, **settings):
    torch.manual_seed(seed)
    return cls(pre_trained=False, **settings, **PARTS)


@pytest.fixture
def offline():
    with backbones.random_weights():
        yield


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def test_every_resnet_that_anomalib_decodes_is_anomalibs(images):
    for name in ("resnet34", "wide_resnet50_2", "resnext50_32x4d"):
        with torch.device("meta"):
            ours, theirs = made(ReverseDistillation, backbone=name), made(Published, backbone=name)
        assert name in reverse_distillation.RESNETS
        shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)]
        assert shapes[0] == shapes[1] and type(ours.model) is type(theirs.model)
    with pytest.raises(ValueError, match="not supported"):
        made(Published, backbone="resnet10t")


@pytest.mark.parametrize("mode", ["add", "multiply"])
def test_on_a_resnet_a_seed_gives_anomalibs_weights_and_output_bit_by_bit(mode, images):
    settings = {"backbone": "resnet18", "anomaly_map_mode": AnomalyMapGenerationMode(mode)}
    ours, theirs = made(ReverseDistillation, **settings), made(Published, **settings)
    state, expected = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[key], expected[key]) for key in state)
    for one, other in zip(ours.model(images), theirs.model(images), strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.equal(ours.loss(*ours.model(images)), theirs.loss(*theirs.model(images)))
    found, wanted = (model.eval().predict_step(ImageBatch(image=images), 0) for model in (ours, theirs))
    assert torch.equal(found.pred_score, wanted.pred_score) and torch.equal(found.anomaly_map, wanted.anomaly_map)
    (group,), (other,) = (model.configure_optimizers().param_groups for model in (ours, theirs))
    assert (
        group["lr"] == other["lr"] and group["betas"] == other["betas"] and len(group["params"]) == len(other["params"])
    )


def test_a_resnet_from_a_local_folder_or_with_the_hubs_tag_has_anomalibs_networks(tmp_path, images):
    encoder = timm.create_model("resnet18", pretrained=False)
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 1000}))
    name = backbones.resolve(str(tmp_path), "resnet18").name
    torch.manual_seed(0)
    model = ReverseDistillation(backbone=name, **PARTS)
    assert list(model.state_dict()) == list(made(Published, backbone="resnet18").state_dict())
    kept = model.model.encoder.feature_extractor.state_dict()
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in kept.items())
    with backbones.random_weights():
        tagged = ReverseDistillation(backbone="resnet18.a1_in1k", **PARTS)
    assert list(tagged.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    "backbone", ["tf_efficientnet_lite0", "resnet10t", "test_convnext", "vgg11", "mobilenetv3_small_050"]
)
def test_another_backbone_is_mirrored_in_its_channels_and_strides(backbone, images, offline):
    layers = setup.configure(
        "reverse_distillation", overrides=f"model.backbone={backbone},model.weights=random"
    ).model.settings["layers"]
    known = backbones.layers(backbone)
    model = made(ReverseDistillation, backbone=backbone, layers=layers, embedding=8, width=4)
    features, decoded = model.model(images)
    assert [maps.shape for maps in features] == [maps.shape for maps in decoded]
    assert [maps.shape[1] for maps in decoded] == [known[layer][0] for layer in layers]
    assert [SIZE[0] // maps.shape[2] for maps in decoded] == [known[layer][1] for layer in layers]
    model.loss(features, decoded).backward()
    trained = {id(p) for group in model.configure_optimizers().param_groups for p in group["params"]}
    ours = [*model.model.bottleneck.parameters(), *model.model.decoder.parameters()]
    assert trained == {id(p) for p in ours} and all(p.grad is not None for p in ours)
    found = model.eval().model(images)
    assert found.anomaly_map.shape == (3, 1, *SIZE) and found.pred_score.shape == (3, 1)


def test_layers_follow_from_the_backbone_unless_they_are_given():
    def chosen(overrides):
        return setup.configure("reverse_distillation", "baseline", overrides=overrides).model.settings["layers"]

    assert chosen("") == ["layer1", "layer2", "layer3"]
    assert chosen("model.backbone=tf_efficientnet_lite0") == ["blocks.1", "blocks.2", "blocks.4"]
    assert chosen("model.backbone=tf_efficientnet_lite0,model.layers=[blocks.0,blocks.6]") == ["blocks.0", "blocks.6"]
    for layers, strides in ((chosen("model.backbone=convnext_tiny"), backbones.layers("convnext_tiny")),):
        assert all(strides[coarse][1] == 2 * strides[fine][1] for fine, coarse in pairwise(layers))


def test_the_embedding_is_narrow_and_half_as_fine_as_the_coarsest_layer(images, offline):
    model = mirrored(8)
    embedding = model.bottleneck(list(model.encoder(images).values()))
    assert embedding.shape == (3, 8, SIZE[0] // 32, SIZE[1] // 32)


def mirrored(embedding):
    return Mirrored("test_resnet", ["layer1", "layer2", "layer3"], AnomalyMapGenerationMode.ADD, embedding, 4)


@pytest.mark.parametrize("mode", ["add", "multiply"])
def test_the_mirrored_maps_are_those_of_anomalibs_generator(mode, images, offline):
    mode = AnomalyMapGenerationMode(mode)
    model = Mirrored("test_resnet", ["layer1", "layer2"], mode, 8, 4)
    features, decoded = model.train()(images)
    generator = AnomalyMapGenerator(SIZE, mode=mode)
    assert (generator.kernel_size, generator.sigma) == (model.blur.column.shape[2], 4)
    model.eval()
    decoded = model.decoder(model.bottleneck(features), [maps.shape[-2:] for maps in features])
    torch.testing.assert_close(model(images).anomaly_map, generator(features, decoded), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backbone", ["resnet18", "test_resnet"])
def test_a_score_is_the_largest_value_or_the_mean_of_the_largest_share(backbone, images, offline):
    layers = ["layer1", "layer2", "layer3"]
    model = made(ReverseDistillation, backbone=backbone, layers=layers).eval()
    largest = model.predict_step(ImageBatch(image=images), 0)
    assert torch.equal(largest.pred_score.flatten(), largest.anomaly_map.flatten(1).amax(1))
    model.topk_ratio = 0.1
    count = round(0.1 * SIZE[0] * SIZE[1])
    expected = largest.anomaly_map.flatten(1).sort(dim=1).values[:, -count:].mean(1)
    for step in (model.predict_step, model.validation_step, model.test_step):
        torch.testing.assert_close(step(ImageBatch(image=images), 0).pred_score, expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"embedding": 0}, "embedding is 0"), ({"width": -1}, "width is -1"), ({"topk_ratio": 1.5}, "topk_ratio is 1.5")],
)
def test_a_setting_out_of_range_is_named(settings, says):
    with pytest.raises(BadInput, match=says):
        made(ReverseDistillation, **settings)


def test_the_teacher_is_frozen_and_its_features_are_kept_between_epochs(offline):
    model = made(ReverseDistillation, backbone="test_resnet", layers=["layer1", "layer2"])
    assert isinstance(model.model.encoder, Features)
    before = {key: value.clone() for key, value in model.model.encoder.state_dict().items()}
    model.train()
    model.model(torch.rand(2, 3, *SIZE))
    assert all(torch.equal(before[key], value) for key, value in model.model.encoder.state_dict().items())


def test_the_quickstart_has_the_embedded_weights():
    config = setup.configure("reverse_distillation")
    assert (config.model.weights, config.model.settings["backbone"]) == ("embedded", backbones.EMBEDDED)
    model = builder.build(config)
    kept = model.model.encoder.extractor.feature_extractor.state_dict()
    loaded = timm.create_model(backbones.resolve("embedded", backbones.EMBEDDED).name, pretrained=True).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in kept.items())
    assert REGISTRY["reverse_distillation"].weights.describe() == "hub, local, embedded, random"
