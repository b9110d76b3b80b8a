"""Whole commands, killed at moments that a seed chooses and started again, and interrupted: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import starts
import toys
from fakes import LONG, until
from filelock import FileLock
from maps import write_domain
from mlflow import MlflowClient
from servers import new_store

from hdmap_mlflow.data import simulate
from hdmap_mlflow.evaluation import pictures, shift

pytestmark = pytest.mark.slow
CONDITIONS = {
    "quick": {
        "name": "quick",
        "config": {"image_size": [31, 95], "max_epochs": 3},
        "search": {"model.rate": {"type": "float", "low": 0.01, "high": 0.2}},
    }
}
LENGTH = {"image_size": [31, 95], "max_epochs": 10**6, "early_stopping_patience": 10**6}
ENDLESS = {"quick": CONDITIONS["quick"] | {"config": LENGTH}}
MODEL = "toys:Trained"
COMMON = ("--data-root", "maps", "--condition-file", "quick.json", "--overrides")
COMMON += ("tracking.heatmaps=0,tracking.figures=false",)
COMMANDS = {
    "train": ("train", MODEL, "--condition", "quick", "--source-domain", "domain_A", *COMMON),
    "grid": ("grid", "--models", MODEL, "--conditions", "quick", "--sources", "domain_A", "--seeds", "0,1,2")
    + ("--no-ray", "--jobs", "2", "--stagger", "0", *COMMON),
    "tune": ("tune", MODEL, "--condition", "quick", "--source-domain", "domain_A", "--trials", "4", "--jobs", "2")
    + ("--no-ray", "--refit-seeds", "1", "--sampler", "random", *COMMON),
}
KILLS = 3
AT_ONCE = {"train": 1, "grid": 2, "tune": 2}
UNDISTURBED = {"train": 1, "grid": 3, "tune": 6}  # runs that finish; of tune, four trials and two refits


def start(command: str, folder: Path, conditions: dict = CONDITIONS, model: str = MODEL) -> starts.Command:
    """The command in a folder with a store, a cache and results of its own."""
    folder.mkdir(exist_ok=True)
    if not (folder / "maps").exists():
        (folder / "quick.json").write_text(json.dumps(conditions))
        (folder / "maps").symlink_to(folder.parent / "maps")
        new_store(folder / "mlflow.db")
    return starts.Command(folder, *(model if word == MODEL else word for word in COMMANDS[command]))


def results(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of every finished run by what it is, without its costs.

    A grid and a study finish each once. `train`, killed between the end of its run and its own, makes an equal one.
    """
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    found = {}
    for run in client.search_runs(["1"], max_results=1000):
        if run.info.status == "FINISHED" and run.data.tags["hdmap.kind"] in ("run", "trial"):
            name = " ".join(run.data.params[key] for key in ("train.seed", "model.rate", "data.source_domain"))
            name += " " + run.data.tags["hdmap.kind"] + run.data.tags.get("hdmap.role", "")
            metrics = {k: v for k, v in run.data.metrics.items() if not k.startswith("cost/")}
            assert name not in found or ("train" in folder.name and found[name] == metrics), f"{name} was run twice"
            found[name] = metrics
    return found


@pytest.fixture(scope="module")
def disk(quick_disk) -> Path:
    write_domain(quick_disk / "maps", "domain_A", train=8, good=20, fault=20)
    write_domain(quick_disk / "maps", "domain_B", train=2, good=6, fault=6)
    return quick_disk


@pytest.fixture(scope="module")
def calm(disk) -> Calm:
    return Calm(disk)


