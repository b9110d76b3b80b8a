"""A run in a process of its own: how it ends is what MLflow says, and nothing outlives its watcher."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import joblib
import psutil
import pytest
from fakes import alive, drain, notes, order, recorded, task, until
from pydantic import ValidationError

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput, OutOfMemory, Pruned, Stopped, Unreachable
from hdmap_mlflow.execution import child, watch
from hdmap_mlflow.execution.gpus import Idle
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.local import LocalExecutor
from hdmap_mlflow.execution.ray import RayExecutor
from hdmap_mlflow.execution.slots import fit, this_machine
from hdmap_mlflow.execution.task import Outcome, Share
from hdmap_mlflow.process import is_gone, process_name
from hdmap_mlflow.runs import flow


@pytest.mark.slow
def test_each_run_fails_alone_with_its_reason_and_its_log_in_mlflow(store, monkeypatch):
    """Four children: one finishes, one raises, one is killed, one does not hear SIGTERM and takes too long."""
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.5)
    monkeypatch.setenv("MLFLOW_RUN_ID", "the run of mlflow run")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    for seed, text in {1: "raise no such layer", 2: "die", 3: "deaf"}.items():
        order(seed, text)
    parent = store.create("a grid", {}, None)
    with LocalExecutor(store, Share(timeout=4, cpus=3), jobs=4) as pool:
        for seed in range(4):
            pool.submit(task(seed, tags={"hdmap.model": "patchcore"}, parent=parent))
        outcomes = drain(pool)
    assert [outcomes[i].status for i in range(4)] == ["finished", "failed", "failed", "timeout"]
    runs = [recorded(outcomes[i].run_id) for i in range(4)]
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "FAILED", "FAILED"]
    for run, reason in zip(runs[1:], ("ValueError: no such layer", "SIGKILL", "--run-timeout"), strict=True):
        assert reason in run.data.tags["hdmap.reason"]
        assert "line of the log" in run.data.tags["hdmap.log_tail"]
        log = tracking.artifacts(tracking.absolute_uri(None), run.info.run_id, "logs/output.log")
        assert "line of the log" in log.read_text()
    assert "Traceback" in outcomes[1].text
    assert runs[0].data.tags["mlflow.parentRunId"] == parent and outcomes[0].result["seed"] == "0"
    (note, _) = notes(0)
    assert note["MLFLOW_RUN_ID"] == runs[0].info.run_id and note["MLFLOW_EXPERIMENT_ID"] is None
    assert note["OMP_NUM_THREADS"] == "3"
    assert not any(alive(notes(seed)[0]["pid"]) for seed in range(4))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Stopped("pruned by hand"), "killed", 130),
        (Pruned("worse than the others"), "pruned", 130),
        (KeyboardInterrupt(), "killed", 130),
        (OutOfMemory("too large"), "out_of_memory", 1),
        (BadInput("no such layer"), "failed", 1),
        (Unreachable("no hub"), "failed", 1),
        (ZeroDivisionError("a bug"), "failed", 1),
    ],
)
def test_a_child_tells_how_its_run_ended_by_a_status_and_not_by_words(tmp_path, monkeypatch, error, status, code):
    def flow(_):
        raise error

    monkeypatch.setenv("HDMAP_WATCHER", str(os.getppid()))
    monkeypatch.setattr(child, "_end_with", lambda watcher: None)
    file = tmp_path / "task.json"
    file.write_text(task().model_dump_json())
    assert child.main(str(file), flow) == code
    told = Outcome.model_validate_json((tmp_path / "outcome.json").read_text())
    assert told.status == status and told.bug == isinstance(error, ZeroDivisionError | Unreachable)
    assert told.reason.endswith(str(error)) and sorted(path.name for path in tmp_path.glob("*.json")) == [
        "outcome.json",
        "task.json",
    ]


def test_a_child_that_was_interrupted_was_so_whatever_was_made_of_it(tmp_path, monkeypatch):
    """As where a file is read: what is cut short looks damaged."""

    def cut(*_given, **_more):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise BadInput("the file is damaged")

    monkeypatch.setenv("HDMAP_WATCHER", str(os.getppid()))
    monkeypatch.setattr(child, "_end_with", lambda watcher: None)
    monkeypatch.setattr(flow, "execute", cut)
    monkeypatch.setattr(tracking, "fail_project_run", pytest.fail)
    file = tmp_path / "task.json"
    file.write_text(task().model_dump_json())
    assert child.main(str(file)) == 130
    told = Outcome.model_validate_json((tmp_path / "outcome.json").read_text())
    assert (told.status, told.reason) == ("killed", "interrupted")


@pytest.mark.slow
def test_a_run_over_its_memory_limit_is_stopped_and_says_so(store):
    order(0, "eat 0")
    with LocalExecutor(store, Share(memory_mb=500)) as pool:
        pool.submit(task(0))
        outcome = drain(pool)[0]
    assert outcome.status == "out_of_memory" and "500 MB" in outcome.reason
    assert recorded(outcome.run_id).info.status == "FAILED"


@pytest.mark.slow
def test_runs_are_in_order_and_no_more_than_asked_for(store):
    for seed in range(3):
        order(seed, "sleep 0.1")
    with LocalExecutor(store, Share(), jobs=1, stagger=0.2) as pool:
        for seed in (2, 0, 1):
            pool.submit(task(seed))
        drain(pool)
    spans = [(notes(seed)[0]["begin"], notes(seed)[1]["end"]) for seed in (2, 0, 1)]
    assert spans == sorted(spans) and all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_cancelled_runs_are_killed_and_waiting_ones_never_start(store):
    order(0, "sleep 60")
    with LocalExecutor(store, Share(), jobs=1) as pool:
        pool.submit(task(0))
        pool.submit(task(1))
        until(lambda: pool.wait(0.1) and notes(0) or notes(0))
        (outcome,) = (event for event in pool.cancel_all() if isinstance(event, Outcome))
    assert outcome.status == "killed" and recorded(outcome.run_id).info.status == "KILLED"
    assert not alive(notes(0)[0]["pid"]) and not notes(1)


@pytest.mark.slow
def test_a_child_ends_when_its_watcher_is_gone():
    order(0, "sleep 60")
    Path("task.json").write_text(task(0).model_dump_json())
    code = (
        "from hdmap_mlflow.execution.watch import *; from hdmap_mlflow.execution.task import *; "
        "list(watch(Task.model_validate_json(open('task.json').read()), Share()))"
    )
    watcher = subprocess.Popen([sys.executable, "-c", code])
    child = until(lambda: notes(0))[0]["pid"]
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    until(lambda: not alive(child), seconds=10)


def test_a_process_is_told_from_a_later_one_of_the_same_number():
    me = process_name()
    assert not is_gone(me)
    assert is_gone(me.rpartition(":")[0] + ":1")
    assert not is_gone("another-host:1:1"), "nothing is known of other hosts"
    done = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = process_name(done.pid)
    assert not is_gone(name)
    done.communicate()
    assert is_gone(name)


GPU_NODE = {"CPU": 32.0, "GPU": 4.0, "memory": 64e9}
PLAIN_NODE = {"CPU": 8.0, "memory": 16e9}


@pytest.mark.parametrize(
    ("share", "jobs", "nodes", "cpus", "gpus", "at_once"),
    [
        (Share(), None, [GPU_NODE], 8, 1, 4),
        (Share(gpus=0.5), None, [GPU_NODE], 4, 0.5, 8),
        (Share(), None, [GPU_NODE, GPU_NODE], 8, 1, 8),
        (Share(), 2, [GPU_NODE], 16, 1, 2),
        (Share(), None, [GPU_NODE, PLAIN_NODE], 8, 1, 4),
        (Share(), None, [PLAIN_NODE], 1, 0, 5),  # 3 GB a run
        (Share(memory_mb=8000), None, [PLAIN_NODE], 4, 0, 2),
        (Share(), 2, [PLAIN_NODE], 4, 0, 2),
        (Share(), 16, [PLAIN_NODE], 0.5, 0, 16),
        (Share(cpus=4), None, [PLAIN_NODE], 4, 0, 2),
    ],
)
def test_what_is_left_open_is_divided_evenly(share, jobs, nodes, cpus, gpus, at_once):
    found, held = fit(share, jobs, nodes)
    assert (found.cpus, found.gpus, held) == (cpus, gpus, at_once)


@pytest.mark.parametrize("limit", ["cpus", "memory_mb", "timeout"])
def test_no_limit_is_none_and_never_zero(limit):
    assert getattr(Share(), limit) is None
    with pytest.raises(ValidationError, match=f"{limit}\n  Input should be greater than 0"):
        Share(**{limit: 0})


def test_what_a_machine_holds_is_what_this_process_may_use():
    here = this_machine()
    assert here["CPU"] == joblib.cpu_count() and 1e8 < here["memory"] < psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("launch", "gpu", "through"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"ray": False}, True, False),
        ({"ray": True}, False, True),
        ({"ray_address": "auto"}, False, True),
        ({"devices": 2}, False, True),
        ({"share": Share(gpus=1)}, False, True),
        ({"share": Share(gpus=0)}, False, False),
    ],
)
def test_runs_go_through_ray_where_there_is_something_to_share_out(launch, gpu, through, store, monkeypatch):
    monkeypatch.setattr("hdmap_mlflow.execution.launch.present", lambda: gpu)
    found = Launch(**launch)
    assert found.through_ray is through
    if not through:
        monkeypatch.setattr("hdmap_mlflow.execution.launch.this_machine", lambda: {"CPU": 8.0, "memory": 13e9})
        with found.executor(store) as pool:
            assert isinstance(pool, LocalExecutor) and pool.stagger == 0
            assert (pool.at_once, pool.share.cpus) == ((1, os.cpu_count()) if found.ray is False else (4, 2))


def test_a_share_that_no_node_holds_is_refused():
    with pytest.raises(BadInput, match="no node holds a run of 16 CPUs"):
        fit(Share(cpus=16), None, [PLAIN_NODE, PLAIN_NODE])


def test_without_ray_the_way_out_is_named(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install 'hdmap_mlflow\[grid\]', or .* --no-ray"):
        RayExecutor(store, Share())


@pytest.mark.slow
def test_ray_starts_and_ends_without_a_word(store, capfd):
    """Of its token, its dashboard or its logs: none of it is of use to who started a grid."""
    with RayExecutor(store, Share(cpus=1)) as pool:
        assert pool.at_once
    assert capfd.readouterr() == ("", "")


def test_a_run_waits_for_its_gpu_and_gives_up_in_time(store, monkeypatch):
    from hdmap_mlflow.execution import gpus

    busy = gpus.Gpu(0, "GPU-aa", "fake", 55, 9000, 16000, 1)
    seen = [[busy], [busy], []]
    monkeypatch.setattr(gpus, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(gpus, "inspect", lambda: seen.pop(0) if seen else [])
    gpus.wait_until_idle(Idle(), say=(lines := []).append)
    assert seen == [] and lines == ["waiting until GPU 0 (55 %, 9,000 MB) is idle"], "once"
    moments = iter(range(0, 10**6, 10**4))
    monkeypatch.setattr(gpus, "time", types.SimpleNamespace(monotonic=lambda: next(moments), sleep=lambda _: None))
    seen[:] = [[busy]] * 40
    gpus.wait_until_idle(Idle())
    assert seen == [], "for days, where nobody says how long"
    monkeypatch.setattr(gpus, "time", time)
    monkeypatch.setattr(gpus, "inspect", lambda: [busy])
    with LocalExecutor(store, Share(idle=Idle(max_wait=0.1))) as pool:
        pool.submit(task(0))
        outcome = drain(pool)[0]
    assert outcome.status == "failed" and "GPU 0 (55 %, 9,000 MB) not idle" in outcome.reason and not notes(0)
    assert "waiting until GPU 0" in outcome.text
    gpus.wait_until_idle(Idle(utilisation=60, memory_mb=10_000))


def test_the_gpus_are_read_through_nvml_and_shown(monkeypatch, capsys):
    """A stand-in for NVML with an idle and a busy GPU; without a driver there is none."""
    from hdmap_mlflow.__main__ import app

    class Error(Exception):
        pass

    nvml = types.SimpleNamespace(
        NVMLError=Error,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: types.SimpleNamespace(used=[1e8, 9e9][index], total=16e9),
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
        nvmlDeviceGetName=lambda index: "Tesla",
        nvmlDeviceGetUtilizationRates=lambda index: types.SimpleNamespace(gpu=[0, 97][index]),
        nvmlDeviceGetComputeRunningProcesses=lambda index: [1] * index,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert app(["gpus"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 GPUs idle" in shown and "97 %" in shown and "9,000 of 16,000" in shown
    assert app(["gpus", "--idle-memory", "50"]) == 1
    monkeypatch.setattr(nvml, "nvmlInit", lambda: (_ for _ in ()).throw(Error()))
    capsys.readouterr()
    assert app(["gpus"]) == 1 and "no NVIDIA GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seen", "count", "amd", "there"),
    [
        (None, 2, False, True),
        (None, 0, False, False),
        ("", 2, False, False),
        ("-1", 2, True, False),
        ("1", 2, False, True),
        (None, None, False, False),
        (None, None, True, True),
    ],
)
def test_a_gpu_is_there_that_is_not_hidden_and_it_is_asked_nothing(seen, count, amd, there, monkeypatch):
    """`count` None: there is no driver of NVIDIA's."""
    from hdmap_mlflow.execution import gpus

    class Error(Exception):
        pass

    def start():
        if count is None:
            raise Error

    nvml = types.SimpleNamespace(
        NVMLError=Error, nvmlInit=start, nvmlShutdown=lambda: None, nvmlDeviceGetCount=lambda: count
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(gpus, "Path", lambda name: types.SimpleNamespace(exists=lambda: amd and name == "/dev/kfd"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert gpus.present() is there


def test_only_the_visible_gpus_count(monkeypatch):
    from hdmap_mlflow.execution import gpus

    found = [gpus.Gpu(i, f"GPU-{i}{i}", "fake", 0, 0, 1, 0) for i in range(3)]
    monkeypatch.setattr(gpus, "inspect", lambda: found)
    for value, wanted in (("0,2", [0, 2]), ("GPU-11", [1]), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert [gpu.index for gpu in gpus.visible()] == wanted
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(gpus.visible()) == 3
