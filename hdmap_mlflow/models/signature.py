"""What a model's class takes: its constructor's signature, against which every setting is checked."""

from __future__ import annotations

import ast
import enum
import hashlib
import importlib
import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from hdmap_mlflow import __version__
from hdmap_mlflow.errors import BadInput, nearest

MODELS = Path(__file__).parent
# Built by `builder` for every model, so that all are judged alike.
COMPONENTS = ("pre_processor", "post_processor", "evaluator", "visualizer")
# Below the models: their source is not looked at.
FOUNDATIONS = ("anomalib.models.components", "lightning", "torch", "builtins", "abc", "typing")
# Their versions count instead: what anomalib's models share, the arithmetic, the resizing, the backbones.
LIBRARIES = ("anomalib", "torch", "torchvision", "timm")
# One place for each setting: what the run already says is no setting of the model.
ELSEWHERE = {
    "pre_trained": "model.weights",
    "lr": "train.learning_rate",
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
}


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


def sources(path: str) -> list[Path]:
    """The files of a model's code: its class and those that it derives from, down to what anomalib's models share,
    and the modules beside these files that they import."""
    modules = dict.fromkeys(cls.__module__ for cls in load_class(path).__mro__)
    own = [name for name in modules if not name.startswith(FOUNDATIONS)]
    found = [Path(inspect.getfile(importlib.import_module(name))) for name in own]
    for file in found:  # which grows
        found += [one for one in dict.fromkeys(_beside(file)) if one not in found]
    return found


def _beside(file: Path) -> Iterator[Path]:
    """The modules in the folder of a file that it imports, in their order, by their absolute names or relative ones;
    of this package's models those in all of their folders."""
    folders = (file.parent, MODELS) if file.is_relative_to(MODELS) else (file.parent,)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = (getattr(node, "module", None) or "").split(".")
            for parts in (of, *([*of, *alias.name.split(".")] for alias in node.names)):
                candidates = (folder.joinpath(*parts[i:]).with_suffix(".py")
                              for folder in folders for i in range(len(parts)))  # fmt: skip
                yield from (one for one in candidates if parts[-1] and one.is_file())


def versions() -> dict[str, str]:
    """Library -> version of what a model's numbers come from, this package among them.

    Without what stands behind a `+`: that is the device a release was built for, and one plan runs on many.
    """
    others = {name: metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return {"hdmap_mlflow": __version__} | others


def code_digest(path: str) -> str:
    """Digest of a model's `sources` and of the `versions` of the libraries below: part of a run's fingerprint.

    A changed line or another release may change every number, so the runs of before are not taken for the same.
    """
    source = [file.read_text(encoding="utf-8") for file in sources(path)]
    return hashlib.sha256(json.dumps([versions(), source]).encode()).hexdigest()[:16]


@cache
def parameters(path: str) -> dict[str, inspect.Parameter]:
    """The arguments of a model class's constructor by name, with their resolved types; its components left out.

    A constructor that hands on `**kwargs` also takes what the class above it takes.
    """
    found: dict[str, inspect.Parameter] = {}
    for constructor in [vars(cls)["__init__"] for cls in load_class(path).__mro__ if "__init__" in vars(cls)]:
        try:
            hints = typing.get_type_hints(constructor)
        except NameError:  # names imported for type checkers only
            hints = {}
        own = inspect.signature(constructor).parameters
        for name, parameter in own.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and name not in ("self", *COMPONENTS):
                found.setdefault(name, parameter.replace(annotation=hints.get(name, Any)))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return found


def check(model: str, path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model as its signature types them, and the class's own defaults for those not given.

    Values are plain data: enumerations by value, paths as text. Raises BadInput that names the key and the nearest
    known one, or the value and what is wrong with it.
    """
    known = {name: parameter for name, parameter in parameters(path).items() if name not in ELSEWHERE}
    for key in given:
        if key in ELSEWHERE:
            raise BadInput(f"model.{key} is set by {ELSEWHERE[key]}")
        if key not in known:
            raise BadInput(f"unknown key 'model.{key}' for {model}{nearest(key, known)}; it takes: {', '.join(known)}")
    out = {}
    for name, parameter in known.items():
        if name in given:
            out[name] = _read(f"model.{name}", parameter.annotation, given[name])
        elif parameter.default is parameter.empty:
            raise BadInput(f"{model} needs model.{name}; give it in the condition or the overrides")
        elif _is_plain(value := _plain(parameter.default)):
            # As it would be read: `500` for a float would not be the `500.0` that a configuration read back has.
            out[name] = float(value) if parameter.annotation is float and value is not None else value
    return out


def arguments(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Checked settings as the constructor wants them: members of enumerations in place of their values."""
    return {name: _as_annotated(parameters(path)[name].annotation, value) for name, value in settings.items()}


def _read(key: str, hint: Any, value: Any) -> Any:
    configured = inspect.isclass(hint) and hasattr(hint, "__pydantic_core_schema__")  # beside which none may be given
    try:
        adapter = TypeAdapter(hint, config=None if configured else ConfigDict(arbitrary_types_allowed=True))
        return _plain(adapter.validate_python(value))
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise BadInput(f"{key}: {problem[0].lower()}{problem[1:]}, got {value!r}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _as_annotated(hint: Any, value: Any) -> Any:
    return hint(value) if inspect.isclass(hint) and issubclass(hint, enum.Enum) else value
