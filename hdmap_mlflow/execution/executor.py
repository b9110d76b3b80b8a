"""Many runs at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from hdmap_mlflow.errors import Incomplete, one_line
from hdmap_mlflow.execution.process import process_name
from hdmap_mlflow.execution.task import Outcome, Share, Started, Task
from hdmap_mlflow.names import Tag

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Store


Event = Started | Outcome


class Executor(ABC):
    """Runs tasks, at most `at_once`, `stagger` seconds between two starts.

    Each gets an MLflow run when it starts, which is closed as what became of it if the child could not do so. As a
    context manager it leaves nothing behind: children are stopped and their runs end as KILLED.
    """

    at_once: int
    share: Share

    def __init__(self, store: Store, stagger: float = 0.0) -> None:
        self.store, self.stagger = store, stagger
        self._waiting: deque[Task] = deque()
        self._running: dict[int, Task] = {}
        self._next_start = 0.0
        self._away = ""  # what the store said where it took no new run

    @property
    def busy(self) -> bool:
        """Whether a submitted task has not ended yet."""
        return bool(self._waiting or self._running)

    def submit(self, task: Task) -> None:
        """Queue a task; `task.index` is its handle and names one task at a time."""
        self._waiting.append(task)
        self._start_waiting()

    def wait(self, timeout: float = 1.0) -> list[Event]:
        """What happened since the last call; returns after `timeout` seconds if nothing did.

        Where the store takes no new run, those that run come to their end; then Incomplete is raised.
        """
        self._start_waiting()
        if self._away and not self.busy:
            raise Incomplete(f"the store takes no new runs ({self._away}); start it, then the same command goes on")
        return [self._settle(event) for event in self._events(timeout)]

    def cancel_all(self) -> list[Event]:
        """Stop every child and forget what waits; returns the outcomes, whose runs are KILLED unless they had ended."""
        self._waiting.clear()
        events: list[Event] = []
        if self._running:
            self._cancel()
        while self._running:
            events += [self._settle(event) for event in self._events(1.0)]
        return events

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self.cancel_all()
        finally:
            self._close()

    def _start_waiting(self) -> None:
        from hdmap_mlflow.tracking import FAILURES

        while self._waiting and len(self._running) < self.at_once and time.monotonic() >= self._next_start:
            task = self._waiting.popleft()
            tags = {
                **task.tags,
                Tag.KIND: task.kind,
                Tag.PROCESS: process_name(),
            }  # until the child says its own
            try:
                run_id = self.store.create(task.config.name, tags, task.parent)
            except FAILURES as error:
                self._waiting.clear()
                self._away = one_line(error)
                return
            self._running[task.index] = task = task.model_copy(update={"run_id": run_id})
            self._start(task)
            self._next_start = time.monotonic() + self.stagger

    def _settle(self, event: Event) -> Event:
        """Bring MLflow in line with how a task ended."""
        if isinstance(event, Started):
            return event
        from hdmap_mlflow.tracking import FAILURES

        task = self._running.pop(event.index)
        if event.log and not event.log.exists():  # written on another host
            event.log.parent.mkdir(parents=True, exist_ok=True)
            event.log.write_text(event.text)
        if event.unrecorded:
            return event
        with contextlib.suppress(*FAILURES):  # the next launch closes it
            if self.store.close(task.run_id, event.status, event.reason, event.text) and event.status != "finished":
                return event.model_copy(
                    update={"status": "finished", "reason": ""}
                )  # it died after its record was whole
        return event

    @abstractmethod
    def _start(self, task: Task) -> None: ...
    @abstractmethod
    def _events(self, timeout: float) -> list[Event]: ...
    @abstractmethod
    def _cancel(self) -> None: ...
    @abstractmethod
    def _close(self) -> None: ...


def _lost(task: Task, reason: str) -> Outcome:
    return Outcome(index=task.index, run_id=task.run_id, status="failed", reason=reason)
