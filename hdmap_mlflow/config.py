"""What a run is: typed, frozen, checked settings; the condition files; overrides; the fingerprint.

Order of precedence, later wins: the model's published defaults, the condition file, the flags of the
command line, the overrides.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hdmap_mlflow.errors import BadInput

Validation = Literal["source_holdout", "source_test", "synthetic"]
DomainName = Annotated[str, Field(pattern=r"^\w[\w.\- ]*$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1)]

PACKAGED_CONDITIONS = Path(__file__).parent / "conditions"


def _domains(value: object) -> object:
    """`auto`, a comma list or a sequence of names."""
    if isinstance(value, str) and value != "auto":
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return value


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(_Part):
    """Which maps, how they are split and how they reach the model."""

    root: str = "demo"
    source_domain: DomainName = "domain_A"
    target_domains: Annotated[Literal["auto"] | tuple[DomainName, ...], BeforeValidator(_domains)] = "auto"
    validation: Validation = "source_holdout"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Seed = 0
    image_size: tuple[Count, Count] = (256, 256)
    interpolation: Literal["bilinear", "nearest", "bicubic"] = "bilinear"
    batch_size: Count = 32
    eval_batch_size: Count = 32
    workers: Annotated[int, Field(ge=0)] = 0
    max_train: Count | None = None
    packed: bool = True
    feature_cache_mb: Annotated[float, Field(ge=0)] = 2000


class ModelConfig(_Part):
    """Which model, with which weights, and the settings of its constructor."""

    name: str
    weights: str = "hub"
    settings: dict[str, Any] = {}


class TrainConfig(_Part):
    """How the model is trained; `None` leaves a setting as the model's authors have it. `sgd` has momentum 0.9."""

    seed: Seed = 0
    max_epochs: Count = 1
    early_stopping_patience: Count = 10
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    limit_train_batches: Count | None = None
    limit_val_batches: Count | None = None


class TrackingConfig(_Part):
    """Where the record goes."""

    uri: str | None = None
    experiment: str = "hdmap"
    checkpoint: Literal["best", "none"] = "best"
    max_checkpoint_mb: Annotated[float, Field(gt=0)] = 2000
    figures: bool = True
    heatmaps: Annotated[int, Field(ge=0)] = 2  # of each kind and domain: most and least anomalous, wrong
    output_dir: str = "results"


class RunConfig(_Part):
    """One run: a condition of a model on one source domain with one pair of seeds."""

    condition: str
    description: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def name(self) -> str:
        """`<model>/<condition>/<source>/s<seed>`."""
        return f"{self.model.name}/{self.condition}/{self.data.source_domain}/s{self.train.seed}"

    def dotted(self) -> dict[str, Any]:
        """Every setting by its dotted name, as plain data: `model.num_neighbors` -> 9."""
        return {f"{section}.{key}": value for section in _SECTIONS for key, value in _section(self, section).items()}

    def flat(self) -> dict[str, str]:
        """Dotted keys and canonical strings, as they are logged: `model.num_neighbors` -> `9`."""
        words = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in self.dotted().items()}
        return {"condition": self.condition} | words


_SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "tracking": TrackingConfig,
}
# Where a run happens and what is kept of it does not change its numbers.
NOT_IDENTITY = {
    "data.root",
    "data.workers",
    "data.packed",
    "data.feature_cache_mb",
    "data.eval_batch_size",
    "train.device",
}


def _section(config: RunConfig, section: str) -> dict[str, Any]:
    values = getattr(config, section).model_dump(mode="json")
    return values | values.pop("settings", {})


def fingerprint(config: RunConfig, data_digest: str, code: str) -> str:
    """Identity of a run, 16 hex digits: its settings, the content of its data and the code of its model.

    `code` is the package's version and the digest of the model's source. Two runs with one fingerprint
    are the same run: relaunching is safe.
    """
    text = json.dumps([identifying(config), data_digest, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identifying(config: RunConfig) -> dict[str, str]:
    """The settings that change a run's numbers, as they are logged."""
    return {k: v for k, v in config.flat().items() if k not in NOT_IDENTITY and not k.startswith("tracking.")}


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


# ------------------------------------------------------------------------------------- condition files
def load_conditions(path: Path) -> dict[str, dict[str, Any]]:
    """Conditions of a file by name: `{name: {"name", "description", "config"}}`.

    Reads the guideline's form `{"condition_1": {...}}` and the older `{"experiment_conditions": [...]}`;
    `//` comments and trailing commas are accepted (JSON5). Raises BadInput for anything else.
    """
    import json5

    try:
        content = json5.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"condition file {path} does not exist; give -P conditions=FILE.json") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"condition file {path} cannot be read: {' '.join(str(error).split())}") from None
    named = isinstance(content, dict)
    entries = content.get("experiment_conditions", list(content.values())) if named else content
    form = 'expected {"condition_1": {"name": ..., "description": ..., "config": {...}}}'
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"condition file {path} holds no conditions; {form}")
    conditions: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("config"), dict) or not entry.get("name"):
            raise BadInput(f"condition file {path}: a condition lacks its name or its config; {form}")
        unknown = set(entry) - {"name", "description", "config", "search"}
        if unknown:
            raise BadInput(f"condition file {path}: unknown key '{unknown.pop()}' beside name, description, config")
        if entry["name"] in conditions:
            raise BadInput(f"condition file {path}: two conditions are named '{entry['name']}'; rename one")
        conditions[entry["name"]] = entry
    return conditions