class Calm(dict[str, tuple[dict[str, dict[str, float]], float]]):
    """Of each command what its undisturbed runs recorded, and the seconds that it took; made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, command: str) -> tuple[dict[str, dict[str, float]], float]:
        folder, began = self.folder / f"calm {command}", time.monotonic()
        process = start(command, folder)
        assert process.wait(LONG) == 0, process.log.read_text()
        took, found = time.monotonic() - began, results(folder)
        assert len(found) == UNDISTURBED[command], process.log.read_text()
        self[command] = found, took
        return self[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_again_and_again_it_ends_as_if_it_never_was(command, calm, disk):
    expected, took = calm[command]
    folder, rng = disk / command, np.random.default_rng(len(command))
    for moment in rng.permutation(KILLS):  # one in every part of its time
        process = start(command, folder)
        process.wait((moment + rng.uniform()) / KILLS * took)
        process.kill()
    last = start(command, folder)
    assert last.wait(LONG) == 0, last.log.read_text()
    assert results(folder) == expected
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    states = {run.info.run_id: run.info.status for run in client.search_runs(["1"])}
    assert "RUNNING" not in states.values(), "the next launch closes what a killed one left open"
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]


def states(folder: Path) -> list[str]:
    return [run.info.status for run in MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_runs(["1"])]


GOES_ON = {
    "train": "to run it again: hdmap train toys:Trained",
    "grid": "what finished is kept. To go on: hdmap grid --models",
    "tune": "what finished is kept. To go on: hdmap tune toys:Trained",
}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted_during_a_fit_it_says_so_at_once_and_closes_every_run(command, how, disk):
    folder = disk / f"{how.name} {command}"
    process = start(command, folder, ENDLESS)
    until(lambda: list(folder.glob("**/tensorboard_logs")))  # a run is being fitted
    process.send(how)
    (line,) = until(lambda: [line for line in process.log.read_text().splitlines() if "interrupted" in line], 5)
    assert line.startswith("interrupted; ") and GOES_ON[command] in line
    assert ("Ctrl-C once more ends at once" in line) == (how == signal.SIGINT)
    assert process.wait(LONG) == 130, process.log.read_text()
    assert process.log.read_text().count("interrupted") == 1, "by nobody else, and not again"
    assert set(states(folder)) == {"KILLED"}
    for lock in folder.rglob(".recording"):
        FileLock(lock).acquire(timeout=1).lock.release()  # the process that held it is gone


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_once_more_ends_what_hears_no_signal(command, disk):
    """A run that is in C code obeys nothing; of a grid and a study the driver waits for it."""
    folder = disk / f"deaf {command}"
    process = start(command, folder, ENDLESS, "toys:Deaf")
    until(lambda: len(list(folder.glob("**/tensorboard_logs"))) == AT_ONCE[command])
    time.sleep(0.5)
    process.send(signal.SIGINT)
    until(lambda: "interrupted; Ctrl-C once more ends at once" in process.log.read_text(), 5)
    assert process.wait(1) is None
    process.send(signal.SIGINT)
    assert process.wait(5) == 130
    left = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]
    runs = [one for one in left if os.getsid(one.pid) == one.pid]  # the server that forks them goes by itself
    for log in folder.rglob("output_exp_*.log"):
        until(lambda log=log: "the process that watched this run is gone" in log.read_text(), 10)
    assert len(runs) == len(list(folder.rglob("output_exp_*.log")))
    for run in runs:  # they would end by themselves, in 20 s
        run.kill()


def lose(*_given, **_more):
    """Be interrupted, and raise what a library raised in its place: seen in one of 350 runs that were interrupted."""
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    raise OSError("Writer is closed")


PLACES = {"fit": (toys.Fitted, "training_step"), "evaluation": (toys.Distance, "forward")}
PLACES |= {"record": (shift, "of_domains"), "pictures": (pictures, "of_domain")}  # which the run would go on without


@pytest.mark.parametrize("place", PLACES)
def test_a_run_whose_interrupt_a_library_replaced_is_killed_and_did_not_fail(
    exit_code, capfd, maps, store, monkeypatch, place
):
    monkeypatch.setattr(*PLACES[place], lose)
    Path("quick.json").write_text(json.dumps({"quick": {"name": "quick", "config": {"image_size": [31, 95]}}}))
    given = ["train", "toys:Fitted", "--condition", "quick", "--condition-file", "quick.json", "--data-root", str(maps)]
    assert exit_code(*given) == 130
    assert "Writer is closed" not in capfd.readouterr().err
    (run,) = store.client.search_runs(["1"])
    assert run.info.status == "KILLED" and run.data.tags["hdmap.reason"] == "interrupted"


def test_a_command_whose_interrupt_a_library_replaced_ends_as_interrupted(exit_code, capfd, monkeypatch, tmp_path):
    monkeypatch.setattr(simulate, "_write_domain", lose)
    assert exit_code("simulate", "--out", str(tmp_path / "maps")) == 130
    assert capfd.readouterr().err == f"interrupted; to run it again: hdmap simulate --out {tmp_path / 'maps'}\n"


@pytest.mark.parametrize("where", ["__init__", "training_step", "on_train_end", "forward"])
@pytest.mark.parametrize("code", [0, 3])
def test_a_model_whose_code_ends_the_program_is_one_line_and_a_failed_run(
    exit_code, capfd, maps, store, monkeypatch, where, code
):
    """Lightning ends a fit that was interrupted by the same exception."""

    def leave(*_given, **_more):
        sys.exit(code)

    monkeypatch.setattr(toys.Distance if where == "forward" else toys.Fitted, where, leave)
    Path("quick.json").write_text(json.dumps({"quick": {"name": "quick", "config": {"image_size": [31, 95]}}}))
    given = ["train", "toys:Fitted", "--condition", "quick", "--condition-file", "quick.json", "--data-root", str(maps)]
    assert exit_code(*given) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hdmap: ")]
    place = f"test_kills.py, line {leave.__code__.co_firstlineno + 1}"
    assert place in line and f"ended the command by sys.exit({code}); take that line out" in line
    (run,) = store.client.search_runs(["1"])
    assert run.info.status == "FAILED" and run.data.tags["hdmap.reason"] == f"SystemExit: {code}"
