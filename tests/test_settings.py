"""Every setting that a model takes changes what it is, what it learns or how it scores; one that is ignored would be
recorded, searched and believed.

The table needs no entry for a new model: another value follows from a setting's type. OTHER holds the values that do
not follow, WITH what a setting needs beside it to matter, LEFT_OUT what is not tried, and why.
"""

from __future__ import annotations

import os
import typing
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from anomalib.data import ImageBatch
from conftest import write_domain
from lightning.pytorch import Trainer
from parts import logs
from test_zoo import OFFLINE, SMALLER, smallest

from hdmap_mlflow import config as configuration
from hdmap_mlflow import run, train
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.models import builder, signature
from hdmap_mlflow.models.registry import REGISTRY

# A step of these takes many seconds; apart from csflow, their settings were not gone through yet.
HEAVY = ("csflow", "glass", "dsr", "l2bt", "foundad", "general_ad", "reverse_distillation", "uninet", "dinomaly",
         "inp_former", "efficient_ad", "draem")  # fmt: skip
QUICK = ("draem_sevnet", "cutpaste")
TINY = "model.backbone=test_resnet,model.weights=random"
TWO = f"{TINY},model.layers=[layer1,layer2]"
RESNET = "model.backbone=resnet10t,model.weights=random,model.layers=[layer1,layer2]"
# Smaller than the quickstart, so that a step takes a moment.
BASE = SMALLER | {
    "patchcore": f"{TWO},model.coreset_sampling_ratio=0.05,model.max_bank_mb=500",
    "padim": f"{TWO},model.n_features=6",
    "mh_patchcore": f"{TWO},model.memory_bank_size=40,model.local_coreset_size=20,model.num_neighbors=3",
    "dfkde": f"{TINY},model.layers=[layer4],model.n_pca_components=2,data.batch_size=6",
    "dfm": f"{TINY},model.layer=layer2,model.pooling_kernel_size=2",
    "rad": "model.k_image=1",
    "super_add": "data.image_size=[80,160],model.patch_size=80,model.patch_overlap=16",
    "draem_sevnet": "data.image_size=[32,96],model.patch_width_range=[10,60],model.reconstructive_width=2,"
    "model.discriminative_width=2,model.severity_head_width=4,model.severity_max=1.0,model.map_level=null",
    "cutpaste": "data.image_size=[32,96],model.patch_width_range=[10,60],model.backbone=test_resnet",
    "cflow": f"{TWO},model.coupling_blocks=1,model.fiber_batch_size=50",
    "glass": "model.step=2,model.pretrain_embed_dim=32,model.target_embed_dim=32,model.discriminator_hidden=16",
    "patchflow": "model.backbone=resnet18,model.weights=random",
    "stfpm": f"{TWO}",
    "supersimplenet": f"{TWO}",
    "fre": f"{TINY},model.layer=layer2,model.latent_dim=20",
}
# Another value where none follows from the type, or where the next one would mean the same.
OTHER: dict[tuple[str, str], Any] = {
    **{
        (model, "backbone"): "resnet10t"
        for model in ("patchcore", "padim", "mh_patchcore", "dfkde", "dfm", "cflow", "stfpm", "supersimplenet", "fre")
    },
    **{
        (model, "layers"): "[layer1]"
        for model in ("patchcore", "padim", "mh_patchcore", "cflow", "stfpm", "supersimplenet")
    },
    ("patchcore", "max_bank_mb"): 0.01,
    ("patchcore", "num_neighbors"): 2,
    ("mh_patchcore", "memory_bank_size"): 10,
    ("dfkde", "layers"): "[layer3]",
    ("dfkde", "max_training_points"): 3,
    ("dfm", "layer"): "layer3",
    ("dfm", "score_type"): "nll",
    ("fre", "layer"): "layer3",
    ("anomaly_dino", "encoder_name"): "vit_small_patch14_reg4_dinov2",
    ("rad", "backbone"): "vit_small_plus_patch16_dinov3",
    ("rad", "layers"): "[2,5]",
    ("rad", "layer_weights"): "[1,2,3,4]",
    ("rad", "bank_dtype"): "float16",
    ("rad", "max_ratio"): 0.3,
    ("super_add", "backbone"): "vit_small_plus_patch16_dinov3",
    ("super_add", "layers"): "[2,5]",
    ("super_add", "patch_size"): 48,
    ("super_add", "patch_overlap"): 32,
    ("cflow", "fiber_batch_size"): 5,
    ("cfa", "radius"): 0.5,
    ("super_add", "score_quantile"): 0.3,
    ("reverse_distillation", "backbone"): "resnet34",
    ("reverse_distillation", "layers"): "[layer1,layer2]",
    ("draem_sevnet", "in_channels"): 1,
    ("draem_sevnet", "map_level"): 0.25,
    ("draem_sevnet", "score_combination"): "maximum",  # with equal weights, a weighted average is a simple one
    ("draem_sevnet", "score_weights"): "[1,3]",
    ("draem_sevnet", "patch_width_range"): "[20,60]",
    ("draem_sevnet", "patch_ratio_range"): "[0.2,0.4]",
    ("cutpaste", "backbone"): "test_convnext",
    ("cutpaste", "patch_width_range"): "[20,60]",
    ("cutpaste", "patch_ratio_range"): "[0.2,0.4]",
    ("fastflow", "backbone"): "wide_resnet50_2",
    ("uflow", "backbone"): "wide_resnet50_2",
    ("patchflow", "backbone"): "resnet34",
    ("patchflow", "crop_size"): "[32,32]",
    ("uninet", "student_backbone"): "wide_resnet101_2",
    ("uninet", "teacher_backbone"): "wide_resnet101_2",
    ("glass", "backbone"): "resnet34",
    ("cfa", "backbone"): "wide_resnet50_2",
}
WITH: dict[tuple[str, str], str] = {
    ("draem_sevnet", "score_weights"): "model.score_combination=weighted_average",
    ("draem", "sspcab_lambda"): "model.enable_sspcab=true",
    ("anomaly_dino", "sampling_ratio"): "model.coreset_subsampling=true",
    ("glass", "radius_quantile"): "model.svd=1",
    ("cfa", "num_hard_negative_features"): "model.radius=1000.0",  # hard negatives repel within it only
}
NOT_YET = "another value was not tried yet"
# What changes no number, or cannot be tried on random weights and a CPU, and why.
LEFT_OUT: dict[tuple[str, str], str] = {
    ("dfm", "score_type"): "nll, the only other one, raises in anomalib 2.7 when it is fitted",
    ("anomaly_dino", "masking"): "the mask of a network with random weights leaves no patch",
    ("csflow", "num_channels"): "anomalib 2.7 takes it and never looks at it",
    ("rad", "bank_dtype"): "a bank of half precision is compared with features of single on a CPU, which raises",
    ("patchcore", "precision"): NOT_YET,
    ("anomaly_dino", "precision"): NOT_YET,
    ("super_add", "precision"): NOT_YET,
    ("super_add", "patch_size"): NOT_YET,
    ("super_add", "patch_overlap"): NOT_YET,
    ("mh_patchcore", "memory_bank_size"): NOT_YET,
    ("dfkde", "n_pca_components"): NOT_YET,
    ("dfkde", "max_training_points"): NOT_YET,
    ("rad", "k_image"): NOT_YET,
    ("cfa", "num_hard_negative_features"): NOT_YET,
    ("cfa", "radius"): NOT_YET,
    ("patchflow", "crop_size"): NOT_YET,
}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("settings")
    write_domain(root, "domain_A", train=6, good=4, fault=4)
    return root


