"""From a configuration to a model: its constraints are checked before any weight is loaded, its parts are ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

from hdmap_mlflow.config import CheckedConfig, RunConfig, with_settings
from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.models import backbones, signature
from hdmap_mlflow.models.entry import ModelEntry
from hdmap_mlflow.models.parts import textures
from hdmap_mlflow.models.registry import find_model

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule
    from torch import nn


def check(config: RunConfig) -> CheckedConfig:
    """The same run with its model's settings complete and typed as the class's signature has them.

    Raises BadInput that names the key, the nearest known one, or the constraint that does not hold.
    """
    model, entry = config.model.name, find_model(config.model.name)
    if missing := entry.needs.missing(model):
        raise BadInput(missing)
    derived = {name: rule(config) for name, rule in entry.derived.items() if name not in config.model.settings}
    settings = signature.check(model, entry.path, config.model.settings | derived)
    problem = entry.needs.problem(config)
    if problem:
        raise BadInput(f"{model} {problem}")
    if entry.needs.online and config.model.weights != "hub":
        raise BadInput(f"{model} runs with weights from the hub only; leave model.weights out")
    if entry.weights is None:
        if config.model.weights not in ("hub", "none"):
            raise BadInput(f"{model} starts from scratch; leave model.weights out")
        config = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    else:
        _check_weights(model, entry, config.model.weights, settings)
    if entry.textures:
        textures.check(model, entry.textures, settings[entry.textures])
    checked = CheckedConfig(**dict(with_settings(config, settings)))
    batches = config.train.limit_train_batches
    limits = {"data.max_train": config.data.max_train}
    limits["train.limit_train_batches"] = batches and batches * config.data.batch_size
    for name, maps in limits.items():
        if maps and (few := entry.needs.too_few(checked, maps)):
            raise BadInput(f"{model} {few} under {name}; raise it")
    return checked


def _check_weights(model: str, entry: ModelEntry, weights: str, settings: dict[str, Any]) -> None:
    rule = entry.weights
    assert rule is not None
    if weights not in ("hub", "random") and not (rule.local and rule.library == "timm"):
        raise BadInput(f"{model} takes model.weights=hub or random only; got {weights}")
    name = settings.get(rule.setting, "")
    if not rule.takes(name):
        raise BadInput(f"{model} takes model.{rule.setting} {', '.join(rule.names)}; got '{name}'")
    if rule.library == "timm":
        _check_timm(rule.setting, name, settings)


def _check_timm(setting: str, name: str, settings: dict[str, Any]) -> None:
    import timm

    if not timm.is_model(name):
        close = [m for m in timm.list_models() if m.startswith(name[:6])][:6] or timm.list_models("resnet*")[:6]
        raise BadInput(f"timm knows no {setting} '{name}'{nearest(name, timm.list_models())}; e.g. {', '.join(close)}")
    wanted = [settings["layer"]] if "layer" in settings else settings.get("layers") or []
    if "vit" in name or not all(isinstance(layer, str) for layer in wanted):  # transformer blocks go by number
        return
    known = backbones.layers(name)
    for layer in wanted:
        if layer not in known:
            raise BadInput(f"{setting} '{name}' has no layer '{layer}'; it has: {', '.join(known)}")


def components(config: RunConfig) -> dict[str, Any]:
    """What stands around every model, so that all are judged alike: resize and scale before it, nothing behind it.

    anomalib's post-processor clamps scores to [0, 1] with source statistics; under domain shift that makes
    every target score 1. Without it, `pred_score` is what the model computed.
    """
    from anomalib.metrics import Evaluator
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize

    from hdmap_mlflow.data.datamodule import resize
    from hdmap_mlflow.models.parts.auroc import AUROC

    entry = find_model(config.model.name)
    steps: list[nn.Module] = [resize(config.data)]
    if entry.weights and entry.needs.scaled:
        scale: tuple[Sequence[float], ...] = (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
        if entry.weights.library == "timm":
            name = config.model.settings[entry.weights.setting]
            backbone = backbones.resolve(config.model.weights, name, fetch=False)
            scale = (backbone.mean, backbone.std)
        steps.append(Normalize(*scale))
    return {
        "pre_processor": PreProcessor(transform=Compose(steps)),
        "post_processor": False,
        "visualizer": False,
        "evaluator": Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")]),
    }


def build(config: CheckedConfig, *, fetch: bool = True, parts: Mapping[str, Any] | None = None) -> AnomalibModule:
    """A new model, ready to fit, among its `components` or the `parts` given in their place.

    `fetch=False` leaves weights random that a checkpoint will replace. Raises BadInput if weights cannot be had.
    """
    entry = find_model(config.model.name)
    arguments = signature.arguments(entry.path, config.model.settings)
    weights = config.model.weights
    random = weights == "random" or (weights == "hub" and not fetch)
    if entry.weights and entry.weights.library == "timm":
        setting = entry.weights.setting
        arguments[setting] = backbones.resolve(weights, arguments[setting], fetch).name
    if "pre_trained" in signature.parameters(entry.path):
        arguments["pre_trained"] = True  # random weights are seen to below, alike for every model
    if entry.textures:
        arguments[entry.textures] = textures.folder(arguments[entry.textures])
    with downloads(config.model.name), backbones.random_weights() if random else contextlib.nullcontext():
        model = signature.load_class(entry.path)(**(parts or components(config)), **arguments)
    if random:
        backbones.leave_files_out(model)
    return model


def load_checkpoint(model: AnomalibModule, path: Path) -> None:
    """Load a checkpoint's weights into a model that was built with the same settings; plain data only, strict."""
    import torch
    from anomalib.utils.serialization import anomalib_safe_globals

    with anomalib_safe_globals(model.checkpoint_safe_globals()):
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict(state, strict=True)


def trains(config: RunConfig, model: AnomalibModule) -> bool:
    """Whether epochs of gradient descent improve a built model, or passes over the data fit it."""
    known = find_model(config.model.name).trains
    return model.trainer_arguments.get("max_epochs") != 1 if known is None else known


@contextlib.contextmanager
def downloads(model: str) -> Iterator[None]:
    """Turn what a failed download raises, in anomalib, torchvision or timm, into one line with the way out."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (URLError, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        reason = str(getattr(error, "reason", "")) or type(error).__name__
        raise BadInput(
            f"files of {model} cannot be downloaded ({' '.join(reason.split())}); connect to the internet, "
            f"or give model.weights=random where its quality does not matter"
        ) from None
