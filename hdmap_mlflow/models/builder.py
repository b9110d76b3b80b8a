"""From a configuration to a model: its constraints are checked before any weight is loaded, its parts are ours."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

from hdmap_mlflow.annotations import Document, Settings
from hdmap_mlflow.config import CheckedConfig, RunConfig, with_settings
from hdmap_mlflow.errors import BadInput, BadSetting, Unreachable, nearest, one_line
from hdmap_mlflow.models import backbones, signature
from hdmap_mlflow.models import weights as carried
from hdmap_mlflow.models.entry import ModelEntry, Weights
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
    config = with_settings(config, _follow(entry, config.model.settings) | config.model.settings)
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
        weights = _checked_weights(model, entry, config, settings)
        config = config.model_copy(update={"model": config.model.model_copy(update={"weights": weights})})
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


def _follow(entry: ModelEntry, settings: Settings) -> Document:
    """What follows from a run's backbone where the run leaves it out: its layers, by their strides, and its student."""
    taken, rule = signature.parameters(entry.path), entry.weights
    if not (rule and rule.strides):
        return {}
    backbone = settings.get(rule.setting, taken[rule.setting].default)
    if not (isinstance(backbone, str) and rule.free(backbone) and backbones.layers(backbone)):
        return {}  # the check of the weights says it better
    student = {rule.student: backbone} if rule.student else {}
    if not {"layers", "layer"} & set(taken) - set(settings):
        return student
    layers = backbones.at_strides(backbone, rule.strides)
    named = {"layers": layers, "layer": layers[0]}
    return student | {name: value for name, value in named.items() if name in taken}


def _checked_weights(model: str, entry: ModelEntry, config: RunConfig, settings: Document) -> str:
    rule, weights = entry.weights, config.model.weights
    assert rule is not None
    name = settings.get(rule.setting, "")
    if not rule.takes(name):
        raise BadInput(f"{model} takes model.{rule.setting} {', '.join(rule.names)}; got '{name}'")
    if weights not in ("hub", "random") and not rule.local_of(name):
        other = f" with model.{rule.setting}={name}; set {backbones.EMBEDDED}" if rule.strides else ""
        raise BadInput(f"{model} takes model.weights=hub or random only{other}; got {weights}")
    if rule.student and rule.free(name) and settings[rule.student] != name:
        raise BadInput(f"{model}'s student mirrors {name}; leave model.{rule.student}={settings[rule.student]} out")
    if rule.library_of(name) == "timm":
        chosen = _check_timm(rule, name, settings)
        if weights == "embedded":
            backbones.check_embedded(name, rule.setting)
        if entry.needs.rising:
            _check_rising(rule.setting, name, settings["layers"])
        strides = {layer: stride for layer, (_, stride) in backbones.layers(name).items()} if chosen else {}
        coarsest = max((strides.get(layer, 1) for layer in chosen), default=1)
        if min(config.data.image_size) < coarsest:
            height, width = config.data.image_size
            raise BadInput(
                f"data.image_size is {height}x{width}, below the stride {coarsest} of {rule.setting} '{name}'; give "
                f"{coarsest} pixels or more, or finer layers: {backbones.described(name)}"
            )
        if chosen and name.startswith("vit_"):
            _check_patches(rule.setting, name, config.data.image_size, coarsest)
        _check_context(settings.get("row_context") or (), config.data.image_size[1], chosen, strides)
        if weights == "local":  # what was imported may change: a run says which it took
            return f"local:{carried.local(weights, name).sha256[: carried.HASH]}"
    return weights


def _check_patches(setting: str, name: str, size: Sequence[int], patch: int) -> None:
    """Raise BadInput where a vision transformer's patches do not tile the maps."""
    if any(side % patch for side in size):
        near = "x".join(str(max(1, round(side / patch)) * patch) for side in size)
        raise BadInput(
            f"data.image_size is {'x'.join(map(str, size))}, and {setting} '{name}' takes multiples of its patch, "
            f"{patch}; give {near}"
        )


def _check_context(reach: Sequence[int], width: int, chosen: Sequence[str], strides: Mapping[str, int]) -> None:
    """Raise BadInput for a row context that is wider than a row of patches, those of the first layer."""
    if chosen and reach and 2 * max(reach) + 1 > (patches := math.ceil(width / strides[chosen[0]])):
        raise BadInput(
            f"model.row_context={list(reach)} takes means over {2 * max(reach) + 1} patches of a row, and a row of "
            f"{width} pixels has {patches} at layer {chosen[0]}; give {(patches - 1) // 2} at most, or a larger "
            "data.image_size"
        )


