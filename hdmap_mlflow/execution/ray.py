"""Many runs at once through Ray, on one or many machines. The only module that imports Ray."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.execution.slots import fit
from hdmap_mlflow.execution.task import Outcome, Share, Task
from hdmap_mlflow.execution.watch import watch

if TYPE_CHECKING:
    from types import ModuleType

    from hdmap_mlflow.tracking import Store
from hdmap_mlflow.execution.executor import Event, Executor, _lost

LOCAL = "local"  # this machine, named: also where there is no GPU to share out
WITHOUT_RAY = "Ray is not installed; pip install 'hdmap_mlflow[grid]', or run on the CPUs with --no-ray"


class RayExecutor(Executor):
    """Through Ray: on this machine, or on the cluster at `address`. Every run has its own share of CPUs and GPUs.

    `fit` fills in what the share leaves open; `devices` overrides how many GPUs this machine offers. Raises BadInput
    without Ray, without an answer from `address`, or where no node can hold a run.
    """

    def __init__(
        self,
        store: Store,
        share: Share,
        jobs: int | None = None,
        stagger: float = 0.0,
        address: str | None = None,
        devices: int | None = None,
    ) -> None:
        super().__init__(store, stagger)
        self.ray = _connect(address, devices)
        try:
            nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.share, self.at_once = fit(share, jobs, nodes)
        except BaseException:
            self.ray.shutdown()
            raise
        self._streams: dict[Iterator[object], Task] = {}
        memory = {"memory": self.share.memory_mb * 1e6} if self.share.memory_mb else {}
        # A run that dies is the driver's to judge: Ray must not start it again by itself.
        self._remote = self.ray.remote(watch).options(
            num_cpus=self.share.cpus, num_gpus=self.share.gpus, max_retries=0, num_returns="streaming", **memory
        )

    def _start(self, task: Task) -> None:
        self._streams[self._remote.remote(task, self.share)] = task

    def _events(self, timeout: float) -> list[Event]:
        if not self._streams:
            time.sleep(timeout)
            return []
        ready, _ = self.ray.wait(list(self._streams), num_returns=1, timeout=timeout)
        return [event for stream in ready if (event := self._next(stream))]

    def _next(self, stream: Iterator[object]) -> Event | None:
        """What a stream says next; a worker that is gone is the end of its run."""
        try:
            event = self.ray.get(next(stream))
        except StopIteration:
            del self._streams[stream]
            return None
        except self.ray.exceptions.RayError as error:
            event = _died(self._streams[stream], error)
        if isinstance(event, Outcome):
            del self._streams[stream]
        return event

    def _cancel(self) -> None:
        for stream in self._streams:
            self.ray.cancel(stream)

    def _close(self) -> None:
        self.ray.shutdown()


def _connect(address: str | None, devices: int | None) -> ModuleType:
    try:
        import ray
    except ImportError:
        raise BadInput(WITHOUT_RAY) from None
    where: Document = {"address": address}
    if address in (None, LOCAL):  # nothing large goes through Ray, so its object store is the smallest that it accepts
        where = {"address": LOCAL, "num_gpus": devices, "include_dashboard": False, "object_store_memory": 80_000_000}
    # A user does nothing with the line on the token that Ray's own processes greet each other with.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        with _signals():
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where_to = address or "this machine"
        raise BadInput(
            f"no Ray cluster answers at {where_to} ({one_line(error)}); start one with `ray start --head`, or leave "
            "--ray-address out"
        ) from None
    return ray


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The signals of this process, while Ray starts.

    Ray puts its own handler on SIGTERM, which would leave runs open. Its workers inherit what is ignored: a command
    that a script starts in the background ignores SIGINT, and a worker that does so can never be cancelled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _died(task: Task, error: Exception) -> Outcome:
    """The outcome of a task whose Ray worker did not live to tell."""
    name = type(error).__name__
    if "Cancelled" in name:
        return Outcome(index=task.index, run_id=task.run_id, status="killed", reason="interrupted")
    if name == "OutOfMemoryError":
        return Outcome(index=task.index, run_id=task.run_id, status="out_of_memory", reason="the node's memory ran out")
    return _lost(task, f"its Ray worker died ({one_line(error, 200)})")
