"""Layers of settings joined into one configuration: defaults, condition, flags, overrides."""

from __future__ import annotations

from pydantic import ValidationError

from hdmap_mlflow.annotations import Document, Settings
from hdmap_mlflow.config.documents import read_yaml
from hdmap_mlflow.config.settings import SECTIONS, ModelConfig, RunConfig, fields
from hdmap_mlflow.errors import BadInput, nearest, quoted

RENAMED = {"tracking.checkpoint": "tracking.model"}  # settings of before


# -------------------------------------------------------------------------------------------- settings
def parse_overrides(text: str) -> Document:
    """`"model.num_neighbors=5,data.image_size=[64,64]"` as a dictionary; values are read as YAML scalars and lists."""
    out: Document = {}
    for item in _items(text):
        if not item.strip():
            continue
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise BadInput(f"override '{item.strip()}' is not of the form section.key=value")
        if key in out:
            raise BadInput(f"override '{item.strip()}': {key} stands twice; give it once")
        try:
            out[key] = read_yaml(value)
        except ValueError as error:
            why = str(error).partition("\n")[0]
            raise BadInput(f"override '{item.strip()}': the value cannot be read ({why}); lists are [a,b]") from None
    return out


def _items(text: str) -> list[str]:
    """What stands between the commas outside all brackets: a list may hold lists."""
    items, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character in "[({") - (character in "])}"))
        if character == "," and not depth:
            items.append("")
        else:
            items[-1] += character
    return items


def _owner(key: str) -> tuple[str, str]:
    """The section and field that a condition's key belongs to.

    Dotted keys say it themselves; the guideline's flat keys belong to `data`, `train` or `tracking` where
    these know the name, and to the model otherwise.
    """
    section, dot, field = key.partition(".")
    if dot:
        if section not in SECTIONS:
            raise BadInput(
                f"unknown section '{section}' in '{key}'{nearest(section, SECTIONS)}; known: {', '.join(SECTIONS)}"
            )
        return section, field
    for name in SECTIONS:
        if name not in ("adapt", "score") and key in fields(name):  # k, pool and image may be settings of a model
            return name, key
    return "model", key


def dotted_key(key: str) -> str:
    """A condition's key with its section: `learning_rate` -> `train.learning_rate`."""
    return ".".join(_owner(key))


def dotted(layer: Settings) -> Document:
    """A layer of settings by their dotted names. Raises BadInput where two of its keys are one setting."""
    out: Document = {}
    for key, value in layer.items():
        name = dotted_key(key)
        if name == "model.pre_trained":  # the guideline's word for our `weights`
            name, value = "model.weights", _weights_of(value)
        name = RENAMED.get(name, name)
        if name in out:
            raise BadInput(f"{name} stands twice, once as '{key}'; give it once")
        out[name] = value
    return out


def build_config(
    model: str,
    condition: Settings,
    *,
    defaults: Settings | None = None,
    flags: Settings | None = None,
    overrides: str = "",
) -> RunConfig:
    """Join the layers of settings into one checked `RunConfig`.

    `defaults` and the condition's `config` may be flat (the guideline's form) or dotted; `flags` are dotted,
    and `None` means not given. Raises BadInput that names the key, the value and the nearest known key.
    """
    sections: dict[str, Document] = {name: {} for name in SECTIONS}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for layer in (defaults or {}, condition["config"], given, parse_overrides(overrides)):
        for key, value in dotted(layer).items():
            section, _, field = key.partition(".")
            known = fields(section)
            if section != "model" and field not in known:
                raise BadInput(f"unknown key '{key}'{nearest(field, known)}; {section} has: {', '.join(known)}")
            sections[section][field] = value
    weights = sections["model"].pop("weights", "hub")
    if (name := sections["model"].pop("name", model)) != model:
        raise BadInput(f"model.name={quoted(name)} beside the model {model}; name it in place of that, and once")
    try:
        return RunConfig(
            condition=condition["name"].removeprefix(f"{model}_"),
            description=condition.get("description", ""),
            model=ModelConfig(name=model, weights=weights, settings=sections["model"]),
            **{name: part(**sections[name]) for name, part in SECTIONS.items() if name != "model"},  # type: ignore[arg-type]
        )
    except ValidationError as error:
        raise BadInput(one_line(error)) from None


def _weights_of(pre_trained: object) -> str:
    if not isinstance(pre_trained, bool):
        raise BadInput(f"model.pre_trained: {pre_trained!r} is neither true (weights=hub) nor false (weights=random)")
    return "hub" if pre_trained else "random"


def one_line(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line: where, what, and the value given."""
    first, *others = error.errors()
    part = str(error.title).removesuffix("Config").lower()
    where = ".".join(str(p) for p in (part, *first["loc"]) if not isinstance(p, int) and "[" not in str(p))
    if first["type"] == "value_error" and "input should be" not in first["msg"]:  # our own words, which name the input
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    words = [one for one in others if one["type"] == "literal_error" and one["input"] is first["input"]]
    message = " or ".join([first["msg"].removeprefix("Value error, "), *(one["ctx"]["expected"] for one in words)])
    return f"{where}: {message[0].lower()}{message[1:]}, got {quoted(first['input'])}"


def with_settings(config: RunConfig, settings: Settings) -> RunConfig:
    """The same run with other settings of its model; they are still to be checked."""
    return RunConfig(**{**dict(config), "model": config.model.model_copy(update={"settings": dict(settings)})})


def with_values(config: RunConfig, settings: Settings) -> RunConfig:
    """The same run with other values for settings, by dotted name. Raises BadInput for a value that is impossible."""
    content = config.model_dump(mode="json", context={"passwords": True})
    for name, value in settings.items():
        section, field = name.split(".", 1)
        own = field in fields(section)
        (content[section] if own else content[section]["settings"])[field] = value
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise BadInput(one_line(error)) from None
