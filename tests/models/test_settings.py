"""Every setting that a model takes changes what it is, what it learns or how it scores; one that is ignored would be
recorded, searched and believed. `other_settings` says which values are tried.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from anomalib.data import ImageBatch
from anomalib.models.image.dinomaly import torch_model as dinomaly
from anomalib.models.image.inp_former import torch_model as inp_former
from lightning.pytorch import Trainer
from maps import write_domain
from other_settings import BASE, BUILT_ONLY, LEFT_OUT, OTHER, TOGETHER, WITH
from parts import logs
from small import over
from zoo import OFFLINE

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.models import builder, signature
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import setup, train

QUICK = ("draem_sevnet", "cutpaste")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    root = folder / "maps"
    write_domain(root, "domain_A", train=6, good=2, fault=2)
    (folder / "textures").mkdir()
    cv2.imwrite(str(folder / "textures" / "stripes.png"), np.tile(np.arange(256, dtype=np.uint8), (64, 1)))
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
    kinds = [hint, *typing.get_args(hint)]
    named = [one.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for one in kind]
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else named
    if choices:
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
    needs = REGISTRY[model].needs
    overrides = [f"data.image_size=[{needs.side()},{needs.side()}],train.max_epochs={needs.epochs}"]
    overrides += [f"data.batch_size={needs.batch or 3}"]
    parts = over(",".join(overrides), BASE.get(model, ""))
    return setup.configure(model, flags={"data.root": str(root)}, overrides=parts)


def with_overrides(config: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """The run with other settings; what follows from them is worked out again."""
    settings = {k: v for k, v in config.model.settings.items() if k not in REGISTRY[config.model.name].derived}
    return builder.check(configuration.with_values(configuration.with_settings(config, settings), given))


def changed(model: str, name: str, root: Path) -> tuple[RunConfig, RunConfig]:
    """The run with and without another value of one setting."""
    base = with_overrides(configured(model, root), configuration.parse_overrides(WITH.get((model, name), "")))
    value = OTHER.get((model, name))
    if value is None:
        value = another(signature.parameters(REGISTRY[model].path)[name].annotation, base.model.settings[name])
    elif isinstance(value, str):
        value = yaml.safe_load(value.format(root=root))
    after = with_overrides(base, {f"model.{name}": value} | TOGETHER.get((model, name), {}))
    assert after.model.settings[name] != base.model.settings[name]
    return base, after


def shapes(model: Any) -> dict[str, Any]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def attributes(model: Any) -> dict[str, Any]:
    """What the parts of a network say of themselves; Lightning's copy of the arguments does not count."""
    return {
        f"{part}.{name}": value
        for part, module in model.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and plain(value)
    }


def plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return isinstance(value, int | float | str | Path | Enum)


def numbers(config: RunConfig, model: Any, root: Path) -> dict[str, torch.Tensor]:
    """What one step leaves behind: what is logged, every weight, and the scores of the test maps."""
    module = MultiDomainHDMAPDataModule(dataset.read(config).domains, config.data)
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
        value.dtype == second[name].dtype
        and value.shape == second[name].shape
        and torch.allclose(value, second[name], rtol=0, atol=0, equal_nan=True)
        for name, value in first.items()
    )


def made(config: RunConfig) -> Any:
    train.seed(config.train)
    return builder.build(config)


def every_setting_counts(model: str, root: Path, numbers: Any = numbers) -> None:
    def structure(built: Any) -> dict[str, Any]:
        return shapes(built) | (attributes(built) if model in BUILT_ONLY else {})

    structures: dict[str, Any] = {}  # of the runs that others differ from in one setting
    results: dict[str, Any] = {}
    ignored = []
    for name in settings(model):
        if (model, name) in LEFT_OUT:
            continue
        base, after = changed(model, name, root)
        built, key = made(after), base.model_dump_json()
        if key not in structures:
            structures[key] = structure(made(base))
            assert model not in BUILT_ONLY or structure(made(base)) == structures[key]
        if structure(built) != structures[key]:
            continue
        if model in BUILT_ONLY:
            ignored.append(name)
            continue
        if key not in results:
            results[key] = numbers(base, made(base), root)
            assert same(results[key], numbers(base, made(base), root)), "the same run twice must give the same numbers"
        if same(results[key], numbers(after, built, root)):
            ignored.append(name)
    assert not ignored


@pytest.mark.parametrize("model", QUICK)
def test_every_setting_of_the_models_of_our_own_changes_something(model: str, domain: Path) -> None:
    every_setting_counts(model, domain, glance)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers with few channels: what is tried is the settings, not the backbones."""
    create: Any = timm.create_model

    def create_model(name: str, *args: Any, **kwargs: Any) -> Any:
        return create(name, *args, **(kwargs | ({"embed_dim": 24, "num_heads": 2} if "vit_" in name else {})))

    monkeypatch.setattr(timm, "create_model", create_model)
    for known in (dinomaly.DINO_ARCHITECTURES, inp_former.DINOV2_ARCHITECTURES):
        monkeypatch.setitem(known, "small", known["small"] | {"embed_dim": 24, "num_heads": 2})


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in OFFLINE if name not in QUICK])
def test_every_setting_of_a_model_changes_something(
    model: str, domain: Path, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    every_setting_counts(model, domain)


def test_the_table_names_models_and_settings_that_exist() -> None:
    for model, name in [*OTHER, *WITH, *TOGETHER, *LEFT_OUT]:
        assert name in settings(model)
    assert set(BUILT_ONLY) | set(BASE) <= set(REGISTRY)
