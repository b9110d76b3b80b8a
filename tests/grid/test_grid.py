"""Grids of fake runs on real Ray: each run once, on its own device, whatever is killed in between."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from fakes import LONG, alive, cells, command, notes, order, until
from mlflow import MlflowClient
from servers import new_store

from hdmap_mlflow.config import ModelConfig
from hdmap_mlflow.errors import BadInput, Incomplete
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.task import Share
from hdmap_mlflow.grid import driver, plan


def carry_out(found, store, **launch):
    launch = {"child": command(), "stagger": 0, "ray": False, **launch}
    driver.carry_out(plan.look_up(found, store), store, Launch(**launch))


def runs(store, kind="run"):
    return mlflow.MlflowClient().search_runs([store.experiment_id], f"tags.\"hdmap.kind\" = '{kind}'")


@pytest.fixture
def drive():
    """Starts a grid as a program of its own: `drive(count, gpus, memory_mb)`."""
    started = []

    def start(*arguments, interrupt=signal.SIG_DFL):
        command = [sys.executable, str(Path(__file__).parents[1].joinpath("helpers", "drive.py")), *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # As a terminal starts it, or ignoring SIGINT as a script's `hdmap grid &` does.
        started.append(subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt), **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def overlap(spans):
    """The largest number of (begin, end) spans that hold at one time."""
    return max(sum(begin <= at < end for begin, end in spans) for at, _ in spans)


@pytest.mark.slow
def test_twelve_runs_on_three_gpus_are_three_at_once_each_on_its_own(store):
    for seed in range(12):
        order(seed, "sleep 2")
    carry_out(cells(12), store, ray=True, devices=3, share=Share(cpus=0.1))
    by_gpu = {}
    for seed in range(12):
        begun, ended = notes(seed)
        by_gpu.setdefault(begun["CUDA_VISIBLE_DEVICES"], []).append((begun["begin"], ended["end"]))
    assert set(by_gpu) == {"0", "1", "2"}
    assert all(overlap(spans) == 1 for spans in by_gpu.values())
    assert overlap([span for spans in by_gpu.values() for span in spans]) == 3
    (parent,) = runs(store, "grid")
    assert parent.info.status == "FINISHED" and parent.data.metrics["grid/finished"] == 12
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(store)} == {parent.info.run_id}
    (folder,) = Path("results/patchcore").iterdir()
    assert len(list(folder.glob("output_exp_*_gpu[012].log"))) == 12
    assert json.loads(next(folder.glob("result_exp_07_quick_gpu*.json")).read_text())["seed"] == "7"


@pytest.mark.slow
def test_what_dies_under_ray_fails_alone(store, drive):
    """A child by SIGKILL, one over its memory limit (again with half the batch), and a Ray worker by SIGKILL."""
    for seed, text in enumerate(("die", "eat 16", "eat 0", "sleep 3600", "sleep 1")):
        order(seed, text)
    process = drive(5, 5, 500)
    watched = until(lambda: notes(3))[0]
    os.kill(watched["watcher"], signal.SIGKILL)
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 1 and "3 of 5 runs did not finish" in err and "--retry failed" in err
    until(lambda: not alive(watched["pid"]))
    last = {run.data.tags["hdmap.planned"][-1]: run for run in reversed(runs(store))}
    assert [last[str(i)].info.status for i in range(5)] == ["FAILED", "FINISHED", "FAILED", "FAILED", "FINISHED"], out
    assert "SIGKILL" in last["0"].data.tags["hdmap.reason"]
    assert "worker died" in last["3"].data.tags["hdmap.reason"]
    assert [note["batch"] for note in notes(1)] == [32, 16, 16]
    tags = last["1"].data.tags
    assert tags["hdmap.retry"] == "out_of_memory" and tags["hdmap.batch_size_planned"] == "32"
    assert "500 MB" in last["2"].data.tags["hdmap.reason"] and len(notes(2)) == 2, "tried again once, not more"
    assert len(runs(store)) == 7


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_grid_that_was_ended_goes_on_and_repeats_nothing(store, drive, how):
    for seed in range(6):
        order(seed, "sleep 3600" if seed > 2 else "sleep 0.5")
    process = drive(6, 3, 0, interrupt=signal.SIG_IGN if how == signal.SIGTERM else signal.SIG_DFL)
    until(lambda: len(notes(2)) == 2 and any(notes(seed) for seed in (3, 4, 5)))
    until(lambda: sum(run.info.status == "FINISHED" for run in runs(store)) == 3)
    process.send_signal(how)
    _, err = process.communicate(timeout=LONG)
    stopped = [notes(seed)[0]["pid"] for seed in (3, 4, 5) if notes(seed)]
    until(lambda: not any(map(alive, stopped)))
    if how != signal.SIGKILL:
        assert process.returncode == 130 and "To go on: hdmap grid --again" in err
        assert {run.info.status for run in runs(store)} == {"FINISHED", "KILLED"}
        assert runs(store, "grid")[0].info.status == "KILLED"
    for seed in (3, 4, 5):
        order(seed, "sleep 0.5")
    carry_out(cells(6), store, jobs=3)
    assert [len(notes(seed)) for seed in range(3)] == [2, 2, 2], "what had finished was not run again"
    assert all("end" in notes(seed)[-1] for seed in range(6))
    states = [run.info.status for run in runs(store)]
    assert states.count("FINISHED") == 6 and set(states) <= {"FINISHED", "KILLED"}
    (parent,) = runs(store, "grid")
    assert parent.info.status == "FINISHED", "the same grid run went on"


@pytest.mark.slow
def test_a_cluster_of_two_nodes_shares_the_runs(store):
    from ray.cluster_utils import Cluster

    for seed in range(6):
        order(seed, "sleep 2")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    try:
        cluster.add_node(num_cpus=2, num_gpus=2)
        carry_out(cells(6), store, ray=True, ray_address=cluster.address)
    finally:
        cluster.shutdown()
    spans = [(notes(seed)[0]["begin"], notes(seed)[1]["end"]) for seed in range(6)]
    assert overlap(spans) == 3, "one on the head, two on the other node"
    assert {notes(seed)[0]["OMP_NUM_THREADS"] for seed in range(6)} == {"1"}
    assert len({notes(seed)[0]["CUDA_VISIBLE_DEVICES"] for seed in range(6)}) == 2


@pytest.mark.slow
def test_failed_runs_wait_for_retry_and_finished_ones_for_force(store, capsys):
    order(1, "raise no luck")
    with pytest.raises(Incomplete, match="1 of 2 runs did not finish"):
        carry_out(cells(2), store, jobs=2)
    order(1, "sleep 0")
    with pytest.raises(Incomplete, match="--retry failed"):
        carry_out(cells(2), store)
    assert len(notes(1)) == 1
    driver.show_plan(cells(2), Launch(retry=frozenset({"failed"})))
    shown = capsys.readouterr().out
    assert "failed: ValueError: no luck" in shown and "1 finished, 1 to run" in shown and "Nothing was started" in shown
    carry_out(cells(2), store, retry=frozenset({"failed"}))
    assert (len(notes(0)), len(notes(1))) == (2, 3)
    carry_out(cells(1), store, force=True)
    assert len(notes(0)) == 4
    assert runs(store, "grid")[-1].info.status == "FINISHED"


def skipped(count):
    """A grid whose last run is of a model that this machine cannot run."""
    (cell,) = cells(1)
    other = cell.config.model_copy(update={"model": ModelConfig(name="winclip")})
    return [*cells(count), plan.Cell(other, {}, 0, skipped="winclip needs a package that is not installed")]


def test_a_skipped_model_is_shown_in_the_plan_and_never_run(store, capsys):
    launch = Launch(force=True)
    driver.show_plan(skipped(2), launch)
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if line.startswith("  winclip/quick/domain_A/s0")]
    assert "skipped: winclip needs a package that is not installed" in row and " run " not in row
    assert "2 to run" in shown and "1 skipped, which this machine cannot run. Nothing was started." in shown


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_end_of_a_grid_names_the_report_and_the_page_that_compare_its_runs(store, capsys, failing):
    for seed in range(failing):
        order(seed, "raise no such layer")
    try:
        carry_out(cells(2), store)
    except Incomplete:
        assert failing
    lines = capsys.readouterr().out.splitlines()
    assert ("to report on them: hdmap report --experiment hdmap" in lines) == (failing < 2), "or nothing is there"
    assert any(line.startswith("to compare runs: http") for line in lines) == (failing < 2)


@pytest.mark.parametrize("there", [False, True])
def test_a_plan_makes_neither_store_nor_experiment(tmp_path, capsys, there):
    if there:
        MlflowClient(new_store(tmp_path / "mlflow.db")).rename_experiment("1", "of another")
    before = sorted(tmp_path.iterdir())
    driver.show_plan(cells(2), Launch())
    assert "2 runs, 0 finished, 2 to run" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == before
    assert not there or [one.name for one in MlflowClient().search_experiments()] == ["of another", "Default"]


def test_a_grid_of_which_this_machine_can_run_nothing_says_so(store, capsys):
    carry_out(skipped(1)[1:], store)
    said = capsys.readouterr().out
    assert "all 0 runs are finished; 1 skipped" in said and "to compare runs" not in said


@pytest.mark.slow
def test_a_grid_is_finished_when_all_but_the_skipped_is(store, capsys):
    """The grid run is that of the grid without it, so that it goes on once the package is there."""
    carry_out(skipped(2), store, jobs=2, force=True)
    said = capsys.readouterr().out
    assert "2 of 2 runs to do" in said and "all 2 runs are finished; 1 skipped" in said
    (row,) = [line for line in said.splitlines() if "winclip/" in line]
    assert row.split()[1] == "skipped" and row.rstrip().endswith("needs a package that is not installed")
    (parent,) = runs(store, "grid")
    assert parent.info.run_name.startswith("grid/2 runs/") and "| skipped |" in parent.data.tags["mlflow.note.content"]
    carry_out(cells(2), store)
    assert len(runs(store)) == 2 and len(runs(store, "grid")) == 1


@pytest.mark.parametrize(
    ("launch", "says"),
    [
        ({"retry": frozenset({"faild"})}, "give failed"),
        ({"share": Share(gpus=0.5, idle={})}, "whole GPUs"),
        ({"jobs": -1}, "0 or more"),
        ({"jobs": 0}, "--jobs is at least 1"),
    ],
)
def test_a_launch_that_makes_no_sense_is_refused(launch, says):
    with pytest.raises(BadInput, match=says):
        Launch(**launch)
