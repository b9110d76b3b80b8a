"""A search as it is asked for, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.adaptation import chain
from hdmap_mlflow.annotations import Document, Settings
from hdmap_mlflow.config import RunConfig, Seed, with_values
from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput, nearest, quoted
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.task import Task
from hdmap_mlflow.models import builder
from hdmap_mlflow.names import MEAN_AUROC, VAL_AUROC, Scope, Tag, metric_name
from hdmap_mlflow.runs import setup
from hdmap_mlflow.tuning import space as spaces
from hdmap_mlflow.tuning.pruning import PRUNERS
from hdmap_mlflow.tuning.request import SearchRequest
from hdmap_mlflow.tuning.space import Space
from hdmap_mlflow.tuning.storage import StudyStorage
from hdmap_mlflow.tuning.study import Asked, check_sampler

MOST_SEEDS = 100
ADAPTED_MEAN = re.compile(rf"{Scope.ADAPTED}/[^/]+/k[0-9]+/{MEAN_AUROC}")
SEEDS: TypeAdapter[tuple[Seed, ...]] = TypeAdapter(Annotated[tuple[Seed, ...], Field(max_length=MOST_SEEDS)])
DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {
    "val_auroc": "maximize",
    "target_mean": "maximize",
    "seconds": "minimize",
    "memory": "minimize",
}


@dataclass(frozen=True)
class Search:
    """A checked search. `space` holds the run as it is with all domains; trials see targets as an oracle only."""

    wanted: SearchRequest
    name: str
    place: StudyStorage
    condition: Settings
    space: Space
    data: dataset.Dataset
    code: str  # digest of the model's, for the fingerprints
    objectives: tuple[str, ...]
    pruner: str
    seeds: tuple[int, ...]

    @property
    def oracle(self) -> bool:
        return "target_mean" in self.objectives

    @property
    def config(self) -> RunConfig:
        return self.space.config

    @property
    def folder(self) -> Path:
        """Where the study's files lie."""
        return Path(self.config.tracking.output_dir) / "studies" / re.sub(r"[^\w.-]+", "_", self.name)

    def terms(self) -> dict[str, str]:
        """What the trials must share, whoever runs them and whenever."""
        fixed = {k: v for k, v in configuration.identifying(self.config).items() if k not in self.space.dimensions}
        searched = {f"search.{name}": one.describe() for name, one in self.space.dimensions.items()}
        rest = {"study.objective": ",".join(self.objectives), "study.pruner": self.pruner}
        rest |= {"data_digest": self.data.digest}
        return fixed | searched | rest

    def trial(self, asked: Asked) -> tuple[RunConfig, dict[str, str]]:
        """A trial as a run, to be checked, and its tags: without targets, big files and pictures of maps."""
        config = self.space.place(asked.settings, model="none", heatmaps=0)
        if not self.oracle:
            config = with_values(config, {"data.target_domains": [], "adapt.k": 0})  # adapters need targets
        tags = {Tag.STUDY: self.name, Tag.TRIAL: str(asked.number), Tag.ORACLE: str(self.oracle).lower()}
        return config.model_copy(update={"condition": f"{self.config.condition}-trial-{asked.number}"}), tags

    def task(self, asked: Asked, launch: Launch, parent: str) -> Task:
        """A trial for a process of its own. Raises BadInput for settings that the model does not take together."""
        config, tags = self.trial(asked)
        more: Document = {}
        if self.pruner != "none":
            told = {"storage": self.place.url, "study": self.name, "trial_id": asked.trial_id, "pruner": self.pruner}
            more = {
                "hook": "hdmap_mlflow.tuning.pruning:pruning",
                "arguments": told | {"epochs": config.train.max_epochs},
            }
        return Task(
            index=asked.number,
            config=builder.check(config),
            folder=self.folder,
            kind="trial",
            parent=parent,
            tags=tags,
            command=launch.child,
            **more,
        )

    def values(self, metrics: Mapping[str, float]) -> list[float]:
        """The objectives from a run's metrics. Raises KeyError for one that the run does not have.

        The target mean of a run that was adapted is that with its adapters.
        """

        def cost(name: str) -> list[float]:
            return [metrics[metric_name(Scope.COST, f"{phase}_{name}")] for phase in ("fit", "evaluate")]

        of = {
            "val_auroc": lambda: metrics[VAL_AUROC],
            "target_mean": lambda: metrics[next(filter(ADAPTED_MEAN.fullmatch, metrics), MEAN_AUROC)],
            "seconds": lambda: sum(cost("seconds")),
            "memory": lambda: max(cost("peak_MB")),
        }
        return [of[name]() for name in self.objectives]