def packaged_conditions(model: str) -> dict[str, dict[str, Any]]:
    """The conditions that come with a model, by name without the model's prefix; none for a class of the user's own."""
    file = PACKAGED_CONDITIONS / f"{model}.json"
    found = load_conditions(file) if file.exists() else {}
    return {name.removeprefix(f"{model}_"): condition for name, condition in found.items()}


def find_condition(model: str, name: str, path: Path | None = None) -> dict[str, Any]:
    """One condition of a model's file; in the packaged files `quickstart` stands for `<model>_quickstart`."""
    file = path or PACKAGED_CONDITIONS / f"{model}.json"
    if path is None and not file.exists():
        raise BadInput(f"model '{model}' has no packaged conditions; give -P conditions=FILE.json")
    conditions = load_conditions(file)
    for candidate in (name, f"{model}_{name}"):
        if candidate in conditions:
            return conditions[candidate]
    known = [key.removeprefix(f"{model}_") for key in conditions]
    raise BadInput(f"unknown condition '{name}' in {file.name}{nearest(name, known)}; known: {', '.join(known)}")


# -------------------------------------------------------------------------------------------- settings
def parse_overrides(text: str) -> dict[str, Any]:
    """`"model.num_neighbors=5,data.image_size=[64,64]"` as a dictionary; values are read as YAML scalars and lists."""
    out: dict[str, Any] = {}
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    for item in items:
        if not item.strip():
            continue
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"override '{item.strip()}' is not of the form section.key=value")
        try:
            out[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise BadInput(f"override '{item.strip()}': the value cannot be read; lists are [a,b]") from None
    return out


def _owner(key: str) -> tuple[str, str]:
    """The section and field that a condition's key belongs to.

    Dotted keys say it themselves; the guideline's flat keys belong to `data`, `train` or `tracking` where
    these know the name, and to the model otherwise.
    """
    section, dot, field = key.partition(".")
    if dot:
        if section not in _SECTIONS:
            raise BadInput(f"unknown section '{section}' in '{key}'{nearest(section, _SECTIONS)}; "
                           f"known: {', '.join(_SECTIONS)}")  # fmt: skip
        return section, field
    for name, part in _SECTIONS.items():
        if name != "model" and key in part.model_fields:
            return name, key
    return "model", key


def dotted_key(key: str) -> str:
    """A condition's key with its section: `learning_rate` -> `train.learning_rate`."""
    return ".".join(_owner(key))


def build_config(
    model: str,
    condition: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: str = "",
) -> RunConfig:
    """Join the layers of settings into one checked `RunConfig`.

    `defaults` and the condition's `config` may be flat (the guideline's form) or dotted; `flags` are dotted,
    and `None` means not given. Raises BadInput that names the key, the value and the nearest known key.
    """
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for layer in (defaults or {}, condition["config"], given, parse_overrides(overrides)):
        for key, value in layer.items():
            section, field = _owner(key)
            if section == "model" and field == "pre_trained":  # the guideline's word for our `weights`
                field, value = "weights", _weights_of(value)
            if section != "model" and field not in _SECTIONS[section].model_fields:
                known = _SECTIONS[section].model_fields
                raise BadInput(f"unknown key '{key}'{nearest(field, known)}; {section} has: {', '.join(known)}")
            sections[section][field] = value
    weights = sections["model"].pop("weights", "hub")
    sections["model"].pop("name", None)
    try:
        return RunConfig(
            condition=condition["name"].removeprefix(f"{model}_"),
            description=condition.get("description", ""),
            model=ModelConfig(name=model, weights=weights, settings=sections["model"]),
            **{name: part(**sections[name]) for name, part in _SECTIONS.items() if name != "model"},  # type: ignore[arg-type]
        )
    except ValidationError as error:
        raise BadInput(one_line(error)) from None


def _weights_of(pre_trained: object) -> str:
    if not isinstance(pre_trained, bool):
        raise BadInput(f"model.pre_trained: {pre_trained!r} is neither true (weights=hub) nor false (weights=random)")
    return "hub" if pre_trained else "random"


def one_line(error: ValidationError) -> str:
    """The first problem of a pydantic error as one line: where, what, and the value given."""
    first = error.errors()[0]
    part = str(error.title).removesuffix("Config").lower()
    where = ".".join(str(p) for p in (part, *first["loc"]) if not isinstance(p, int) and "[" not in str(p))
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same run with the model's settings as the model's own signature reads them."""
    return config.model_copy(update={"model": config.model.model_copy(update={"settings": dict(settings)})})


def placed(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same run with other values for settings, by dotted name. Raises BadInput for a value that is impossible."""
    content = config.model_dump(mode="json")
    for name, value in settings.items():
        section, field = name.split(".", 1)
        own = field in _SECTIONS[section].model_fields
        (content[section] if own else content[section]["settings"])[field] = value
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise BadInput(one_line(error)) from None
