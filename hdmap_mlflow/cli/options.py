"""The options that several commands share, each defined once, with the defaults of what they describe.

In Python, None is what is not given, no limit, automatic. On a command line that is an empty value, which MLflow passes
for a parameter without one, or a number that users' commands have always written for it: 0 or -1. It ends here.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from hdmap_mlflow.config import DataConfig, TrackingConfig, TrainConfig
from hdmap_mlflow.execution.gpus import Idle
from hdmap_mlflow.execution.task import Share

DATA, TRAIN, TRACKING, IDLE = DataConfig(), TrainConfig(), TrackingConfig(), Idle()


def given(**values: object) -> dict[str, Any]:
    """Without what is not given: a function that is called with the rest has its own defaults."""
    return {name: value for name, value in values.items() if value is not None}


def says(text: str, default: str | Callable[[object], object] | None = None) -> Parameter:
    """The help of an option, and its default where that is None: in words, or as a function that finds it."""
    return Parameter(**given(help=text, show_default=default))


def default_of(path: str, name: str) -> Callable[[object], object]:
    """What finds the default of an argument of `module:function`, for the help alone: its imports may cost seconds."""

    def find(_none: object) -> object:
        module, _, function = path.partition(":")
        called = getattr(importlib.import_module(f"hdmap_mlflow.{module}"), function)
        return inspect.signature(called).parameters[name].default

    return find


def _reads(kind: Callable[[str], object], absent: object = None) -> Parameter:
    """A value read strictly (Cyclopts would round 1.5 to a whole number); `absent` is how None is written."""

    def read(_: type, tokens: Sequence[Token]) -> object:
        value = kind(tokens[0].value)
        return None if value == absent else value

    if absent in (None, ""):
        return Parameter(converter=read)
    return Parameter(converter=read, show_default=lambda value: absent if value is None else value)


NOT_NEGATIVE, POSITIVE = Parameter(validator=Number(gte=0)), Parameter(validator=Number(gt=0))
Text = Annotated[str | None, _reads(str, absent="")]
Whole = Annotated[int, _reads(int), NOT_NEGATIVE]
WholeOrNone = Annotated[int | None, _reads(int), NOT_NEGATIVE]
Count = Annotated[int | None, _reads(int, absent=0), NOT_NEGATIVE]
Limit = Annotated[float | None, _reads(float, absent=0), NOT_NEGATIVE]
Fraction = Annotated[float | None, _reads(float, absent=-1), NOT_NEGATIVE]
SWITCH = Parameter(negative=())  # there is no --no-plan

Model = Annotated[str, says("A model of the registry, or package.module:Class.")]
Out = Annotated[Path, says("Folder to write; must not exist or be empty.")]
RunId = Annotated[str, says("Id of a finished run.")]
Experiment = Annotated[str, says("The experiment whose finished runs are read.")]
Uri = Annotated[Text, says("MLflow store. Default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db.")]


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """The data, and what is set for every run of a command."""

    data_root: Annotated[Text, says("Folder with the domains, or demo (small, simulated).", DATA.root)] = None
    validation: Annotated[Text, says("source_holdout, source_test or synthetic.", DATA.validation)] = None
    split_seed: Annotated[Text, says("Seed of the validation split.", str(DATA.split_seed))] = None
    condition_file: Annotated[Text, says("A condition file of your own.", "the packaged one")] = None
    overrides: Annotated[Text, says('Settings, e.g. "model.num_neighbors=5,train.max_epochs=3".')] = None


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions(DataOptions):
    """What a run, or every trial of a study, is trained on."""

    source_domain: Annotated[str, says("The domain to train on.")] = DATA.source_domain
    target_domains: Annotated[str, says("auto (all others) or a comma list.")] = str(DATA.target_domains)
    seed: Annotated[str, says("Seed of weights, shuffling, synthetic faults, sampler.")] = str(TRAIN.seed)
    conditions: Annotated[Text, Parameter(show=False)] = None  # --condition-file, as it was called; to be removed

    def __post_init__(self) -> None:
        if self.conditions:
            print("hdmap: --conditions FILE is now --condition-file FILE", file=sys.stderr)
            object.__setattr__(self, "condition_file", self.condition_file or self.conditions)

    def flags(self) -> dict[str, object]:
        """What the command line says of the data and the seeds, by setting; its defaults count as said."""
        return {
            "data.root": self.data_root or DATA.root,
            "data.source_domain": self.source_domain,
            "data.target_domains": self.target_domains,
            "data.validation": self.validation or DATA.validation,
            "data.split_seed": self.split_seed or DATA.split_seed,
            "train.seed": self.seed,
        }


@Parameter(name="*")
@dataclass(frozen=True)
class ShareOptions:
    """What each of many runs may use, and where they run."""

    gpus_per_run: Annotated[Fraction, says("Fractions allowed; -1: one where there are any.")] = None
    cpus_per_run: Annotated[Limit, says("Threads of a run; 0: divided evenly.")] = None
    memory_per_run: Annotated[Limit, says("Limit of a run in MB; 0: none.")] = None
    run_timeout: Annotated[Limit, says("Limit of a run in seconds; 0: none.")] = None
    no_ray: Annotated[bool, SWITCH, says("On this machine, without Ray.")] = False
    ray_address: Annotated[Text, says("A Ray cluster's HOST:PORT, or auto.", "none")] = None

    def share(self, idle: Idle | None = None) -> Share:
        return Share(gpus=self.gpus_per_run, cpus=self.cpus_per_run, memory_mb=self.memory_per_run,
                     timeout=self.run_timeout, idle=idle)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True)
class IdleOptions:
    """When a GPU counts as idle."""

    idle_utilisation: Annotated[float, NOT_NEGATIVE, says("Idle is up to so many percent ...")] = IDLE.utilisation
    idle_memory: Annotated[float, NOT_NEGATIVE, says("... and so many MB.")] = IDLE.memory_mb

    def idle(self, max_wait: float = IDLE.max_wait) -> Idle:
        return Idle(utilisation=self.idle_utilisation, memory_mb=self.idle_memory, max_wait=max_wait)
