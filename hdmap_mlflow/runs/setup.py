"""The checked configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import CheckedConfig, RunConfig
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL
from hdmap_mlflow.data.dataset import Dataset
from hdmap_mlflow.errors import BadInput

Config = TypeVar("Config", bound=RunConfig)


def configure(
    model: str = DEFAULT_MODEL,
    condition: str = DEFAULT_CONDITION,
    conditions: str | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: str = "",
) -> CheckedConfig:
    """The checked configuration of a model's condition. Raises BadInput before any weight or map is read."""
    from hdmap_mlflow.models import builder

    return builder.check(compose(model, condition, conditions, flags, overrides))


def compose(
    model: str, condition: str, conditions: str | None, flags: Mapping[str, Any] | None, overrides: str
) -> RunConfig:
    """The configuration before the model's class has checked its settings, which costs the import of torch."""
    from hdmap_mlflow.models import registry

    entry = registry.find_model(model)
    found = configuration.find_condition(model, condition, Path(conditions) if conditions else None)
    config = configuration.build_config(model, found, defaults=entry.defaults, flags=flags, overrides=overrides)
    entry.check_new(config)
    return config


def check_maps(config: RunConfig, data: Dataset) -> None:
    """Raise BadInput where the source's maps cannot be divided as configured, or are too few for the model."""
    from hdmap_mlflow.data.splits import split
    from hdmap_mlflow.models import registry

    few = registry.find_model(config.model.name).needs.too_few(config, len(split(data.domains, config.data).train))
    if few:
        raise BadInput(f"{config.model.name} {few}; add maps or choose another source or model")


def anchored(config: Config) -> Config:
    """The same run wherever its process is started: the paths of the store and of what it writes are absolute."""
    from hdmap_mlflow.tracking import absolute_uri

    place = {"uri": absolute_uri(config.tracking.uri), "output_dir": str(Path(config.tracking.output_dir).absolute())}
    return config.model_copy(update={"tracking": config.tracking.model_copy(update=place)})
