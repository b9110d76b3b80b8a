"""PatchCore on the blocks of a vision transformer: random weights or a local folder, features as maps, offline."""

import json
from types import SimpleNamespace

import pytest
import timm
import torch
from anomalib.data import ImageBatch
from safetensors.torch import save_file

from hdmap_mlflow.config import packaged_conditions
from hdmap_mlflow.models import backbones, builder
from hdmap_mlflow.runs import setup

NAME = "vit_small_patch14_dinov2"
BLOCKS = f"model.backbone={NAME},model.layers=[blocks.8,blocks.11],data.image_size=[56,168]"


def images(count):
    return torch.rand(count, 3, 56, 168, generator=torch.Generator().manual_seed(0))


def built(more="model.weights=random"):
    torch.manual_seed(0)
    return builder.build(setup.configure("patchcore", "baseline", overrides=f"{BLOCKS},{more}")).eval()


@torch.inference_mode()
def test_features_are_the_normalised_patches_of_the_blocks_and_a_bank_of_them_scores():
    model = built("model.weights=random,model.coreset_sampling_ratio=0.1,model.row_context=[2]")
    network = model.model.feature_extractor.extractor.feature_extractor
    found = network.forward_intermediates(images(2), indices=[8, 11], norm=True, intermediates_only=True)
    expected = torch.cat([model.model.feature_pooler(maps) for maps in found], dim=1)
    features = model.features(images(2))
    assert features.shape == (2, 2 * 768, 4, 12)
    torch.testing.assert_close(features[:, :768], expected, rtol=1e-4, atol=1e-4)
    model._trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=range(2)), num_training_batches=1)
    model.train()
    model.training_step(ImageBatch(image=images(2)))
    model.fit()
    assert model.eval().model(images(1)).pred_score.isfinite().all()


def test_weights_of_a_folder_are_taken(tmp_path):
    torch.manual_seed(5)
    network = timm.create_model(NAME)
    folder = tmp_path / NAME
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    about = {"architecture": NAME, "num_classes": network.num_classes}
    about["pretrained_cfg"] = {"input_size": [3, 518, 518], "fixed_input_size": True}  # that of its positions
    (folder / "config.json").write_text(json.dumps(about))
    model = built(f"model.weights={folder}")
    own = model.model.feature_extractor.extractor.feature_extractor
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("condition", ["dinov2", "dinov3"])
def test_the_published_conditions_name_blocks_that_there_are_and_sizes_that_patches_tile(condition):
    given = packaged_conditions("patchcore")[condition]["config"]
    config = setup.configure("patchcore", condition)
    assert config.model.weights == "hub" and config.model.settings["layers"] == given["layers"]
    stride = {layer: stride for layer, (_, stride) in backbones.layers(given["backbone"]).items()}["blocks.11"]
    assert all(side % stride == 0 for side in given["image_size"])
