"""A forked child is what a new interpreter would be, but for the imports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import alive, drain, until
from small import SMALL, over

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.execution import forks
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.local import LocalExecutor
from hdmap_mlflow.execution.task import Share, Task
from hdmap_mlflow.runs import setup

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("forks")]
TOY = {"toy": {"name": "toy", "config": {"image_size": [31, 95]}}}
FRESH = (sys.executable, "-m", "hdmap_mlflow.execution.child")


@pytest.fixture
def config(maps, store, tmp_path) -> RunConfig:
    (tmp_path / "toy.json").write_text(json.dumps(TOY))
    return setup.configure(
        "toys:Fitted",
        "toy",
        str(tmp_path / "toy.json"),
        {"data.root": str(maps)},
        over(SMALL, f"data.image_size=[31,95],tracking.uri={store.uri}"),
    )


def run(store, config, hooks, share=None):
    tasks = [
        Task(index=i, config=config, folder=Path("logs").absolute(), hook=hook, arguments=arguments)
        for i, (hook, arguments) in enumerate(hooks)
    ]
    with LocalExecutor(store, share or Share(cpus=1), jobs=1) as pool:
        for task in tasks:
            pool.submit(task)
        return drain(pool)


def test_a_fork_has_what_the_new_interpreter_has_that_runs_a_task_where_none_is_allowed(store, config, monkeypatch):
    monkeypatch.setenv("HDMAP_TEST", "seen")
    monkeypatch.setenv("MLFLOW_RUN_ID", "of the driver")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    note = ("hooks:note", {"file": str(Path("notes").absolute())})
    forked, again = run(store, config, [note, note]).values()
    monkeypatch.setenv("HDMAP_FORKS", "0")
    monkeypatch.setattr(forks, "Fork", None)
    fresh = run(store, config, [note])[0]
    one, two, new = (json.loads(line) for line in Path("notes").read_text().splitlines())
    assert one["parent"] == two["parent"] != new["parent"] and alive(one["parent"]), "the server stays"
    assert min(one["frozen"], two["frozen"]) > 100_000, "what the server imported is looked through for garbage"
    assert one["looks"] == two["looks"] == 50_000, "new objects are, now and then"
    for facts, outcome in ((one, forked), (two, again), (new, fresh)):
        assert outcome.status == "finished" and facts["session"] == facts["pid"] != facts["parent"]
        assert facts["stdin"] == "/dev/null" and facts["output"] == str(outcome.log) and facts["threads"] == 1
        assert facts["environment"]["MLFLOW_RUN_ID"] == outcome.run_id and "id " + outcome.run_id in outcome.text
        assert facts["environment"]["HDMAP_TEST"] == "seen" and not alive(facts["pid"])
    same = [
        {k: v for k, v in facts["environment"].items() if k not in ("MLFLOW_RUN_ID", "LC_CTYPE", "HDMAP_FORKS")}
        for facts in (one, two, new)
    ]
    assert same[0] == same[1] == same[2]
    kept = [{k: v for k, v in o.metrics.items() if not k.startswith("cost/")} for o in (forked, again, fresh)]
    assert kept[0] == kept[1] == kept[2] and "target_mean/image_AUROC" in kept[0]


def test_how_a_fork_ends_is_told_as_of_any_process(store, config):
    ended = run(store, config, [("hooks:exits", {"code": 7}), ("hooks:dies", {"signal": signal.SIGKILL})])
    assert ended[0].status == "failed" and "exit code 7" in ended[0].reason
    assert ended[1].status == "failed" and "killed by SIGKILL" in ended[1].reason


def test_a_fork_may_use_the_threads_of_its_share(store, config):
    run(store, config, [("hooks:note", {"file": str(Path("notes").absolute())})], Share(cpus=2))
    assert json.loads(Path("notes").read_text())["threads"] == 2


def test_a_fork_and_its_server_end_when_the_driver_is_gone(config, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    notes = Path("notes").absolute()
    task = Task(
        index=0, config=config, folder=Path("logs").absolute(), hook="hooks:waits", arguments={"file": str(notes)}
    )
    Path("task.json").write_text(task.model_dump_json())
    code = (
        "from hdmap_mlflow.execution.watch import *; from hdmap_mlflow.execution.task import *; "
        "list(watch(Task.model_validate_json(open('task.json').read()), Share()))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: notes.exists() and notes.read_text().endswith("\n"), seconds=60)
    facts = json.loads(notes.read_text())
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    until(lambda: not alive(facts["pid"]) and not alive(facts["parent"]), seconds=30)


def test_a_server_is_not_disturbed_by_ctrl_c_and_ends_without_its_driver(monkeypatch):
    from hdmap_mlflow.execution import preload

    with preload.undisturbed():
        signal.raise_signal(signal.SIGINT)
    preload.end_alone()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    with pytest.raises(KeyboardInterrupt):  # the runs that it forks obey it again
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit):
        preload.end_alone()


@pytest.mark.parametrize(
    ("forks_allowed", "ray", "child", "warm"),
    [("1", False, None, True), ("0", False, None, False), ("1", True, None, False), ("1", False, FRESH, False)],
    ids=["forked", "turned off", "through Ray", "a command of its own"],
)
def test_the_server_imports_beside_the_check_of_what_is_to_run(monkeypatch, forks_allowed, ray, child, warm):
    started = []
    monkeypatch.setenv("HDMAP_FORKS", forks_allowed)
    monkeypatch.setattr(forks.forkserver, "ensure_running", lambda: started.append(True))
    Launch(ray=ray, child=child).warm()
    assert bool(started) is warm
