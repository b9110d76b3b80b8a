"""From settings to a model: every key is checked against the class's signature before any weight is loaded."""

from __future__ import annotations

import enum
import hashlib
import importlib
import inspect
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hdmap_mlflow import __version__
from hdmap_mlflow.config import RunConfig, nearest, with_settings
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import backbones
from hdmap_mlflow.models.registry import ModelEntry, find_model

# Built here for every model, so that all are judged alike.
COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")


def load_class(path: str) -> type:
    """The class that `module:Class` names. Raises BadInput if there is none, or if it is no anomalib model."""
    from anomalib.models.components import AnomalibModule

    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"model class {path} cannot be imported ({error}); expected package.module:Class") from None
    if not (inspect.isclass(found) and issubclass(found, AnomalibModule)):
        raise BadInput(f"{path} is not an anomalib model; its class must derive from AnomalibModule")
    return found


def code_digest(path: str) -> str:
    """Version of this package and digest of the source of the model's module: part of a run's fingerprint."""
    source = inspect.getsource(importlib.import_module(load_class(path).__module__))
    return f"{__version__}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


@cache
def signature(path: str) -> dict[str, inspect.Parameter]:
    """The settings that a model class takes, by name, with their resolved types."""
    found: Any = load_class(path)
    constructor = found.__init__
    parameters = inspect.signature(constructor).parameters
    try:
        hints = typing.get_type_hints(constructor)
    except NameError:  # names imported for type checkers only
        hints = {}
    return {
        name: parameter.replace(annotation=hints.get(name, Any))
        for name, parameter in parameters.items()
        if name not in ("self", "pre_trained", *COMPONENTS)
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def check(config: RunConfig) -> RunConfig:
    """The same run with its model settings checked and read as the class's signature types them.

    Raises BadInput that names the key, the nearest known one, or the constraint that does not hold.
    """
    entry = find_model(config.model.name)
    settings = _checked(config.model.name, signature(entry.path), config.model.settings)
    height, width = config.data.image_size
    if height % entry.size_multiple or width % entry.size_multiple:
        raise BadInput(f"{config.model.name} needs height and width in multiples of {entry.size_multiple}; "
                       f"data.image_size is {height}x{width}")  # fmt: skip
    if entry.weights == "backbone":
        _check_backbone(config.model.name, entry, settings)
    elif config.model.weights != "hub":
        raise BadInput(f"{config.model.name} starts from scratch; leave model.weights out")
    return with_settings(config, settings)


def _checked(model: str, known: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for key, value in given.items():
        if key not in known:
            names = ", ".join(known)
            raise BadInput(f"unknown key 'model.{key}' for {model}{nearest(key, known)}; it takes: {names}")
        hint = known[key].annotation
        try:
            adapter = TypeAdapter(hint, config=None if _configured(hint) else ConfigDict(arbitrary_types_allowed=True))
            value = adapter.validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise BadInput(f"model.{key}: {problem[0].lower()}{problem[1:]}, got {value!r}") from None
        out[key] = value.value if isinstance(value, enum.Enum) else value
    return out


def _configured(hint: Any) -> bool:
    """Whether a type brings its own pydantic configuration, beside which none may be given."""
    return inspect.isclass(hint) and hasattr(hint, "__pydantic_core_schema__")


def _check_backbone(model: str, entry: ModelEntry, settings: Mapping[str, Any]) -> None:
    import timm

    name = settings.get("backbone", "")
    if entry.backbones and not name.startswith(tuple(entry.backbones.split())):
        raise BadInput(f"{model} takes backbones named {entry.backbones.replace(' ', '*, ')}*; got '{name}'")
    if not timm.is_model(name):
        close = [m for m in timm.list_models() if m.startswith(name[:6])][:6] or timm.list_models("resnet*")[:6]
        raise BadInput(f"timm knows no backbone '{name}'{nearest(name, timm.list_models())}; e.g. {', '.join(close)}")
    if "vit" in name:  # transformer blocks are named by number, blocks.<n>
        return
    info: Any = timm.create_model(name, pretrained=False, features_only=True).feature_info
    layers = info.module_name()
    for layer in settings.get("layers", []):
        if layer not in layers:
            raise BadInput(f"backbone '{name}' has no layer '{layer}'; it has: {', '.join(layers)}")


def build(config: RunConfig):  # noqa: ANN201 - AnomalibModule, imported late
    """A new model, ready to fit, with raw scores: resize and scale before it, no post-processing behind it.

    anomalib's post-processor clamps scores to [0, 1] with source statistics; under domain shift that makes
    every target score 1. Without it, `pred_score` is what the model computed.
    """
    from anomalib.metrics import Evaluator
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, InterpolationMode, Normalize, Resize

    from hdmap_mlflow.models.auroc import AUROC

    entry = find_model(config.model.name)
    found = load_class(entry.path)
    settings = {key: _as_annotated(signature(entry.path)[key], value) for key, value in config.model.settings.items()}
    steps: list = [Resize(config.data.image_size, InterpolationMode(config.data.interpolation), antialias=True)]
    if entry.weights == "backbone":
        backbone = backbones.resolve(config.model.weights, settings["backbone"])
        settings |= {"backbone": backbone.name, "pre_trained": backbone.pretrained}
        steps.append(Normalize(backbone.mean, backbone.std))
    return found(
        pre_processor=PreProcessor(transform=Compose(steps)),
        post_processor=False,
        visualizer=False,
        evaluator=Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")]),
        **settings,
    )


def _as_annotated(parameter: inspect.Parameter, value: Any) -> Any:
    """Enumerations are kept as their plain values in a configuration and given back as members."""
    hint = parameter.annotation
    return hint(value) if inspect.isclass(hint) and issubclass(hint, enum.Enum) else value
