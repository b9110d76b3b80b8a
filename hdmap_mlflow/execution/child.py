"""What happens inside a run's own process: `python -m hdmap_mlflow.execution.child TASK.json`."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from hdmap_mlflow import interrupt
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.console import show_any_name
from hdmap_mlflow.errors import BadInput, Incomplete, NotRecorded, OutOfMemory, Pruned, Stopped, Unreachable, masked
from hdmap_mlflow.execution.task import Outcome, Status, Task
from hdmap_mlflow.files import write_whole
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.process import GRACE_SECONDS, process_name

EXIT_CODES = {"finished": 0, "failed": 1, "out_of_memory": 1, "killed": 130, "pruned": 130}


def flow(task: Task) -> Document:
    """Run the task as `hdmap train` would, into the MLflow run that the executor made; returns metrics and record."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs.flow import execute

    try:
        on_epoch = load_hook(task.hook)(**task.arguments) if task.hook else None
        here = {
            Tag.PROCESS: process_name(int(os.environ["HDMAP_WATCHER"])),
            Tag.GPU: os.environ.get("CUDA_VISIBLE_DEVICES") or "none",
        }
        with interrupt.recognised():
            result = execute(
                task.config, kind=task.kind, parent=task.parent, on_epoch=on_epoch, tags={**task.tags, **here}
            )
    except BadInput as problem:
        tracking.fail_project_run(str(problem))
        raise
    except NotRecorded as problem:
        kept = tracking.Kept(problem.folder) if problem.folder else None
        if kept is None or kept.last is None or kept.last.end != "FINISHED":
            raise
        return {"metrics": kept.metrics, "result": _result(kept.folder), "unrecorded": str(problem)}
    return {"metrics": dict(result.metrics), "result": _result(result.folder)}


def _result(folder: Path) -> Document:
    """The guideline's record of a run, from its folder; empty where the disk was too full for it."""
    path = folder / Artifact.RESULT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def load_hook(name: str) -> Callable[..., Any]:
    """The function that `module:function` names. Raises BadInput if there is none."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"hook {name} cannot be imported ({error}); expected module:function") from None


@interrupt.obeyed(signal.SIGTERM)
def main(file: str, flow: Callable[[Task], Document] = flow) -> int:
    """Execute a task's file; writes `outcome.json` beside it and returns the exit code."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    show_any_name()
    task = Task.model_validate_json(Path(file).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(int(os.environ["HDMAP_WATCHER"]),), daemon=True).start()
    status: Status = "finished"
    reason, found, bug = "", {}, False
    try:
        found = flow(task)
    except KeyboardInterrupt:
        status, reason = "killed", "interrupted"
    except Stopped as stop:
        status, reason = "pruned" if isinstance(stop, Pruned) else "killed", str(stop)
    except (BadInput, Incomplete) as problem:
        status, reason = "out_of_memory" if isinstance(problem, OutOfMemory) else "failed", str(problem)
        bug = isinstance(problem, Unreachable)  # the next run would wait for it, too
        print(f"hdmap: {problem}", file=sys.stderr)
    except BaseException as error:
        print(masked(traceback.format_exc()), file=sys.stderr)
        status, reason, bug = "failed", masked(f"{type(error).__name__}: {error}"), True
    outcome = Outcome(index=task.index, run_id=task.run_id, status=status, reason=reason, bug=bug, **found)
    write_whole(Path(file).with_name("outcome.json"), outcome.model_dump_json())
    return EXIT_CODES[status]


def _end_with(pid: int) -> None:
    """End this process when the one that watches it is gone: the run is then recorded as KILLED."""
    with contextlib.suppress(psutil.NoSuchProcess):
        watcher = psutil.Process(pid)  # not by its name, which holds a time: setting the clock must end no run
        while watcher.is_running() and watcher.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    print("hdmap: the process that watched this run is gone", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(EXIT_CODES["killed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
