"""What a run is: typed, frozen, checked settings."""

from __future__ import annotations

import json
import os
import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    field_serializer,
    model_validator,
)

from hdmap_mlflow.annotations import Content, Document
from hdmap_mlflow.config.budget import Budget
from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.errors import BadInput, masked
from hdmap_mlflow.files import expanded
from hdmap_mlflow.names import domain_flaw, sources_of
from hdmap_mlflow.numbers import PLAIN

Validation = Literal[*PROTOCOLS]  # type: ignore[valid-type]


def _number(kind: str) -> BeforeValidator:
    """What a person calls a number: Pydantic alone takes true for 1 and `1_0` for 10."""

    def check(value: object) -> object:
        if isinstance(value, bool) or isinstance(value, str) and not PLAIN.fullmatch(value):
            raise ValueError(f"input should be a valid {kind}")
        return value

    return BeforeValidator(check)


Whole = Annotated[int, _number("integer")]
Real = Annotated[float, _number("number")]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Count = Annotated[Whole, Field(ge=1, lt=2**31)]
Pixels = Annotated[Whole, Field(ge=1, le=8192)]


def _domain(name: str) -> str:
    if flaw := domain_flaw(name):
        raise ValueError(f"{name!r:.120} {flaw}")
    return name


DomainName = Annotated[str, AfterValidator(_domain)]


def _sources(value: object) -> object:
    """One name, or several as a sequence, a comma list or `A+B`: in one order, so that they are one run."""
    names = re.split("[,+]", value) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return value
    names = [_domain(name.strip() if len(names) > 1 else name) for name in names]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} stands twice among the sources; name each once")
    return ",".join(sorted(names))


Sources = Annotated[str, BeforeValidator(_sources)]
Spending = Annotated[str, AfterValidator(lambda given: str(Budget.of(given)))]


def _domains(value: object) -> object:
    """`auto`, a comma list or a sequence of names."""
    if isinstance(value, str) and value != "auto":
        value = tuple(name.strip() for name in value.split(",") if name.strip())
    if isinstance(value, list | tuple):
        [_domain(name) for name in value if isinstance(name, str)]  # here, or else the line would say `auto` only
    return value


def _adapters(value: object) -> object:
    """`merge+z`, a comma list or a sequence of names; `source_only` is none."""
    if isinstance(value, str):
        value = tuple(name.strip() for name in re.split(r"[+,]", value) if name.strip())
    return () if value in (("source_only",), ["source_only"]) else value


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, serialize_by_alias=True
    )


class DataConfig(_Part):
    """Which maps, how they are split and how they reach the model."""

    root: str = "demo"
    source_domain: Sources = "domain_A"
    target_domains: Annotated[Literal["auto"] | tuple[DomainName, ...], BeforeValidator(_domains)] = "auto"
    validation: Validation = "source_holdout"
    val_fraction: Annotated[Real, Field(gt=0, lt=1)] | None = None
    split_seed: Seed = 0
    image_size: tuple[Pixels, Pixels] = (256, 256)
    interpolation: Literal["bilinear", "nearest", "bicubic"] = "bilinear"
    resize: Literal["stretch", "pad", "pad_noise"] = "stretch"  # how maps of another aspect get to `image_size`
    batch_size: Count = 32
    eval_batch_size: Count | Literal["auto"] = 32  # auto: in scoring as many as a GPU holds
    workers: Annotated[Whole, Field(ge=0, le=256)] = 0
    max_train: Count | None = None
    packed: bool = True
    feature_cache_mb: Annotated[Real, Field(ge=0)] = 2000

    @property
    def validation_batch(self) -> int:
        """Maps in a batch of validation, and of scoring where nothing says how many a device holds."""
        return 32 if self.eval_batch_size == "auto" else self.eval_batch_size

    @property
    def sources(self) -> list[str]:
        """The domains of `source_domain`, which are trained on together."""
        return sources_of(self.source_domain)


class ModelConfig(_Part):
    """Which model, with which weights, and the settings of its constructor."""

    name: str
    weights: str = "hub"
    settings: Document = {}


class TrainConfig(_Part):
    """How the model is trained; `None` leaves a setting as the model's authors have it. `sgd` has momentum 0.9.

    A `budget` (`epochs=`, `steps=`, `maps=` or `seconds=`) decides how long, without early stopping.
    """

    seed: Seed = 0
    max_epochs: Count = 1
    early_stopping_patience: Count = 10
    budget: Spending | None = None
    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    learning_rate: Annotated[Real, Field(gt=0)] | None = None
    weight_decay: Annotated[Real, Field(ge=0)] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    engine: Literal["auto", "torch", "openvino"] = "auto"  # of frozen backbones on a CPU, see `models.parts.engine`
    frozen_precision: Literal["32-true", "bf16-true"] = "32-true"  # of those that OpenVINO computes
    limit_train_batches: Count | None = None
    limit_val_batches: Count | None = None


