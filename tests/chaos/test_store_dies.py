"""A store that is disturbed, or dies, while a run goes on: what was computed is recorded, now or later."""

import contextlib
import json
import sqlite3
import threading
from pathlib import Path

import mlflow
import optuna
import pytest
from chaos import at
from fakes import until
from proxy import Proxy
from servers import free_port, mlflow_server, new_store
from tenacity import wait_fixed

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import NotRecorded
from hdmap_mlflow.runs import flow, setup, upload
from hdmap_mlflow.tracking import patience
from hdmap_mlflow.tracking import record as recording
from hdmap_mlflow.tracking.journal import Kept

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("store_dies")]
OWN = ("cost/",)  # of a metric: it differs from run to run


def configure(maps, folder, uri, **more):
    """A toy, fitted in a second, with figures and pictures."""
    file = folder / "toy.json"
    file.write_text(json.dumps([{"name": "toy", "config": {"image_size": [31, 95]}}]))
    settings = {"tracking.uri": uri, "tracking.output_dir": folder / "out", "tracking.heatmaps": 1} | more
    overrides = ",".join(f"{name}={value}" for name, value in settings.items())
    return setup.configure("toys:Fitted", "toy", str(file), {"data.root": str(maps)}, overrides)


def below(client, run_id, path=""):
    found = client.list_artifacts(run_id, path or None)
    return {name for one in found for name in (below(client, run_id, one.path) if one.is_dir else {one.path})}