def check(wanted: SearchRequest, composed: Callable[[], None] | None = None) -> Search:
    """Check everything that can be checked before a trial starts; the maps are read. Raises BadInput.

    `composed` is called before the model's class checks its settings, which costs the import of torch.
    """
    from hdmap_mlflow import tracking
    from hdmap_mlflow.models import signature
    from hdmap_mlflow.models.registry import find_model
    from hdmap_mlflow.runs import workdir

    objectives = tuple(name.strip() for name in wanted.objective.split(",") if name.strip())
    for name in objectives:
        if name not in DIRECTIONS:
            raise BadInput(f"--objective {name}{nearest(name, DIRECTIONS)}; known: {', '.join(DIRECTIONS)}")
    alone = len(objectives) == 1
    if objectives[:1] != ("val_auroc",) and objectives != ("target_mean",) or len(set(objectives)) < len(objectives):
        raise BadInput("--objective is val_auroc, val_auroc with seconds or memory behind it, or target_mean alone")
    if "target_mean" in objectives and not alone:
        raise BadInput("--objective target_mean goes alone: it is an oracle")
    if wanted.trials < 1 or wanted.timeout is not None and wanted.timeout <= 0:
        raise BadInput("--trials is 1 or more, --timeout more than 0")
    entry = find_model(wanted.model)
    pruner = wanted.pruner or ("median" if entry.trains and objectives == ("val_auroc",) else "none")
    if pruner not in PRUNERS:
        raise BadInput(f"--pruner {pruner}{nearest(pruner, PRUNERS)}; known: {', '.join(PRUNERS)}")
    if pruner != "none" and not alone:
        raise BadInput(
            "pruning needs one objective: a trial can be judged early by its validation AUROC only; give --pruner none"
        )
    if pruner != "none" and entry.trains is False:
        raise BadInput(f"{wanted.model} has no epochs at which to prune; leave --pruner out")
    check_sampler(wanted.sampler)
    seeds = refit_seeds(wanted.refit_seeds)
    if wanted.study and (problem := configuration.name_problem(wanted.study.replace("/", "_"))):
        raise BadInput(f"--study {quoted(wanted.study)} {problem}; give another name, or none")
    place = StudyStorage.of(wanted.storage)
    condition = configuration.find_condition(
        wanted.model, wanted.condition, Path(wanted.condition_file) if wanted.condition_file else None
    )
    if composed:
        composed()
    space = spaces.read(wanted.model, condition, wanted.flags, wanted.overrides)
    unseen = next((name for name in space.dimensions if name.startswith("adapt.")), None)
    if unseen and "target_mean" not in objectives:
        raise BadInput(
            f"search: {unseen} changes targets alone, which source validation never sees; compare its values with "
            "hdmap grid --adapters and --k, or search them as an oracle with --objective target_mean"
        )
    adapted = _check_adapters(space)
    tracked = setup.anchored(space.config).tracking
    if place.url == tracked.uri:
        raise BadInput(f"--storage {wanted.storage} is the file of tracking.uri; give the study a file of its own")
    place.check()
    tracking.check_store(str(tracked.uri), tracked.experiment)
    workdir.check(space.config)
    data, code = dataset.read(space.config), signature.code_digest(entry.path)
    setup.check_maps(adapted, data)
    builder.reach([space.config])
    config = setup.anchored(with_values(space.config, {"data.root": str(data.root)}))
    space = replace(space, config=config)
    return Search(wanted, study_name(wanted, config), place, condition, space, data, code, objectives, pruner, seeds)


def _check_adapters(space: Space) -> RunConfig:
    """The run with the most healthy maps of the targets that a trial may ask for; all pairs of values are checked."""
    names = [name for name in ("adapt.adapters", "adapt.k") if name in space.dimensions]
    ends = [space.dimensions[name].ends() for name in names]
    found = [space.place(dict(zip(names, values, strict=True))) for values in product(*ends)]
    for config in found:
        try:
            chain.check(config.adapt.adapters, config.adapt.k)
            setup.check_adapters(config, [config.adapt.adapters])
        except BadInput as problem:
            raise BadInput(f"search: {problem}") from None
    return max(found, key=lambda config: config.adapt.k)


def refit_seeds(text: str) -> tuple[int, ...]:
    """The seeds of a comma list, none of an empty one. Raises BadInput."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        seeds = SEEDS.validate_python(words)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = first["input"] if isinstance(first["input"], str) else f"{len(words):,} seeds"
        raise BadInput(
            f"--refit-seeds: {wrong} cannot be; give up to {MOST_SEEDS} whole numbers from 0 to {2**32 - 1}, "
            "e.g. 0,1,2, or nothing for no refit"
        ) from None
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise BadInput(f"--refit-seeds {quoted(text)}: {twice[0]} stands twice; each seed is trained once")
    return seeds


def study_name(wanted: SearchRequest, config: RunConfig | None = None) -> str:
    """The name that was asked for, or else the model, condition and source that the configuration has."""
    if wanted.study:
        return wanted.study
    config = config or setup.compose(
        wanted.model, wanted.condition, wanted.condition_file, wanted.flags, wanted.overrides
    )
    return f"{wanted.model}_{config.condition}_{config.data.source_domain}".replace(":", ".")
