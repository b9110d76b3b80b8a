"""A spec: a file of the user's that says what to import or to build, checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hdmap_mlflow.annotations import Content
from hdmap_mlflow.config.documents import read_yaml
from hdmap_mlflow.errors import BadInput, nearest, one_line, quoted

UNKNOWN = "unknown key '"


class Part(BaseModel):
    """A mapping of a spec: frozen, and a key that is not known is refused with the nearest that is."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Content) -> Content:
        for key in given if isinstance(given, dict) else ():
            if key not in cls.model_fields:
                guess = nearest(str(key), cls.model_fields)
                raise ValueError(f"{UNKNOWN}{key!s:.60}'{guess}; known: {', '.join(cls.model_fields)}")
        return given


Spec = TypeVar("Spec", bound=Part)


def load_spec(path: Path, kind: type[Spec], example: Path) -> Spec:
    """A YAML or JSON spec. BadInput: unreadable, or a key unknown (the nearest known is named), missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        # JSON may be indented by tabs, YAML may not; a JSON string cannot hold a raw tab.
        given = read_yaml(text.replace("\t", " ") if path.suffix == ".json" else text)
    except (OSError, ValueError) as error:
        raise BadInput(f"spec {path} cannot be read ({one_line(error)}); YAML or JSON as in {example}") from None
    if not isinstance(given, dict):
        raise BadInput(f"spec {path} is not a mapping of {', '.join(kind.model_fields)}; example: {example}")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
    key, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if message.startswith(UNKNOWN):
        raise BadInput(f"spec {path}: {message.replace(UNKNOWN, f'{UNKNOWN}{key}.', 1) if key else message}")
    said = first["type"] == "missing" or first["type"] == "value_error" and not message.startswith("input should")
    got = "" if said else f", got {quoted(first['input'], 80)}"
    raise BadInput(f"spec {path}: {f'{key}: ' * bool(key)}{message[0].lower()}{message[1:]}{got}")
