"""Runs of the fake child: their configurations, orders and notes."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

import mlflow
import psutil
import starts

from hdmap_mlflow.config import CheckedConfig, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from hdmap_mlflow.execution import child, forks, watch
from hdmap_mlflow.execution.task import Outcome, Task
from hdmap_mlflow.grid.plan import Cell

LONG = 300.0  # seconds after which what is waited for will never come, however busy the machine is
FAKE = Path(__file__).with_name("fake_child.py")


def order(seed, text):
    Path("orders").mkdir(exist_ok=True)
    Path("orders", str(seed)).write_text(text)


def command():
    Path("orders").mkdir(exist_ok=True)
    return (sys.executable, str(FAKE), str(Path("orders").absolute()))


def notes(seed):
    """What the fake runs of a seed wrote: a line when they began, and one with `end` when they came through."""
    file = Path("orders", f"{seed}.log")
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def config(seed=0, uri=None):
    uri = uri or os.environ["MLFLOW_TRACKING_URI"]
    return CheckedConfig(
        condition="quick",
        data=DataConfig(batch_size=32),
        model=ModelConfig(name="patchcore"),
        train=TrainConfig(seed=seed),
        tracking=TrackingConfig(uri=uri, output_dir=str(Path("results").absolute())),
    )


def task(seed=0, uri=None, **more):
    return Task(index=seed, config=config(seed, uri), folder=Path("logs").absolute(), command=command(), **more)


def cells(count, uri=None):
    """A grid of the seeds 0, 1, 2 ... with made-up identities."""
    tags = {"hdmap.data_digest": "d", "hdmap.model": "patchcore", "hdmap.condition": "quick"}
    return [Cell(config(seed, uri), tags | {"hdmap.fingerprint": f"{seed:016x}"}, 0) for seed in range(count)]


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def forked(name="fake_child"):
    """The command of a fake child that is forked from a server which has imported all that it needs."""
    Path("orders").mkdir(exist_ok=True)
    watch._start = _start
    return ("fork", name, str(Path("orders").absolute()))


def _start(command, file, log, environment, interpreter=watch._start):
    if not command or command[0] != "fork":
        return interpreter(command, file, log, environment)
    return Forked(command[1:], file, log, environment)


class Forked(forks.Fork):
    def __init__(self, command, file, log, environment):
        self._process = starts.SERVER.Process(target=_fake, args=(*command, str(file), str(log), environment))
        self._process.start()
        self.pid = self._process.pid


def _fake(name, orders, file, log, environment):
    flow, main = importlib.import_module(name).flow, child.main
    sys.argv = [name, orders, file]
    child.main = lambda file: main(file, flow)
    forks._run(file, log, environment)


def trial_command():
    return forked("fake_trial")


def trial_notes(what):
    """Notes of the fake trials that began, or that came to their end."""
    file = Path("orders", "log")
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line["what"] == what]


def drain(pool, seconds=LONG):
    """The outcomes of all that was submitted, by index."""
    deadline, outcomes = time.time() + seconds, {}
    while pool.busy and time.time() < deadline:
        outcomes |= {event.index: event for event in pool.wait() if isinstance(event, Outcome)}
    assert not pool.busy, f"only {outcomes} came in {seconds} s"
    return outcomes


def until(condition, seconds=LONG):
    deadline = time.time() + seconds
    while not (found := condition()):
        assert time.time() < deadline, "it did not happen"
        time.sleep(0.1)
    return found


def recorded(run_id):
    return mlflow.MlflowClient().get_run(run_id)
