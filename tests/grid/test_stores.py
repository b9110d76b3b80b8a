"""Many processes that write to one store at once, and the real flow in a process of its own."""

import os
from pathlib import Path

import pytest
from fakes import drain, forked, order, recorded, task
from servers import mlflow_server, postgresql

from hdmap_mlflow.execution.local import LocalExecutor
from hdmap_mlflow.execution.task import Share, Task
from hdmap_mlflow.tracking import Store

WRITERS = 8


def write_at_once(store):
    """Eight processes write runs of the same shape; nothing may be lost."""
    for seed in range(WRITERS):
        order(seed, "record")
    with LocalExecutor(store, Share(cpus=1), jobs=WRITERS) as pool:
        for seed in range(WRITERS):
            pool.submit(task(seed, store.uri).model_copy(update={"command": forked()}))
        outcomes = drain(pool)
    for seed, outcome in outcomes.items():
        assert outcome.status == "finished", outcome.text
        run = store.client.get_run(outcome.run_id)
        assert run.info.status == "FINISHED" and run.data.tags["hdmap.test"] == "yes"
        assert run.data.params["train.seed"] == str(seed)
        for name in "abcde":
            steps = [m.step for m in store.client.get_metric_history(outcome.run_id, f"epoch/{name}")]
            assert sorted(steps) == list(range(20))
        assert [file.path for file in store.client.list_artifacts(outcome.run_id)] == ["result.json"]
    assert len(outcomes) == WRITERS


@pytest.mark.slow
def test_eight_at_once_on_a_fresh_sqlite_file():
    write_at_once(Store(os.environ["MLFLOW_TRACKING_URI"], "hdmap"))


@pytest.mark.slow
def test_eight_at_once_on_a_server_with_postgresql(tmp_path):
    with postgresql() as backend, mlflow_server(backend, tmp_path / "artifacts") as uri:
        store = Store(uri, "hdmap")
        assert store.client.get_experiment(store.experiment_id).artifact_location.startswith("mlflow-artifacts:")
        write_at_once(store)
        assert len(store.runs(test="yes")) == WRITERS


HOOK = """
from hdmap_mlflow.errors import Stopped

def make(limit):
    def on_epoch(values, epoch):
        print("epoch", epoch, sorted(values))
        if epoch >= limit:
            raise Stopped(f"pruned at epoch {epoch}")
    return on_epoch
"""
RD = "data.image_size=[32,96],data.batch_size=4,train.max_epochs=5,train.early_stopping_patience=5"


@pytest.mark.slow
def test_a_hook_stops_a_real_run_and_a_wrong_plan_is_refused(maps, store, monkeypatch):
    """Through the real child: a hook that prunes at the second epoch; and data that is not that of the plan."""
    from hdmap_mlflow.runs import setup

    Path("my_hook.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    config = setup.configure("reverse_distillation", flags={"data.root": str(maps)}, overrides=RD)
    folder = Path("logs").absolute()
    hook = {
        "hook": "my_hook:make",
        "arguments": {"limit": 1},
        "kind": "trial",
        "parent": store.create("a study", {}, None),
    }
    with LocalExecutor(store, Share(), jobs=2) as pool:
        pool.submit(Task(index=0, config=config, folder=folder, **hook))
        pool.submit(Task(index=1, config=config, folder=folder, tags={"hdmap.fingerprint": "another"}))
        outcomes = drain(pool, 180)
    pruned, refused = recorded(outcomes[0].run_id), recorded(outcomes[1].run_id)
    assert outcomes[0].status == "killed" and outcomes[0].reason == "pruned at epoch 1", outcomes[0].text
    assert pruned.info.status == "KILLED" and pruned.data.tags["hdmap.kind"] == "trial"
    history = store.client.get_metric_history(outcomes[0].run_id, "epoch/val_image_AUROC")
    assert [point.step for point in history] == [0, 1]
    assert outcomes[1].status == "failed" and refused.info.status == "FAILED"
    assert "not those of the plan" in refused.data.tags["hdmap.reason"]
