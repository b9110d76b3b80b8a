"""Many runs at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hdmap_mlflow.errors import Incomplete, one_line
from hdmap_mlflow.execution.task import Outcome, Share, Started, Status, Task
from hdmap_mlflow.names import Tag
from hdmap_mlflow.process import process_name

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Past, Store


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
        self._known: set[str] = set()  # runs of this launch, and those of others that stand for one of its tasks
        self._taken: list[Event] = []
        self._away = ""  # what the store said where it took no new run

    @property
    def busy(self) -> bool:
        """Whether a submitted task has not ended yet."""
        return bool(self._waiting or self._running or self._taken)

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
        taken, self._taken = self._taken, []
        return taken or [self._settle(event) for event in self._events(timeout)]

    def cancel_all(self) -> list[Event]:
        """Stop every child and forget what waits; returns the outcomes, whose runs are KILLED unless they had ended."""
        self._waiting.clear()
        self._taken.clear()
        events: list[Event] = []
        if self._running:
            self._cancel()
        while self._running:
            events += [self._settle(event) for event in self._events(1.0)]
        return events

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, error: object, *_more: object) -> None:
        from hdmap_mlflow.tracking import FAILURES

        try:
            self.cancel_all()
            if error:  # an interrupt may come between the making of a run and its start
                with contextlib.suppress(*FAILURES):
                    self.store.close_unstarted()
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
                run_id = self._claim(task, tags)
            except FAILURES as error:
                self._waiting.clear()
                self._away = one_line(error)
                return
            if not run_id:
                continue
            self._known.add(run_id)
            self._running[task.index] = task = task.model_copy(update={"run_id": run_id})
            self._start(task)
            self._next_start = time.monotonic() + self.stagger

    def _claim(self, task: Task, tags: dict[str, str]) -> str:
        """Id of the task's new run; empty where another launch has the run, which is then its outcome."""
        if task.seen is None:
            return self.store.create(task.config.name, tags, task.parent)
        fingerprint, seen = tags[Tag.FINGERPRINT], self._known.union(task.seen)
        run = self.store.claim(fingerprint, task.config.name, tags, task.parent, seen)
        if isinstance(run, str):
            return run
        self._known.add(run.run_id)
        self._taken.append(taken(task.index, run, self.store))
        return ""

    def _settle(self, event: Event) -> Event:
        """Bring MLflow in line with how a task ended."""
        if isinstance(event, Started):
            return event
        from hdmap_mlflow.tracking import FAILURES

        task = self._running.pop(event.index)
        if event.log and not event.log.exists():  # written on another host
            event.log.parent.mkdir(parents=True, exist_ok=True)
            event.log.write_text(event.text, encoding="utf-8")
        if event.unrecorded:
            return event
        with contextlib.suppress(*FAILURES):  # the next launch closes it
            if self.store.close(task.run_id, event.status, event.reason, event.text) and event.status != "finished":
                whole = {"status": "finished", "reason": ""}  # it died after its record was whole
                return event.model_copy(update=whole)
        return event

    @abstractmethod
    def _start(self, task: Task) -> None: ...
    @abstractmethod
    def _events(self, timeout: float) -> list[Event]: ...
    @abstractmethod
    def _cancel(self) -> None: ...
    @abstractmethod
    def _close(self) -> None: ...


def taken(index: int, run: Past, store: Store) -> Outcome:
    """What has become of a run that another launch began."""
    reason = run.reason or f"another launch has it: {run.process}"
    status: Status = "finished" if run.status == "finished" else "running" if run.status == "running" else "failed"
    host, metrics = run.process.partition(":")[0], store.metrics(run.run_id) or {}
    return Outcome(
        index=index, run_id=run.run_id, status=status, reason=reason, seconds=run.seconds, host=host, metrics=metrics
    )


def ended_elsewhere(elsewhere: dict[int, str], tasks: Mapping[int, Task], pool: Executor) -> list[Event]:
    """What became in a second of runs that another launch on this machine has; one that was killed is run here.

    `elsewhere` has their ids by the tasks' indices; those that ended are taken out.
    """
    time.sleep(1)
    ended: list[Event] = []
    for index, run_id in list(elsewhere.items()):
        run = pool.store.past(run_id)
        if run.is_gone:
            pool.store.close(run_id, "killed", "its process is gone")
        elif run.status == "running":
            continue
        del elsewhere[index]
        if run.is_gone or run.status == "killed":
            pool.submit(tasks[index])
        else:
            ended.append(taken(index, run, pool.store))
    return ended


def runs_here(event: Event) -> bool:
    """Whether another launch on this machine has the run, so that its end can be waited for."""
    return isinstance(event, Outcome) and event.status == "running" and event.host == socket.gethostname()


def _lost(task: Task, reason: str) -> Outcome:
    return Outcome(index=task.index, run_id=task.run_id, status="failed", reason=reason)
