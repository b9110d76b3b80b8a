"""The options that several commands share, each defined once.

An option that is not given is None: what is called then has a default of its own, which the help looks up. MLflow
passes an empty text for it, and users' commands say 0 for no limit and -1 for automatic: here these become None.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import expanded
from hdmap_mlflow.numbers import real, whole

if TYPE_CHECKING:
    from hdmap_mlflow.execution.gpus import Idle
    from hdmap_mlflow.execution.task import Share


def given(**values: object) -> Document:
    """Without what is not given."""
    return {name: value for name, value in values.items() if value is not None}


def says(text: str, default: str | Callable[[object], object] | None = None) -> Parameter:
    """The help of an option and its default: in words, or as a function that finds it."""
    return Parameter(**given(help=text, show_default=default))


def of(path: str, name: str) -> Callable[[object], object]:
    """The default of an argument of `module:function`, looked up when help shows it: imports cost time."""

    def find(_none: object) -> object:
        module, _, function = path.partition(":")
        called = getattr(importlib.import_module(f"hdmap_mlflow.{module}"), function)
        return inspect.signature(called).parameters[name].default

    return find


def _reads(kind: Callable[[str], object], absent: object = None, **law: float) -> Parameter:
    """A value read strictly (Cyclopts would round 1.5 to a whole number); `absent` is how None is written."""

    def read(_type: type, tokens: Sequence[Token]) -> object:
        value = kind(tokens[0].value)
        return None if value == absent else value

    def shown(value: object) -> object:
        return absent if value is None else value

    number = given(validator=Number(**law) if law else None, show_default=shown if absent in (0, -1) else None)
    return Parameter(converter=read, **number)


def _listed(kind: Callable[[str], float]) -> Parameter:
    """Numbers with commas between them; a list is one word."""

    def read(_type: type, tokens: Sequence[Token]) -> object:
        return tuple(kind(word) for word in tokens[0].value.split(",")) if tokens[0].value else None

    return Parameter(converter=read, n_tokens=1, negative=())


Text = Annotated[str | None, _reads(str, absent="")]
Whole = Annotated[int | None, _reads(whole, gte=0)]
Positive = Annotated[int | None, _reads(whole, gt=0)]
Amount = Annotated[float | None, _reads(real, gte=0)]
Maps = Annotated[int | None, _reads(whole, gte=1, lte=1_000_000)]
Seconds = Annotated[float | None, _reads(real, gt=0)]
Percent = Annotated[float | None, _reads(real, gte=0, lte=100)]
Reals = Annotated[tuple[float, ...] | None, _listed(real)]
Wholes = Annotated[tuple[int, ...] | None, _listed(whole)]
Jobs = Annotated[int | None, _reads(whole, absent=0, gte=0)]
Limit = Annotated[float | None, _reads(real, absent=0, gte=0)]
Fraction = Annotated[float | None, _reads(real, absent=-1, gte=0)]
Switch = Annotated[bool, Parameter(negative=())]  # there is no --no-plan

ADAPT = "config.settings:AdaptConfig"
DATA, TRAIN, IDLE = "config.settings:DataConfig", "config.settings:TrainConfig", "execution.gpus:Idle"
Model = Annotated[Text, says("A model of the registry, or package.module:Class.", of("runs.setup:configure", "model"))]
Folder = Annotated[Path, _reads(expanded)]  # or a file
Out = Annotated[Folder, says("Folder to write; must not exist or be empty.")]
RunId = Annotated[str, says("Id of a finished run.")]
EXPERIMENT = "$MLFLOW_EXPERIMENT_NAME or hdmap"
Experiment = Annotated[Text, says("The experiment whose finished runs are read.", EXPERIMENT)]
Uri = Annotated[Text, says("MLflow store.", "$MLFLOW_TRACKING_URI or sqlite:///mlflow.db")]


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """The data, and what is set for every run of a command."""

    data_root: Annotated[Text, says("Folder with the domains, or demo (small, simulated).", of(DATA, "root"))] = None
    validation: Annotated[Text, says("source_holdout, source_test or synthetic.", of(DATA, "validation"))] = None
    split_seed: Annotated[Text, says("Seed of the validation split.", of(DATA, "split_seed"))] = None
    condition_file: Annotated[Text, says("A condition file of your own.", "the packaged one")] = None
    overrides: Annotated[Text, says('Settings, e.g. "model.num_neighbors=5,train.max_epochs=3".')] = None
    experiment: Annotated[Text, says("The experiment in MLflow that is written to.", EXPERIMENT)] = None
    budget: Annotated[Text, says("What each may train: epochs=, steps=, maps= or seconds=N.", "the epochs set")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions(DataOptions):
    """What a run, or every trial of a study, is trained on."""

    source_domain: Annotated[Text, says("The domain to train on, or several: A,B.", of(DATA, "source_domain"))] = None
    target_domains: Annotated[
        str | None, says("auto (all others) or a comma list, which may be empty.", of(DATA, "target_domains"))
    ] = None
    seed: Annotated[Text, says("Seed of weights, shuffling, synthetic faults, sampler.", of(TRAIN, "seed"))] = None
    conditions: Annotated[Text, Parameter(show=False)] = None  # --condition-file, as it was called; to be removed

    def __post_init__(self) -> None:
        if self.conditions:
            print("hdmap: --conditions FILE is now --condition-file FILE", file=sys.stderr)
            object.__setattr__(self, "condition_file", self.condition_file or self.conditions)

    def flags(self) -> dict[str, object]:
        """What is said of the data and the seeds, by setting; here a default counts as said."""
        from hdmap_mlflow.config import DataConfig, TrainConfig

        named = {
            "root": self.data_root,
            "source_domain": self.source_domain,
            "target_domains": self.target_domains,
            "validation": self.validation,
            "split_seed": self.split_seed,
        }
        data = DataConfig().model_dump(include=set(named)) | given(**named)
        place = given(**{"tracking.experiment": self.experiment, "train.budget": self.budget})  # a condition may, too
        return {f"data.{name}": data[name] for name in named} | {"train.seed": self.seed or TrainConfig().seed} | place


@Parameter(name="*")
@dataclass(frozen=True)
class RepairOptions:
    """How the transfer to the targets is repaired."""

    adapters: Annotated[Text, says("Adapters in their order, a comma list: z, or merge,z.", "z")] = None
    k: Annotated[Text, says("Healthy maps of each target that they get.", of(ADAPT, "k"))] = None

    def flags(self) -> dict[str, object]:
        from hdmap_mlflow.adaptation.chain import parse, working

        if self.adapters and self.k is None and not working(parse(self.adapters), 0):
            raise BadInput(f"--adapters {self.adapters} change nothing without healthy maps; give --k 16, or another k")
        return given(**{"adapt.adapters": self.adapters, "adapt.k": self.k})


@Parameter(name="*")
@dataclass(frozen=True)
class ShareOptions:
    """What each of many runs may use, and where they run."""

    gpus_per_run: Annotated[Fraction, says("Fractions allowed; -1: one where there are any.")] = None
    cpus_per_run: Annotated[Limit, says("Threads of a run; 0: divided evenly.")] = None
    memory_per_run: Annotated[Limit, says("Limit of a run in MB; 0: none.")] = None
    run_timeout: Annotated[Limit, says("Limit of a run in seconds; 0: none.")] = None
    no_ray: Annotated[Switch, says("On this machine, in order, or --jobs at once.")] = False
    ray_address: Annotated[
        Text, says("A Ray cluster's HOST:PORT, auto, or local: this machine.", "this machine, where it has GPUs")
    ] = None

    def share(self, idle: Idle | None = None) -> Share:
        from hdmap_mlflow.execution.task import Share

        return Share(
            gpus=self.gpus_per_run,
            cpus=self.cpus_per_run,
            memory_mb=self.memory_per_run,
            timeout=self.run_timeout,
            idle=idle,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class IdleOptions:
    """When a GPU counts as idle."""

    idle_utilisation: Annotated[Percent, says("Idle is up to so many percent ...", of(IDLE, "utilisation"))] = None
    idle_memory: Annotated[Amount, says("... and so many MB.", of(IDLE, "memory_mb"))] = None

    def idle(self, max_wait: float | None = None) -> Idle:
        from hdmap_mlflow.execution.gpus import Idle

        return Idle(**given(utilisation=self.idle_utilisation, memory_mb=self.idle_memory, max_wait=max_wait))
