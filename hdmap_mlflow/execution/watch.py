"""One run in a process of its own: started, watched, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.execution import forks
from hdmap_mlflow.execution.gpus import wait_until_idle
from hdmap_mlflow.execution.task import Outcome, Share, Started, Status, Task
from hdmap_mlflow.process import GRACE_SECONDS

LOG_BYTES = 1_000_000  # of a log's end, that travel back to the driver
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
Child = subprocess.Popen[bytes] | forks.Fork
# What `mlflow run` exports of its own run and experiment is not the child's.
INHERITED = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


def watch(task: Task, share: Share, stopped: Callable[[], bool] = lambda: False) -> Iterator[Started | Outcome]:
    """Run a task in a child process; yields `Started`, then its `Outcome`. The child never outlives this generator."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ""
    gpu, host = devices.replace(",", "-") or "none", socket.gethostname()
    task.folder.mkdir(parents=True, exist_ok=True)
    log = task.folder / f"output_exp_{task.index}_gpu{gpu}.log"
    yield Started(index=task.index, run_id=task.run_id, host=host, gpu=gpu, log=log)
    began, start = time.monotonic(), log.stat().st_size if log.exists() else 0
    with tempfile.TemporaryDirectory(prefix="hdmap_") as folder:
        file = Path(folder) / "task.json"
        file.write_text(task.model_dump_json(), encoding="utf-8")
        try:
            if share.idle and share.gpus != 0:
                with log.open("a", encoding="utf-8") as lines:
                    wait_until_idle(share.idle, stopped, lambda line: print(line, file=lines, flush=True))
            status, reason = _run(task, share, file, log, stopped)
        except BadInput as problem:
            status, reason = "failed", str(problem)
        report = file.with_name("outcome.json")
        said = Outcome.model_validate_json(report.read_text(encoding="utf-8")) if report.exists() else None
    ended: Document = {"seconds": time.monotonic() - began, "host": host, "gpu": gpu, "log": log}
    ended["text"] = _end_of(log, start)
    if said and (said.status == "finished" or status == "failed"):
        yield said.model_copy(update=ended)
    else:
        yield Outcome(index=task.index, run_id=task.run_id, status=status, reason=reason, **ended)


def _run(task: Task, share: Share, file: Path, log: Path, stopped: Callable[[], bool]) -> tuple[Status, str]:
    """Start the child and wait for its end; what is returned holds where the child itself reports nothing else."""
    process = _start(task.command, file, log, _environment(task, share))
    began = time.monotonic()
    try:
        while (code := process.poll()) is None:
            if stopped():
                return "killed", "interrupted"
            if share.timeout and time.monotonic() - began > share.timeout:
                return "timeout", f"took longer than the limit of {share.timeout:g} s (--run-timeout)"
            if share.memory_mb and _resident_mb(process.pid) > share.memory_mb:
                os.killpg(process.pid, signal.SIGKILL)
                return "out_of_memory", f"used more than the limit of {share.memory_mb:g} MB (--memory-per-run)"
            time.sleep(0.1)
    finally:
        _stop(process)
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name} (SIGKILL: often the system, short of memory)"
    return "failed", f"ended with exit code {code} and said nothing"


def _start(command: tuple[str, ...] | None, file: Path, log: Path, environment: dict[str, str]) -> Child:
    """A process that runs a task's file and writes its log: a fork, or a new interpreter where a command is given."""
    if not command and forks.possible():
        return forks.Fork(file, log, environment)
    command = command or (sys.executable, "-m", "hdmap_mlflow.execution.child")
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*command, str(file)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def _environment(task: Task, share: Share) -> dict[str, str]:
    """The child's environment: its own MLflow run, its share of the threads, and its watcher's number."""
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment |= dict.fromkeys(THREADS, str(max(1, int(share.cpus or 1))))
    environment |= {"MLFLOW_RUN_ID": task.run_id, "HDMAP_WATCHER": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    if share.gpus == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if task.config.tracking.uri:
        environment["MLFLOW_TRACKING_URI"] = task.config.tracking.uri
    return environment


def _stop(process: Child) -> None:
    """End the child and everything it started: SIGTERM, and SIGKILL for what is still there after the grace."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total / 1e6


def _end_of(log: Path, start: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(start, log.stat().st_size - LOG_BYTES))
        return stream.read().decode(errors="replace")