def settings(model: str) -> list[str]:
    """What a model takes beside what the run says for it."""
    taken = signature.parameters(REGISTRY[model].path)
    free = [name for name in taken if name not in signature.ELSEWHERE]
    return [name for name in free if not only_one(taken[name].annotation)]


def only_one(hint: Any) -> bool:
    """Whether a setting has one choice, which is none."""
    return typing.get_origin(hint) is Literal and len(typing.get_args(hint)) == 1


def another(hint: Any, value: Any) -> Any:
    """Another value of a setting's type, as an override has it."""
    choices = (
        [one.value for one in hint] if isinstance(hint, type) and issubclass(hint, Enum) else typing.get_args(hint)
    )
    if choices and (typing.get_origin(hint) is Literal or isinstance(hint, type)):
        return next(choice for choice in choices if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 or 0.5
    if isinstance(value, list | tuple) and value and all(isinstance(one, int | float) for one in value):
        return [another(None, one) for one in value]
    raise LookupError("no other value follows from its type: give one in OTHER")


@cache
def configured(model: str, root: Path) -> RunConfig:
    side, needs = smallest(model), REGISTRY[model].needs
    overrides = [f"data.image_size=[{side},{side}],train.max_epochs={needs.epochs},data.batch_size={needs.batch or 3}"]
    parts = ",".join(filter(None, [*overrides, BASE.get(model, "")]))
    return run.configure(model, flags={"data.root": str(root)}, overrides=parts)


def with_overrides(config: RunConfig, overrides: str) -> RunConfig:
    return builder.check(configuration.placed(config, configuration.parse_overrides(overrides)))


def changed(model: str, name: str, root: Path) -> tuple[RunConfig, RunConfig]:
    """The run with and without another value of one setting."""
    base = with_overrides(configured(model, root), WITH.get((model, name), ""))
    value = OTHER.get((model, name))
    if value is None:
        value = another(signature.parameters(REGISTRY[model].path)[name].annotation, base.model.settings[name])
    after = with_overrides(base, f"model.{name}={value}")
    assert after.model.settings[name] != base.model.settings[name]
    return base, after


def shapes(model: Any) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def numbers(config: RunConfig, model: Any, root: Path) -> dict[str, torch.Tensor]:
    """What one step leaves behind: what is logged, every weight, and the scores of the test maps."""
    module = MultiDomainHDMAPDataModule(run.read(config).domains, config.data)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=model.trainer_arguments.get("max_epochs", config.train.max_epochs),
        limit_train_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[train._OptimizerSettings(config.train)],
        gradient_clip_val=model.trainer_arguments.get("gradient_clip_val"),
    )
    train.seed(config.train)
    trainer.fit(model, datamodule=module)
    found = {f"logged {name}": value.detach().clone() for name, value in trainer.callback_metrics.items()}
    found |= {f"state {name}": value.clone() for name, value in model.state_dict().items()}
    model.eval()
    with torch.inference_mode():
        for i, batch in enumerate(module.scoring_dataloader("domain_A", "test")):
            batch.image = model.pre_processor.transform(batch.image)
            out = model.predict_step(batch, 0)
            found[f"scores {i}"] = out.pred_score.clone()
            if out.anomaly_map is not None:
                found[f"maps {i}"] = out.anomaly_map.clone()
    return found