class EvaluationConfig(_Part):
    """What counts as one independent observation, for intervals and tests (see `evaluation.sample`)."""

    sample: Literal["recordings", "order", "maps"] = "recordings"


class AdaptConfig(_Part):
    """How the transfer to the targets is repaired: with which adapters, and with how many healthy maps of each target.

    `draws` times k maps are drawn from the first `pool` of a target's `train/good`, drawn by `seed`, too. With
    `from=test` they are taken out of the reported maps. k = 0: source only.
    """

    adapters: Annotated[tuple[str, ...], BeforeValidator(_adapters)] = ("z",)
    k: Annotated[Whole, Field(ge=0)] = 0
    draws: Annotated[Whole, Field(ge=1, le=100)] = 3
    seed: Seed = 0
    pool: Annotated[Whole, Field(ge=2)] = 128
    taken_from: Annotated[Literal["train", "test"], Field(alias="from")] = "train"

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.k > self.pool:
            raise ValueError(f"k={self.k} is more than the pool={self.pool} maps that are drawn from; raise adapt.pool")
        return self


class ScoreConfig(_Part):
    """What a map's score is of its anomaly map at native size (`scoring.IMAGE_SCORES`), or the model's own."""

    image: Literal["published", "max", "top10", "mean", "row"] = "published"


LONGEST = 500  # characters of an experiment's name in MLflow


def own_experiment() -> str:
    """The experiment where none is named: `$MLFLOW_EXPERIMENT_NAME`, as MLflow's own commands take it, or hdmap."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or "hdmap"
    if len(name) > LONGEST:
        raise BadInput(f"MLFLOW_EXPERIMENT_NAME has {len(name)} characters, MLflow takes {LONGEST}; set a shorter one")
    return name


class TrackingConfig(_Part):
    """Where the record goes."""

    uri: str | None = None
    experiment: Annotated[str, Field(pattern=r"\S", max_length=LONGEST)] = Field(default_factory=own_experiment)
    model: Literal["best", "none"] = "best"  # `checkpoint` in files of before 0.19
    max_checkpoint_mb: Annotated[Real, Field(gt=0)] = 2000
    figures: bool = True
    heatmaps: Annotated[Whole, Field(ge=0)] = 2  # of each kind and domain: most and least anomalous, wrong
    output_dir: Annotated[str, AfterValidator(lambda given: str(expanded(given)))] = "results"
    keep_local: bool = False  # there, too, what the store has whole

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, given: Content) -> Content:
        """`checkpoint` is what `model` was called."""
        if isinstance(given, dict) and "checkpoint" in given and "model" not in given:
            given = {"model" if name == "checkpoint" else name: value for name, value in given.items()}
        return given

    @field_serializer("uri")
    def _masked(self, uri: str | None, info: FieldSerializationInfo) -> str | None:
        """What is written down holds no password; `context={"passwords": True}` keeps it."""
        return uri if uri is None or (info.context or {}).get("passwords") else masked(uri)


class RunConfig(_Part):
    """One run: a condition of a model on one source domain with one pair of seeds."""

    condition: str
    description: str = ""
    data: DataConfig = DataConfig()
    model: ModelConfig
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    adapt: AdaptConfig = AdaptConfig()
    score: ScoreConfig = ScoreConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def name(self) -> str:
        """`<model>/<condition>/<source>/s<seed>`."""
        return f"{self.model.name}/{self.condition}/{self.data.source_domain}/s{self.train.seed}"

    def dotted(self) -> Document:
        """Every setting by its dotted name, as plain data: `model.num_neighbors` -> 9."""
        return {f"{section}.{key}": value for section in SECTIONS for key, value in _section(self, section).items()}

    def flat(self) -> dict[str, str]:
        """Dotted keys and canonical strings, as they are logged: `model.num_neighbors` -> `9`."""
        words = {k: v if isinstance(v, str) else json.dumps(v, sort_keys=True) for k, v in self.dotted().items()}
        return {"condition": self.condition} | words


class CheckedConfig(RunConfig):
    """A run whose model's settings are complete and valid for the model's class, as plain data.

    `models.builder.check` makes it; what it wrote as JSON is read back as the same.
    """


SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
    "tracking": TrackingConfig,
    "adapt": AdaptConfig,
    "score": ScoreConfig,
}


def fields(section: str) -> list[str]:
    """Names of a section's settings."""
    return [field.alias or name for name, field in SECTIONS[section].model_fields.items()]


def _section(config: RunConfig, section: str) -> Document:
    values = getattr(config, section).model_dump(mode="json")
    return values | values.pop("settings", {})
