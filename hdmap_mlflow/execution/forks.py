"""Children that import nothing: forked from one process that has imported what every run needs.

torch, Lightning, anomalib and MLflow take a run longer to import than small maps take to train on. The server is that
of `multiprocessing`, one per process that watches runs; it has run nothing, so that CUDA is untouched in it, and its
children are processes of their own in everything else: session, environment, log, exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hdmap_mlflow.execution.preload"])
    return context


def possible() -> bool:
    """Whether this system can fork (not Windows), and HDMAP_FORKS is not 0."""
    return os.environ.get("HDMAP_FORKS") != "0" and "forkserver" in multiprocessing.get_all_start_methods()


def warm() -> None:
    """Start the server where there is to be one; it imports while this process goes on."""
    if possible():
        _server()
        forkserver.ensure_running()


class Fork:
    """A child that runs a task's file, with as much of the interface of `subprocess.Popen` as its watcher needs."""

    def __init__(self, file: Path, log: Path, environment: dict[str, str]) -> None:
        self._process = _server().Process(target=_run, args=(str(file), str(log), environment))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> None:
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)


def _run(file: str, log: str, environment: dict[str, str]) -> None:
    """Be what a new interpreter with this environment would be; then run the task."""
    import torch
    from threadpoolctl import threadpool_limits

    from hdmap_mlflow.execution import child

    assert not torch.cuda.is_initialized(), "a process that has used CUDA cannot be forked"
    os.setsid()
    with open(log, "ab") as text, open(os.devnull, "rb") as nothing:
        for number, source in ((0, nothing), (1, text), (2, text)):
            os.dup2(source.fileno(), number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.path.insert(0, os.getcwd())  # as `python -m` does: hooks and models of the user's own may lie there
    os.environ.clear()
    os.environ.update(environment)
    threads = int(environment["OMP_NUM_THREADS"])  # which libraries that are loaded no longer read
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    sys.exit(child.main(file))
