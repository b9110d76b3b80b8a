"""Many runs at once on this machine, in threads of this process, without Ray."""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

from hdmap_mlflow.execution.task import Share, Task
from hdmap_mlflow.execution.watch import watch

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Store
from hdmap_mlflow.execution.executor import Event, Executor, _lost


class LocalExecutor(Executor):
    """On this machine without Ray, `jobs` at once; the GPUs are those of the environment, for every run."""

    def __init__(self, store: Store, share: Share, jobs: int = 1, stagger: float = 0.0) -> None:
        super().__init__(store, stagger)
        self.at_once = jobs
        self.share = share if share.cpus else share.model_copy(update={"cpus": max(1, (os.cpu_count() or 1) // jobs)})
        self._queue: queue.Queue[Event] = queue.Queue()
        self._stop = threading.Event()

    def _start(self, task: Task) -> None:
        threading.Thread(target=self._watch, args=(task,)).start()

    def _watch(self, task: Task) -> None:
        try:
            for event in watch(task, self.share, self._stop.is_set):
                self._queue.put(event)
        except Exception as error:  # the watcher itself: an unwritable folder, no process to be had
            self._queue.put(_lost(task, f"{type(error).__name__}: {error}"))

    def _events(self, timeout: float) -> list[Event]:
        try:
            found = [self._queue.get(timeout=timeout)]
        except queue.Empty:
            return []
        while not self._queue.empty():
            found.append(self._queue.get())
        return found

    def _cancel(self) -> None:
        self._stop.set()

    def _close(self) -> None:
        pass
