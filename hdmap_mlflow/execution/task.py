"""A run to execute, what it may use and how it ended, as plain data that travels between processes and hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import CheckedConfig
from hdmap_mlflow.execution.gpus import Idle

Limit = Annotated[float, Field(gt=0)]
Status = Literal["finished", "failed", "killed", "pruned", "out_of_memory", "timeout", "running"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # null would be no number


class Task(_Plain):
    """A run to execute, as plain data: it travels to another process or host as JSON.

    `hook` is `module:function`; the child calls `function(**arguments)` once, and what that returns is called as
    `on_epoch(values, epoch)` after every epoch. It may raise `errors.Stopped(reason)`: the run ends KILLED with the
    reason. `tags[Tag.FINGERPRINT]`, where given, is checked against the data and code that the child finds.
    """

    index: int
    config: CheckedConfig
    folder: Path  # the log is written there, as the guideline names it
    kind: str = "run"
    parent: str | None = None
    tags: dict[str, str] = {}
    hook: str | None = None
    arguments: Document = {}
    run_id: str = ""  # of the MLflow run, made by the executor
    seen: tuple[str, ...] | None = None  # runs of its fingerprint that claim nothing; None: it is run in any case
    command: tuple[str, ...] | None = None  # of the child, before the task's file; None: our child module


class Share(_Plain):
    """What one run may use: CPUs (None: divided evenly), GPUs (fractions allowed; None: one where there are any),
    resident memory in MB and seconds (None: no limit)."""

    cpus: Limit | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    memory_mb: Limit | None = None
    timeout: Limit | None = None
    idle: Idle | None = None  # wait until the run's own GPUs are idle


class Started(_Plain):
    """A child runs: where, on which devices, and the log that it writes."""

    index: int
    run_id: str
    host: str
    gpu: str
    log: Path


class Outcome(_Plain):
    """How a run ended. `result` is the guideline's record and `metrics` the run's, both empty unless finished.

    `status` is running where another launch has the run. `bug` says that a run failed with an error that is none of
    ours: not of its settings, its data or the machine. `unrecorded` says where a run that finished lies, which the
    store did not take.
    """

    index: int
    run_id: str
    status: Status
    reason: str = ""
    bug: bool = False
    unrecorded: str = ""
    seconds: float = 0.0
    host: str = ""
    gpu: str = ""
    log: Path | None = None
    text: str = ""  # the end of the log
    metrics: dict[str, float] = {}
    result: Document = {}