def glance(config: RunConfig, model: Any, root: Path) -> dict[str, torch.Tensor]:
    """The same of models of our own, which need no trainer for a step: its losses, and scores."""
    values, _ = logs(model)
    train.seed(config.train)
    maps = torch.rand(3, 1, *config.data.image_size).expand(-1, 3, -1, -1)
    model.training_step(ImageBatch(image=maps))
    with torch.inference_mode():
        score = model.eval().predict_step(ImageBatch(image=maps), 0).pred_score
    return {name: torch.tensor(value) for name, value in values.items()} | {"score": torch.as_tensor(score)}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.shape == second[name].shape and torch.allclose(value, second[name], rtol=0, atol=0, equal_nan=True)
        for name, value in first.items()
    )


def made(config: RunConfig) -> Any:
    train.seed(config.train)
    return builder.build(config)


def every_setting_counts(model: str, root: Path, numbers: Any = numbers) -> None:
    known: dict[str, Any] = {}
    ignored = []
    for name in settings(model):
        if (model, name) in LEFT_OUT:
            continue
        base, after = changed(model, name, root)
        built, key = made(after), base.model_dump_json()
        before = known.setdefault(key + "shapes", None) or shapes(made(base))
        known[key + "shapes"] = before
        if shapes(built) != before:
            continue
        if key not in known:
            known[key] = numbers(base, made(base), root)
            assert same(known[key], numbers(base, made(base), root)), "the same run twice must give the same numbers"
        if same(known[key], numbers(after, built, root)):
            ignored.append(name)
    assert not ignored


@pytest.mark.parametrize("model", QUICK)
def test_every_setting_of_the_models_of_our_own_changes_something(model: str, domain: Path) -> None:
    every_setting_counts(model, domain, glance)


def slow_models() -> list[Any]:
    heavy = pytest.mark.skipif("HDMAP_EVERY_MODEL" not in os.environ, reason="set HDMAP_EVERY_MODEL=1: takes minutes")
    names = [name for name in OFFLINE if name not in QUICK]
    return [pytest.param(name, marks=heavy) if name in HEAVY else name for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("model", slow_models())
def test_every_setting_of_a_model_changes_something(model: str, domain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    every_setting_counts(model, domain)


def test_the_table_names_models_and_settings_that_exist() -> None:
    for model, name in [*OTHER, *WITH, *LEFT_OUT]:
        assert name in settings(model)
