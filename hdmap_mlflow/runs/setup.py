"""The checked configuration of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from hdmap_mlflow import config as configuration
from hdmap_mlflow.adaptation import chain, draw
from hdmap_mlflow.annotations import Settings
from hdmap_mlflow.config import CheckedConfig, RunConfig
from hdmap_mlflow.config.budget import Budget
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL
from hdmap_mlflow.data.dataset import Dataset
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import K_NORMALS

Config = TypeVar("Config", bound=RunConfig)
LONG = 1_000_000  # epochs, where time ends them


def configure(
    model: str = DEFAULT_MODEL,
    condition: str = DEFAULT_CONDITION,
    conditions: str | None = None,
    flags: Settings | None = None,
    overrides: str = "",
) -> CheckedConfig:
    """The checked configuration of a model's condition. Raises BadInput before any weight or map is read."""
    from hdmap_mlflow.models import builder

    config = builder.check(compose(model, condition, conditions, flags, overrides))
    if changed := chain.model_adapter(config.adapt.adapters):  # a class does not show which layers it will have
        chain.check_model([changed], builder.build(config, fetch=False), model)
    return config


def compose(model: str, condition: str, conditions: str | None, flags: Settings | None, overrides: str) -> RunConfig:
    """The configuration before the model's class has checked its settings, which costs the import of torch."""
    from hdmap_mlflow.models import registry

    entry = registry.find_model(model)
    found = configuration.find_condition(model, condition, Path(conditions) if conditions else None)
    config = configuration.build_config(model, found, defaults=entry.defaults, flags=flags, overrides=overrides)
    entry.check_new(config)
    chain.check(config.adapt.adapters, config.adapt.k)
    return config


def check_adapters(config: RunConfig, chains: Iterable[Sequence[str]]) -> None:
    """Raise BadInput where the model's class cannot have an adapter of some chains; without building a model."""
    from hdmap_mlflow.models import registry, signature

    if changed := sorted({name for one in chains if (name := chain.model_adapter(one))}):
        model = config.model.name
        chain.check_model(changed, signature.load_class(registry.find_model(model).path), model)


def check_maps(config: RunConfig, data: Dataset) -> None:
    """Raise BadInput where the source's maps cannot be divided as configured, or are too few for the model.

    So it is where those of a target are too few for its adaptation.
    """
    from hdmap_mlflow.data.splits import split
    from hdmap_mlflow.models import registry

    parts = split(data.domains, config.data)
    few = registry.find_model(config.model.name).needs.too_few(config, len(parts.train))
    if few:
        raise BadInput(f"{config.model.name} {few}; add maps or choose another source or model")
    if chain.protocol(config.adapt.adapters, config.adapt.k) == K_NORMALS:
        from_train = config.adapt.taken_from == "train"
        for domain, table in parts.targets.items():
            maps = len(parts.healthy[domain]) if from_train else int((table["label"] == 0).sum())
            if few := draw.too_few(domain, config.adapt.k, maps, config.adapt):
                raise BadInput(few)


def spend(config: Config, data: Dataset) -> Config:
    """The run with the epochs that its budget buys on the source's maps, and no early stopping.

    A run without a budget, and one of a model that a pass over the maps fits, is returned as it is. Raises BadInput
    for a budget below half an epoch.
    """
    from hdmap_mlflow.data.splits import split
    from hdmap_mlflow.models import registry

    entry = registry.find_model(config.model.name)
    if config.train.budget is None or entry.trains is False:
        return config
    maps = len(split(data.domains, config.data).train)
    batches = math.ceil(maps / config.data.batch_size)
    if config.train.limit_train_batches and config.train.limit_train_batches < batches:
        batches = config.train.limit_train_batches
        maps = batches * config.data.batch_size
    epochs = Budget.of(config.train.budget).epochs(maps, batches) or LONG
    train = config.train.model_copy(update={"max_epochs": epochs, "early_stopping_patience": epochs})
    spent, settings = config.model_copy(update={"train": train}), config.model.settings
    follow = {name: rule(spent) for name, rule in entry.derived.items() if settings.get(name) == rule(config)}
    model = config.model.model_copy(update={"settings": {**settings, **follow}})
    return spent.model_copy(update={"model": model})


def anchored(config: Config) -> Config:
    """The same run wherever its process is started: the paths of the store and of what it writes are absolute."""
    from hdmap_mlflow.tracking import absolute_uri

    place = {"uri": absolute_uri(config.tracking.uri), "output_dir": str(Path(config.tracking.output_dir).absolute())}
    return config.model_copy(update={"tracking": config.tracking.model_copy(update=place)})
