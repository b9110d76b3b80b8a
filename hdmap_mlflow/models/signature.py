"""What a model's class takes: its constructor's signature, against which every setting is checked."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import sys
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticSerializationError, to_json

from hdmap_mlflow import __version__
from hdmap_mlflow.annotations import Document, Settings
from hdmap_mlflow.errors import BadInput, nearest, one_line, quoted
from hdmap_mlflow.numbers import misread

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

SCHEMA = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), validate_default=True)


def load_class(path: str) -> type:
    """The class that `module:Class` names. Raises BadInput if there is none, or if it is no anomalib model."""
    from anomalib.models.components import AnomalibModule

    module, _, name = path.partition(":")
    said = io.StringIO()
    try:
        # A module may print and warn, end the program or raise anything; where it fails, one line is enough.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise BadInput(f"model class {path} cannot be imported ({why}); expected package.module:Class") from None
    sys.stdout.write(said.getvalue())
    if not (inspect.isclass(found) and issubclass(found, AnomalibModule)):
        raise BadInput(f"{path} is not an anomalib model; its class must derive from AnomalibModule")
    if inspect.isabstract(found):
        lacks = ", ".join(sorted(found.__abstractmethods__))
        raise BadInput(f"{path} is abstract: its class must define {lacks}")
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
                candidates = (
                    folder.joinpath(*parts[i:]).with_suffix(".py") for folder in folders for i in range(len(parts))
                )
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
            hints = typing.get_type_hints(constructor, include_extras=True)  # limits of numbers among them
        except Exception:  # names imported for type checkers only; a text may say anything
            hints = {}
        own = inspect.signature(constructor).parameters
        for name, parameter in own.items():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and name not in ("self", *COMPONENTS):
                found.setdefault(name, parameter.replace(annotation=hints.get(name, Any)))
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return found


def forget() -> None:
    """Read the signatures of classes anew."""
    parameters.cache_clear()
    schema.cache_clear()


@cache
def schema(path: str) -> type[BaseModel]:
    """The settings of a model class as a pydantic model: its constructor's arguments, their types and defaults."""
    settings = {name: parameter for name, parameter in parameters(path).items() if name not in ELSEWHERE}
    fields: Any = {
        name: (_type(one), ... if one.default is one.empty else one.default) for name, one in settings.items()
    }
    return create_model("Settings", __config__=SCHEMA, **fields)


def _type(parameter: inspect.Parameter) -> object:
    """A default that its own type does not take, as in `layers: list[str] = None`, is taken all the same."""
    try:
        if parameter.default is not parameter.empty:
            create_model("Setting", __config__=SCHEMA, value=(parameter.annotation, parameter.default))()
    except ValidationError:
        return parameter.annotation | type(parameter.default)
    return parameter.annotation


def check(model: str, path: str, given: Mapping[str, object]) -> Document:
    """Settings of a model as its signature types them, and the class's own defaults for those not given.

    Values are JSON's: enumerations by value, paths as text, tuples as lists. Raises BadInput that names the key and the
    nearest known one, or the value and what is wrong with it.
    """
    for key in given:
        if key in ELSEWHERE:
            raise BadInput(f"model.{key} is set by {ELSEWHERE[key]}")
    settings = _read(model, path, given)
    defaults = {name: field.default for name, field in schema(path).model_fields.items() if name not in given}
    return settings.model_dump(mode="json", exclude={name for name in defaults if not _is_writable(defaults[name])})


def arguments(path: str, settings: Mapping[str, object]) -> Document:
    """Checked settings as the constructor types them: members of enumerations, paths and tuples again.

    Raises BadInput as `check` does: a record may be of another version of the class.
    """
    typed = _read(path, path, settings)
    return {name: getattr(typed, name) for name in settings}


def _read(model: str, path: str, given: Settings) -> BaseModel:
    known = schema(path).model_fields
    for key in given:
        if key not in known:
            raise BadInput(f"unknown key 'model.{key}' for {model}{nearest(key, known)}; it takes: {', '.join(known)}")
    try:
        typed = schema(path)(**given)
    except ValidationError as error:
        name, problem = str(error.errors()[0]["loc"][0]), error.errors()[0]["msg"]
        if name not in given:
            raise BadInput(f"{model} needs model.{name}; give it in the condition or the overrides") from None
        raise BadInput(f"model.{name}: {problem[0].lower()}{problem[1:]}, got {quoted(given[name])}") from None
    for name, value in given.items():
        if misread(value, getattr(typed, name)):
            raise BadInput(f"model.{name}: input should be a finite number, got {quoted(value)}")
    return typed


def _is_writable(default: object) -> bool:
    """Whether JSON can say it; what it cannot is left to the class and stands on no record."""
    try:
        return bool(to_json(default))
    except PydanticSerializationError:
        return False