def _check_rising(setting: str, name: str, chosen: Sequence[str]) -> None:
    known = backbones.layers(name)
    ratios = [known[coarse][1] / known[fine][1] for fine, coarse in pairwise(chosen)]
    if not ratios or any(ratio < 2 or math.frexp(ratio)[0] != 0.5 for ratio in ratios):
        raise BadInput(
            f"model.layers={list(chosen)} of {setting} '{name}': give two or more, each with twice the stride "
            f"of the one before, or a larger power of two; its layers and strides: {backbones.described(name)}"
        )


def _check_timm(rule: Weights, name: str, settings: Settings) -> list[str]:
    """The layers, by name, that features are taken from. Raises BadInput for what timm or anomalib cannot make."""
    import timm

    setting = rule.setting
    if not timm.is_model(name):
        close = [m for m in timm.list_models() if m.startswith(name[:6])][:6] or timm.list_models("resnet*")[:6]
        raise BadInput(f"timm knows no {setting} '{name}'{nearest(name, timm.list_models())}; e.g. {', '.join(close)}")
    if rule.strides and "vit" in name and not name.startswith("vit_"):
        raise BadInput(f"anomalib takes {setting} '{name}' for a vision transformer by its letters; choose another")
    given = [settings["layer"]] if "layer" in settings else settings.get("layers") or []
    chosen = [layer for layer in given if isinstance(layer, str)]  # transformer blocks may go by number
    if not given and rule.free(name):
        return backbones.at_strides(name, rule.strides)
    known = backbones.layers(name) if chosen else {}
    blocks = {layer.rpartition(".")[2] for layer in known} if name.startswith("vit_") else set()  # found by number
    for layer in chosen:
        if layer not in known and layer.rpartition(".")[2] not in blocks:
            raise BadInput(f"{setting} '{name}' has no layer '{layer}'; it has: {', '.join(known)}")
    return chosen


def components(config: RunConfig) -> Document:
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
        name = config.model.settings.get(entry.weights.setting, "")  # runs of before may lack it
        if entry.weights.library_of(name) == "timm":
            backbone = backbones.resolve(config.model.weights, name, fetch=False)
            scale = (backbone.mean, backbone.std)
        steps.append(Normalize(*scale))
    return {
        "pre_processor": PreProcessor(transform=Compose(steps)),
        "post_processor": False,
        "visualizer": False,
        "evaluator": Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")]),
    }


def build(config: CheckedConfig, *, fetch: bool = True, parts: Settings | None = None) -> AnomalibModule:
    """A new model, ready to fit, among its `components` or the `parts` given in their place.

    `fetch=False` leaves weights random that a checkpoint will replace. Raises BadInput if weights cannot be had.
    """
    entry = find_model(config.model.name)
    arguments = signature.arguments(entry.path, config.model.settings)
    weights = config.model.weights
    random = weights == "random" or (weights == "hub" and not fetch)
    setting = entry.weights.setting if entry.weights else ""
    if entry.weights and entry.weights.library_of(arguments.get(setting, "")) == "timm":
        arguments[setting] = backbones.resolve(weights, arguments[setting], fetch).name
    if "pre_trained" in signature.parameters(entry.path):
        arguments["pre_trained"] = True  # random weights are seen to below, alike for every model
    if entry.textures:
        arguments[entry.textures] = textures.folder(arguments[entry.textures])
    with downloads(config.model.name), backbones.random_weights() if random else contextlib.nullcontext():
        try:
            model = signature.load_class(entry.path)(**(parts or components(config)), **arguments)
        except ValueError as error:  # what the class says of its arguments
            raise BadSetting(f"{config.model.name} cannot be made: {one_line(error)}; change the setting") from error
    if random:
        backbones.leave_files_out(model)
    model.image_score, model.padded = config.score.image, config.data.resize != "stretch"  # for `evaluation.scoring`
    return model


def reach(configs: Iterable[RunConfig]) -> None:
    """Have the weights of several runs' backbones at hand, each once, before anything starts.

    Those of the hub are fetched, or found in the cache, and a folder's are tried; networks that are neither timm's nor
    torchvision's are left to where they are built. Raises BadInput, and Unreachable where there is no hub.
    """
    models = [(find_model(config.model.name).weights, config.model) for config in configs]
    asked = [(rule, str(model.settings.get(rule.setting, "")), model.weights) for rule, model in models if rule]
    for library, name, weights in dict.fromkeys(
        (rule.library_of(name), name, weights) for rule, name, weights in asked
    ):
        if library == "timm" and weights not in ("embedded", "random"):
            backbones.resolve(weights, name)
        elif library == "torchvision" and weights == "hub":
            with downloads(name):
                backbones.fetch_torchvision(name)


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
        raise Unreachable(
            f"files of {model} cannot be downloaded ({' '.join(reason.split())}); connect to the internet, "
            f"or give model.weights=random where its quality does not matter"
        ) from None
