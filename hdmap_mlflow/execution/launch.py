"""How many runs are executed: with what share of the machine, how many at once, where."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.execution import forks
from hdmap_mlflow.execution.gpus import present
from hdmap_mlflow.execution.slots import fit, this_machine
from hdmap_mlflow.execution.task import Share
from hdmap_mlflow.interrupt import command

if TYPE_CHECKING:
    from hdmap_mlflow.execution.executor import Executor
    from hdmap_mlflow.tracking import Store

ANSWER_SECONDS = 4
STAGGER_SECONDS = 5.0


@dataclass(frozen=True)
class Launch:
    """How a grid is executed. `retry` names what is run again beside what is missing: failed, running.

    `ray` None: through Ray where there are GPUs to share out or a cluster is named; else it is 4 s of starting and a
    second set of imports for nothing. `jobs` None: as many at once as the share of each allows; one where `ray` is
    False. `stagger`, seconds between two starts, None: so many that no two runs initialise a GPU together, or none
    without Ray. `child` replaces the command of the runs' processes.
    """

    share: Share = Share()
    jobs: int | None = None
    ray: bool | None = None
    ray_address: str | None = None
    devices: int | None = None
    stagger: float | None = None
    retry: frozenset[str] = frozenset()
    force: bool = False
    child: tuple[str, ...] | None = None
    resume: str = field(default_factory=command)

    def __post_init__(self) -> None:
        for word in self.retry - {"failed", "running"}:
            raise BadInput(f"--retry {word}: give failed, running (a run whose host is gone) or both")
        if self.jobs is not None and self.jobs < 1 or (self.stagger or 0) < 0:
            raise BadInput("--jobs is at least 1 or left open, --stagger is 0 or more")
        if self.ray_address and self.ray is False:
            raise BadInput(f"--ray-address {self.ray_address} and --no-ray exclude each other; leave one out")
        gpus = self.share.gpus or 0.0
        if gpus > 1 and gpus % 1:
            raise BadInput(f"--gpus-per-run {gpus:g}: above 1 only whole GPUs can be given")
        if self.share.idle and 0 < gpus < 1:
            raise BadInput("--wait-idle needs whole GPUs: a run would wait for its neighbour; give --gpus-per-run 1")

    def check(self) -> None:
        """Raise BadInput where Ray is not installed, or nobody listens at its HOST:PORT, which it tries for long."""
        if self.through_ray and find_spec("ray") is None:
            from hdmap_mlflow.execution.ray import WITHOUT_RAY

            raise BadInput(WITHOUT_RAY)
        host, colon, port = (self.ray_address or "").rpartition("://")[2].rpartition(":")
        if not colon:
            return  # auto and the like, which Ray looks up by itself
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, ValueError, OverflowError) as error:
            raise BadInput(
                f"--ray-address {self.ray_address}: nothing answers there ({one_line(error)}); start a cluster with "
                "`ray start --head`, or leave --ray-address out"
            ) from None

    @cached_property
    def through_ray(self) -> bool:
        """Whether the runs go through Ray."""
        if self.ray is None:
            return bool(self.ray_address or self.devices or self.share.gpus or present())
        return self.ray

    def warm(self) -> None:
        """Let what the runs import be imported beside this process, which imports much of it, too, to check them."""
        if not (self.through_ray or self.child):
            forks.warm()

    def executor(self, store: Store) -> Executor:
        from hdmap_mlflow.execution.local import LocalExecutor
        from hdmap_mlflow.execution.ray import RayExecutor

        if self.through_ray:
            stagger = STAGGER_SECONDS if self.stagger is None else self.stagger
            return RayExecutor(store, self.share, self.jobs, stagger, self.ray_address, self.devices)
        share, jobs = self.share, self.jobs or 1
        if self.ray is None:
            share, jobs = fit(self.share, self.jobs, [this_machine()])
        return LocalExecutor(store, share, jobs, self.stagger or 0.0)