def left(uri, run_id):
    """What a run's record holds, but for what no two runs have alike."""
    client = mlflow.MlflowClient(uri)
    run = client.get_run(run_id)
    metrics = {name: 0.0 if name.startswith(OWN) else value for name, value in run.data.metrics.items()}
    points = {name: [(p.step, p.value) for p in client.get_metric_history(run_id, name)] for name in metrics}
    return {
        "status": run.info.status,
        "name": run.info.run_name,
        "params": {name: value for name, value in run.data.params.items() if "tracking." not in name},
        "metrics": metrics,
        "points": {name: [] if name.startswith(OWN) else values for name, values in points.items()},
        "tags": set(run.data.tags) - {"hdmap.uploaded_from"},
        "inputs": {(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs},
        "artifacts": {name.partition("logs/")[0] or "log" for name in below(client, run_id)},
    }


class Server:
    """An MLflow server that can be killed, and started again with all that it held."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.backend = new_store(folder / "mlflow.db")
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
            database.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/' || experiment_id")
        self.running = None
        self.start(command=True)

    def start(self, command=False):
        self.running = mlflow_server(self.backend, self.folder / "artifacts", self.port, command)
        self.uri = self.running.__enter__()

    def kill(self):
        if self.running:
            self.running.__exit__(None, None, None)
        self.running = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def undisturbed(server, maps, tmp_path_factory):
    """The record of the run that all the others must equal."""
    done = flow.execute(configure(maps, tmp_path_factory.mktemp("calm"), server.uri), say=lambda line: None)
    return left(server.uri, done.run_id)


def quiet(_line):
    return None


def folder_of(config):
    (path,) = Path(config.tracking.output_dir).glob("*/*/record.jsonl")
    return path.parent


def last_run(uri):
    client = mlflow.MlflowClient(uri)
    return client.search_runs(["1"], order_by=["start_time DESC"], max_results=1)[0].info.run_id


def test_a_run_whose_server_is_killed_in_its_record_is_uploaded_as_it_would_have_been(
    server, undisturbed, maps, tmp_path, monkeypatch, exit_code, capfd
):
    monkeypatch.setenv("HDMAP_PATIENCE", "1")
    config = configure(maps, tmp_path, server.uri)
    at(monkeypatch, "record_run", server.kill)
    with pytest.raises(NotRecorded) as problem:
        flow.execute(config, say=quiet)
    folder = folder_of(config)
    assert f"hdmap upload {folder}" in str(problem.value) and problem.value.folder == folder
    server.start()
    run_id = last_run(server.uri)
    assert mlflow.MlflowClient(server.uri).get_run(run_id).info.status == "RUNNING"
    assert exit_code("upload", str(folder)) == 0 and f"run {run_id} is recorded" in capfd.readouterr().out
    assert left(server.uri, run_id) == undisturbed
    assert exit_code("upload", str(folder)) == 0 and "was recorded before" in capfd.readouterr().out
    assert left(server.uri, run_id) == undisturbed


FAULTS = ["resets", "is_cut", "is_unavailable", "fails", "is_html", "is_not_found", "is_late", "hangs"]


def recorded(uri, folder, disturb=lambda: None):
    """What a run would record, without the run: of every kind, a thing before and a thing after the disturbance."""
    folder.mkdir()
    (folder / "scores").mkdir()
    (folder / "figures/deep").mkdir(parents=True)
    for name in ("scores/a.parquet", "figures/one.png", "figures/deep/two.png", "model.ckpt", "run.log"):
        (folder / name).write_text(name)
    with tracking.start(uri, "hdmap", "a run", {"hdmap.kind": "run"}, folder=folder) as record:
        record.params({"a": "1"})
        record.json({"a": 1}, "config.json")
        record.metrics({"epoch/loss": 2.0}, 0)
        disturb()
        record.metrics({"epoch/loss": 1.0}, 1)
        record.dataset("A", "0123", "/data/A", "training", {})
        record.metrics({"source/image_AUROC": 0.5})
        record.artifact(folder / "scores/a.parquet", "scores")
        record.json({"a": 1}, "cards.json")
        record.note("well")
        record.checkpoint(folder / "model.ckpt", 2000)
        record.folder(folder / "figures", "figures")
        record.artifact(folder / "run.log", "logs")
    return record.run_id


@pytest.fixture(scope="module")
def calm(server, tmp_path_factory):
    """The record that all the disturbed ones must equal."""
    return left(server.uri, recorded(server.uri, tmp_path_factory.mktemp("calm") / "run"))


@pytest.fixture
def proxy(server, monkeypatch):
    """It stands before the server; what is waited for is short."""
    monkeypatch.setattr(recording, "PAUSE", 0.0)
    monkeypatch.setattr(patience, "WAIT", wait_fixed(0.1))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    with Proxy(server.uri) as one:
        yield one


@pytest.mark.parametrize("what", FAULTS)
def test_a_disturbed_server_is_waited_for(proxy, server, calm, tmp_path, what):
    """Ten requests go wrong, among them some that upload; the run goes on meanwhile, and its record is whole."""
    count = 3 if what == "hangs" else 10
    run_id = recorded(proxy.uri, tmp_path / "run", lambda: proxy.first(count, what))
    assert [how for _, _, how in proxy.seen].count(what) == count
    assert left(server.uri, run_id) == calm


@pytest.mark.parametrize("what", [what for what in FAULTS if what != "is_late"])
def test_what_a_store_did_not_take_is_uploaded_later_once(proxy, server, calm, tmp_path, monkeypatch, what):
    monkeypatch.setenv("HDMAP_PATIENCE", "0.5")
    monkeypatch.setattr(recording, "PAUSE", 9.0)
    with pytest.raises(NotRecorded, match="hdmap upload .*run"):
        recorded(proxy.uri, tmp_path / "run", lambda: proxy.during(1000, what))
    proxy.during(0, what)
    first, again = (upload.upload([tmp_path / "run"])[0] for _ in range(2))
    assert first.run_id == again.run_id and (first.before, again.before) == (False, True)
    assert left(server.uri, first.run_id) == calm


def test_an_answer_of_another_is_no_upload(proxy, server, calm, tmp_path):
    """What a proxy answers to an upload looks as if it were done: what the server has is looked at in the end."""

    def lose():
        proxy.disturb = lambda method, path: "is_html" if method == "PUT" and next(puts, None) else "passes"

    puts = iter(range(1, 4))
    assert left(server.uri, recorded(proxy.uri, tmp_path / "run", lose)) == calm
    assert [how for _, _, how in proxy.seen].count("is_html") == 3


NO_PICTURES = "tracking.heatmaps=0,tracking.figures=false"
MANY = {
    "tune": ("tune", "toys:Trained", "--condition", "quick", "--source-domain", "domain_A")
    + ("--sampler", "random", "--storage", "sqlite:///study.db", "--trials"),
    "grid": ("grid", "--models", "toys:Trained", "--conditions", "quick", "--sources", "domain_A", "--stagger", "0")
    + ("--seeds",),
}
FEW = {
    "name": "quick",
    "config": {"image_size": [31, 95], "max_epochs": 2},
    "search": {"model.rate": {"type": "float", "low": 0.01, "high": 0.2}},
}


def finished(uri, output):
    """Ids of the finished runs in the store that trained something, and of the runs that lie in folders."""
    found = mlflow.MlflowClient(uri).search_runs(["1"], "attributes.status = 'FINISHED'")
    trained = {run.info.run_id for run in found if run.data.tags.get("hdmap.kind") in ("run", "trial")}
    return trained, {Kept(path.parent).head.run_id for path in output.glob("*/*/record.jsonl")}


@pytest.mark.parametrize(("command", "last"), [("tune", True), ("tune", False), ("grid", True), ("grid", False)])
def test_what_many_runs_computed_while_the_store_was_dead_is_recorded_by_the_next_launch(
    server, maps, tmp_path, monkeypatch, exit_code, capfd, command, last
):
    """The server dies while the second run goes on, the last or not; none is computed twice, and no value is lost."""
    monkeypatch.setenv("HDMAP_PATIENCE", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    Path("quick.json").write_text(json.dumps([FEW]))
    given = {"grid": "5,6" if last else "7,8,9", "tune": "2" if last else "3"}[command]
    output = f"tracking.uri={server.uri},tracking.output_dir={tmp_path / 'out'},{NO_PICTURES}"
    common = ("--no-ray", "--jobs", "1", "--data-root", str(maps), "--condition-file", "quick.json")
    refits = ("--refit-seeds", "0" if last else "1") if command == "tune" else ()  # the server may have the others'
    words = (*MANY[command], given, *refits, *common, "--overrides", output)
    before, _ = finished(server.uri, tmp_path)

    def strike():
        until(lambda: len(list((tmp_path / "out").glob("*/*/record.jsonl"))) == 2)
        server.kill()

    killer = threading.Thread(target=strike)
    killer.start()
    code = exit_code(*words)
    killer.join()
    said = capfd.readouterr()
    assert code == 1, said
    (line,) = [line for line in said.err.splitlines() if line.startswith("hdmap: ")]
    assert "the same command" in line and ("not recorded" if last else "takes no new runs") in line
    server.start()
    assert exit_code(*words) == 0, capfd.readouterr()
    assert "recorded toys:Trained/" in capfd.readouterr().out
    recorded, computed = finished(server.uri, tmp_path / "out")
    assert recorded - before == computed
    if command == "grid":
        assert len(computed) == 2 + (not last)
    else:
        study = optuna.load_study(study_name="toys.Trained_quick_domain_A", storage="sqlite:///study.db")
        done = {t.user_attrs["run_id"]: t.value for t in study.trials if t.state.name == "COMPLETE"}
        again = 1 + (study.best_trial.number > 0)  # the baseline, and the best where that is another
        assert len(computed) == len(done) + again
        client = mlflow.MlflowClient(server.uri)
        assert len(done) == 2 + (not last)
        assert done == {one: client.get_run(one).data.metrics["val/image_AUROC"] for one in done}
