"""What MLflow is told of a run and what is read back: values, steps, ends, and every page of a listing."""

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from servers import new_store

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput, Incomplete, OutOfMemory, Stopped
from hdmap_mlflow.tracking import NOTE, PARENT, Past, Record, Store

LONG = "x" * 4999 + "yz"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store for tests that write runs of their own and count none."""
    return Store(new_store(tmp_path_factory.mktemp("shared") / "mlflow.db"), "hdmap")


@pytest.fixture
def record(shared):
    return Record(shared.client, shared.create("a run", {}, None), shared.uri)


def back(record):
    """The run as the store has it."""
    return record.client.get_run(record.run_id)


def text(record, path):
    return tracking.artifacts(record.uri, record.run_id, path).read_text()


# ------------------------------------------------------------------------------------------------------- the store
@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, "sqlite:///{here}/mlflow.db"),
        (None, "sqlite:///v.db", "sqlite:///{here}/v.db"),
        ("sqlite:///g.db", "sqlite:///v.db", "sqlite:///{here}/g.db"),
        ("", "http://v:1", "http://v:1"),
        ("sqlite:////abs/g.db", None, "sqlite:////abs/g.db"),
        *((uri, None, uri) for uri in ("https://h/x", "postgresql://u@h/d", "mysql://u@h/d", "mssql://u@h/d")),
        ("postgresql+psycopg://u@h/d", None, "postgresql+psycopg://u@h/d"),
    ],
)
def test_a_store_is_the_given_one_then_the_environments_then_a_file_here(monkeypatch, given, variable, expected):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if variable:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert tracking.absolute_uri(given) == expected.format(here=Path.cwd())


@pytest.mark.parametrize("uri", ["mlruns", "file:///x", "ftp://h", "sqlite://x"])
def test_what_is_no_store_is_refused_with_what_is_one(uri):
    with pytest.raises(BadInput, match=f"tracking.uri={uri} is not a store; give sqlite:///FILE, http"):
        tracking.absolute_uri(uri)


def test_an_experiment_is_made_once_with_its_artifacts_beside_the_file(tmp_path):
    uri = new_store(tmp_path / "mlflow.db")
    client, made = tracking.open_store(uri, "mine")
    assert tracking.open_store(uri, "mine")[1] == made
    found = client.get_experiment(made)
    assert found.name == "mine" and found.artifact_location == (tmp_path / "mlartifacts").as_uri()
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert (tmp_path / "mlflow.db.lock").exists()
    assert tracking._artifacts("http://server") is None, "a server has a place of its own"


class Silent:
    """A client of a server that does not answer, and how patiently it was asked."""

    patience = ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT")

    def __init__(self, tracking_uri):
        self.asked = tracking_uri

    def get_experiment_by_name(self, name):
        raise MlflowException("no\n answer " + "/".join(os.environ[name] for name in self.patience) + " " + "o" * 300)

    def search_experiments(self, max_results):
        self.get_experiment_by_name("")


@pytest.mark.parametrize(
    ("ask", "way_out"),
    [
        (lambda: tracking.open_store("http://nobody", "hdmap"), "start it or change tracking.uri"),
        (lambda: tracking.find_runs("http://nobody", "hdmap"), "start it or give --uri"),
    ],
)
def test_a_server_that_does_not_answer_is_asked_twice_for_five_seconds(monkeypatch, ask, way_out):
    monkeypatch.setattr(tracking, "MlflowClient", Silent)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # the user's own word
    with pytest.raises(BadInput, match=r"http://nobody does not answer \(no answer 1/7 o+\); ") as problem:
        ask()
    assert way_out in str(problem.value) and "o" * 200 not in str(problem.value) and "o" * 100 in str(problem.value)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ and os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    with pytest.raises(BadInput, match="no answer 1/5"):
        ask()


@pytest.mark.parametrize("file", ["folder/mlflow.db", "folder"])
def test_a_file_that_cannot_be_a_store_is_named(file):
    Path("folder").write_text("no database " * 100)
    with pytest.raises(BadInput, match=f"sqlite:///{file} does not answer .*; start it or change tracking.uri"):
        tracking.open_store(f"sqlite:///{file}", "hdmap")
    if file == "folder":
        with pytest.raises(BadInput, match="sqlite:///folder does not answer .*; start it or give --uri"):
            tracking.find_runs("sqlite:///folder", "hdmap")


def test_a_store_is_opened_by_one_process_at_a_time(tmp_path, monkeypatch):
    """The client itself makes the tables of a fresh file, and two that do so at once break it."""
    path = tmp_path / "new" / "folder" / "mlflow.db"

    def client(tracking_uri):
        with pytest.raises(Timeout):
            FileLock(f"{path}.lock").acquire(timeout=0)
        raise OSError("seen")

    monkeypatch.setattr(tracking, "MlflowClient", client)
    with pytest.raises(BadInput, match="seen"):
        tracking.open_store(f"sqlite:///{path}", "hdmap")
    FileLock(f"{path}.lock").acquire(timeout=0).__exit__(None, None, None)


# --------------------------------------------------------------------------------------------------- what is written
def test_params_metrics_and_tags_are_kept_as_given_and_cut_at_the_limit(record):
    record.params({"a.b": "1", "long": LONG})
    record.metrics({"val/x": 0.25, "val/y": 2})
    record.metrics({"epoch/loss": 3.0}, 0)
    record.metrics({"epoch/loss": 0.5}, 7)
    record.tags({"hdmap.n": 5, "long": LONG})  # type: ignore[dict-item]
    data, before = back(record).data, int(time.time() * 1000)
    assert data.params == {"a.b": "1", "long": LONG[:5000]}
    assert data.metrics == {"val/x": 0.25, "val/y": 2.0, "epoch/loss": 0.5}
    assert data.tags["hdmap.n"] == "5" and data.tags["long"] == LONG[:5000]
    points = record.client.get_metric_history(record.run_id, "epoch/loss")
    assert [(point.step, point.value) for point in points] == [(0, 3.0), (7, 0.5)]
    assert all(before - 60_000 < point.timestamp <= before for point in points), "milliseconds since 1970"
    assert record.client.get_metric_history(record.run_id, "val/x")[0].step == 0


def test_more_params_than_one_request_holds_are_written_whole(record):
    record.params({f"p{i}": str(i) for i in range(101)})
    assert back(record).data.params == {f"p{i}": str(i) for i in range(101)}


def test_data_sets_descriptions_and_files_are_kept(record, tmp_path):
    record.dataset("domain_A", "0123", "/data/A", "training", {"train/good": 3})
    record.note("**well**")
    record.json({"a": [1, None]}, "sub/x.json")
    for name in ("one.txt", "in/two.txt"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_text(name)
    record.artifact(tmp_path / "f/one.txt")
    record.artifact(tmp_path / "f/one.txt", "scores.v1/deep")
    record.folder(tmp_path / "f", "figures")
    (given,) = back(record).inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest, given.dataset.source_type) == ("domain_A", "0123", "local")
    assert json.loads(given.dataset.source) == {"uri": "/data/A"}
    assert json.loads(given.dataset.profile) == {"train/good": 3}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    assert back(record).data.tags[NOTE] == "**well**"
    assert json.loads(text(record, "sub/x.json")) == {"a": [1, None]}
    assert text(record, "one.txt") == text(record, "scores.v1/deep/one.txt") == text(record, "figures/one.txt")
    assert text(record, "figures/in/two.txt") == "in/two.txt"
    for path in ("one", "figures/three.txt", "none/one.txt"):
        with pytest.raises(BadInput, match=f"run {record.run_id} keeps no {path}; "):
            tracking.artifacts(record.uri, record.run_id, path)


def test_an_upload_is_tried_three_times_and_waits_longer_each_time(record, monkeypatch, tmp_path):
    tries, waits = [], []

    def refuse(*given):
        tries.append(given)
        if len(tries) < 3 or given[2] == "never":
            raise OSError(f"full {len(tries)}")

    monkeypatch.setattr(record.client, "log_artifact", refuse)
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    record.artifact(tmp_path / "x", "scores")
    assert tries == [(record.run_id, str(tmp_path / "x"), "scores")] * 3 and waits == [1, 2]
    tries.clear()
    with pytest.raises(OSError, match="full 3"):
        record.artifact(tmp_path / "x", "never")


def test_a_checkpoint_is_uploaded_or_it_is_said_where_it_is_and_why(record, monkeypatch, tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"c" * 1_500_000)
    record.checkpoint(path, 1.5)
    assert tracking.artifacts(record.uri, record.run_id, "checkpoint/model.ckpt").read_bytes() == path.read_bytes()
    assert "hdmap.checkpoint" not in back(record).data.tags
    record.checkpoint(path, 1.4)
    said = back(record).data.tags["hdmap.checkpoint"]
    assert said == f"not uploaded (2 MB is over tracking.max_checkpoint_mb=1.4); it is at {path}"
    monkeypatch.setattr(record, "artifact", lambda *given: (_ for _ in ()).throw(OSError("disk\n full " + "o" * 300)))
    record.checkpoint(path, 2)
    said = back(record).data.tags["hdmap.checkpoint"]
    assert said == f"not uploaded (upload failed: disk full {'o' * 190}); it is at {path}"


# ------------------------------------------------------------------------------------------------- how a run ends
@pytest.mark.parametrize(
    ("raised", "status", "reason"),
    [
        (None, "FINISHED", None),
        (KeyboardInterrupt(), "KILLED", "interrupted"),
        (Stopped("pruned at epoch 3"), "KILLED", "pruned at epoch 3"),
        (BadInput("no such file"), "FAILED", "no such file"),
        (OutOfMemory("too large"), "FAILED", "too large"),
        (Incomplete("1 of 2 failed"), "FAILED", "1 of 2 failed"),
        (ZeroDivisionError("by zero"), "FAILED", "ZeroDivisionError: by zero"),
        (SystemExit(3), "FAILED", "SystemExit: 3"),
    ],
)
def test_a_run_ends_as_it_ended(shared, raised, status, reason):
    with (
        pytest.raises(type(raised)) if raised else open(os.devnull),
        tracking.start(shared.uri, "hdmap", "name", {"hdmap.kind": "run"}) as record,
    ):
        assert back(record).info.status == "RUNNING" and back(record).data.tags["hdmap.status"] == "running"
        if raised:
            raise raised
    run = back(record)
    assert (run.info.status, run.info.run_name) == (status, "name") and run.info.end_time >= run.info.start_time
    assert run.info.experiment_id == shared.experiment_id
    tags = run.data.tags
    assert tags["hdmap.status"] == status.lower() and tags["hdmap.kind"] == "run"
    assert tags.get("hdmap.reason") == reason and PARENT not in tags
    assert record.uri == shared.uri and tags["mlflow.user"], "who ran it, as MLflow's own runs say"


def test_a_run_lies_below_its_parent_and_goes_on_where_it_is_told(shared):
    with tracking.start(shared.uri, "hdmap", "child", {}, parent="study") as child:
        child.metrics({"before": 1})
    assert back(child).data.tags[PARENT] == "study"
    with tracking.start(shared.uri, "hdmap", "renamed", {"hdmap.more": "1"}, "other", resume=child.run_id) as again:
        assert back(again).info.status == "RUNNING"
    run = back(child)
    assert again.run_id == child.run_id and run.info.run_name == "renamed" and run.info.status == "FINISHED"
    assert run.data.metrics == {"before": 1.0} and run.data.tags["hdmap.more"] == "1"
    assert run.data.tags[PARENT] == "study", "it stays where it was"


def test_inside_mlflow_run_the_projects_own_run_is_written(shared, monkeypatch):
    own = shared.create("project", {}, None)
    monkeypatch.setenv("MLFLOW_RUN_ID", own)
    with tracking.start(shared.uri, "no such experiment", "mine", {}, resume="another") as record:
        pass
    assert record.run_id == own and back(record).info.run_name == "mine" and back(record).info.status == "FINISHED"
    assert shared.client.get_experiment_by_name("no such experiment") is None
    elsewhere = Store(shared.uri, "elsewhere")
    assert elsewhere.experiment_id == shared.experiment_id, "mlflow run chose it"
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    assert tracking.project_run() is None


def test_a_project_run_that_never_began_is_marked_as_failed_and_one_that_ended_is_left(shared, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared.uri)
    tracking.fail_project_run("outside: nothing happens")
    for status, after, reason in (("", "FAILED", "no maps"), ("finished", "FINISHED", None), ("killed", "KILLED", "x")):
        run_id = shared.create("project", {}, None)
        if status:
            shared.close(run_id, status, "x" if status == "killed" else "")
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        tracking.fail_project_run("no maps")
        run = shared.client.get_run(run_id)
        assert run.info.status == after and run.data.tags.get("hdmap.reason") == reason


# --------------------------------------------------------------------------------------------------------- read back
def test_every_page_of_a_listing_is_read_in_order_and_no_run_twice(store, monkeypatch):
    """Seven runs, three a page; more experiments than a page in the line that names them."""
    made = []
    for i in range(7):
        tags = {"hdmap.kind": "run" if i != 4 else "trial"}
        run = store.client.create_run(store.experiment_id, start_time=1000 + i, run_name=f"r{i}", tags=tags)
        made.append(run.info.run_id)
        if i not in (0, 6):
            store.client.set_terminated(run.info.run_id, "FINISHED" if i != 3 else "FAILED")
    expected = made[::-1]
    asked = []
    monkeypatch.setattr(store, "client", Paged(store.client, asked))
    monkeypatch.setattr(tracking, "MlflowClient", lambda tracking_uri: Paged(store.client, asked))
    for page in (3, 7):
        monkeypatch.setattr(tracking, "PAGE", page)
        assert [run.info.run_id for run in tracking.find_runs(store.uri, "hdmap")] == expected
        assert [past.run_id for past in store.runs()] == expected
        assert [past.run_id for past in store.runs(kind="run")] == [run for run in expected if run != made[4]]
    assert set(asked) == {3, 7}
    asked.clear()
    assert [past.name for past in store.runs(newest=2)] == ["r5", "r4"], "of those that finished"
    assert asked == [2], "and no more are asked for"
    assert [past.name for past in store.runs(newest=9, kind="run")] == ["r5", "r2", "r1"]
    for name in "bcd":
        store.client.create_experiment(name)
    monkeypatch.setattr(tracking, "PAGE", 2)
    with pytest.raises(BadInput, match="no experiment 'x' in sqlite:.*; there are: d, c, b, .*hdmap.*; give --exp"):
        tracking.find_runs(store.uri, "x")


class Paged:
    """A client that notes how many entries it was asked for at once."""

    def __init__(self, client, asked):
        self.client, self.asked = client, asked

    def __getattr__(self, name):
        return getattr(self.client, name)

    def search_runs(self, *given, **named):
        self.asked.append(named["max_results"])
        return self.client.search_runs(*given, **named)


@pytest.mark.parametrize("value", ["it's", 'a"b', "plain", "100 %", "back\\slash"])
def test_runs_are_found_by_any_word_in_a_tag(shared, value):
    run_id = shared.create("r", {"hdmap.word": value, "hdmap.other": "1"}, None)
    shared.create("r", {"hdmap.word": value, "hdmap.other": "2"}, None)
    assert [past.run_id for past in shared.runs(word=value, other="1")] == [run_id]


def test_only_this_experiments_runs_are_found(shared):
    other = Store(shared.uri, "other experiment")
    run_id = other.create("r", {"hdmap.word": "w"}, None)
    assert shared.runs(word="w") == [] and [past.run_id for past in other.runs()] == [run_id]
    assert [run.info.run_id for run in tracking.find_runs(shared.uri, "other experiment")] == [run_id]


def test_a_past_run_has_its_status_fingerprints_process_reason_time_and_memory(shared):
    tags = {"hdmap.fingerprint": "f", "hdmap.planned": "p", "hdmap.process": "host:1:2", "hdmap.word": "past"}
    run = shared.client.create_run(shared.experiment_id, start_time=10_000, tags=tags, run_name="n")
    record = Record(shared.client, run.info.run_id, shared.uri)
    record.metrics({"cost/fit_peak_MB": 70, "cost/evaluate_peak_MB": 50, "cost/fit_seconds": 99, "val/x_peak_MB": 999})
    unfinished = {"run_id": run.info.run_id, "name": "n", "process": "host:1:2", "fingerprints": frozenset({"f", "p"})}
    assert shared.runs(word="past") == [Past(**unfinished, status="running", reason="", seconds=0.0, peak_mb=70.0)]
    record.tags({"hdmap.reason": "why"})
    shared.client.set_terminated(run.info.run_id, "KILLED", 12_500)
    assert shared.runs(word="past") == [Past(**unfinished, status="killed", reason="why", seconds=2.5, peak_mb=70.0)]
    bare = shared.create("bare", {"hdmap.word": "bare"}, None)
    assert shared.runs(word="bare") == [Past(bare, "bare", "running", frozenset(), "", "", 0.0, 0.0)]


def test_a_run_is_made_for_a_child_below_its_parent(shared):
    run = shared.client.get_run(shared.create("name", {"hdmap.kind": "trial"}, "study"))
    tags = run.data.tags
    assert (run.info.run_name, run.info.status, run.info.experiment_id) == ("name", "RUNNING", shared.experiment_id)
    assert (tags["hdmap.kind"], tags["hdmap.status"], tags[PARENT]) == ("trial", "running", "study")
    assert tags["mlflow.user"]
    assert PARENT not in shared.client.get_run(shared.create("name", {}, None)).data.tags


def test_unknown_and_deleted_runs_are_not_there(shared):
    run_id = shared.create("r", {}, None)
    assert shared.has(run_id) is True and not shared.has("unknown") and not shared.has("")
    assert tracking.get_run(shared.uri, run_id).info.run_id == run_id
    shared.client.delete_run(run_id)
    assert not shared.has(run_id) and shared.metrics("unknown") is None
    with pytest.raises(BadInput, match="no run unknown in sqlite:"):
        tracking.get_run(shared.uri, "unknown")
    with pytest.raises(BadInput, match="there is no store none.db; "):
        tracking.get_run("sqlite:///none.db", run_id)
    assert not Path("none.db").exists()


def test_metrics_are_those_of_a_run_that_finished_only(shared, record):
    record.metrics({"val/x": 0.5})
    assert shared.metrics(record.run_id) is None
    record.end("FAILED")
    assert shared.metrics(record.run_id) is None
    record.end("FINISHED")
    assert shared.metrics(record.run_id) == {"val/x": 0.5}


def test_the_best_of_many_is_named_so_and_loses_the_name_again(shared, record):
    shared.mark_best(record.run_id, False)
    assert "hdmap.best" not in back(record).data.tags, "nothing changes"
    for best, name in ((True, "best: a run"), (True, "best: a run"), (False, "a run")):
        shared.mark_best(record.run_id, best)
        assert back(record).info.run_name == name and back(record).data.tags["hdmap.best"] == str(best).lower()


@pytest.mark.parametrize(
    ("before", "status", "after", "finished"),
    [
        ("RUNNING", "finished", "FINISHED", True),
        ("RUNNING", "failed", "FAILED", False),
        ("RUNNING", "killed", "KILLED", False),
        ("RUNNING", "timeout", "FAILED", False),
        ("RUNNING", "out_of_memory", "FAILED", False),
        ("FINISHED", "killed", "FINISHED", True),
        ("FAILED", "killed", "KILLED", False),
        ("KILLED", "failed", "FAILED", False),
        ("FAILED", "failed", "FAILED", False),
    ],
)
def test_a_run_whose_process_is_gone_is_closed_as_what_became_of_it(shared, before, status, after, finished):
    record = Record(shared.client, shared.create("r", {}, None), shared.uri)
    if before != "RUNNING":
        record.end(before, "said by itself" if before != "FINISHED" else "")
    assert shared.close(record.run_id, status, "because", "z" + LONG[:4999] + "!") is finished
    run, kept = back(record), after == before and before != "RUNNING"
    assert run.info.status == after and run.data.tags["hdmap.status"] == after.lower()
    own = None if before == "FINISHED" else "said by itself"
    assert run.data.tags.get("hdmap.reason") == (own if kept else "because")
    told = before != "FINISHED" and status != "finished"
    assert run.data.tags.get("hdmap.log_tail") == (LONG[:4999] + "!" if told else None)
    assert bool(shared.client.list_artifacts(record.run_id, "logs")) == told
    if told:
        assert text(record, "logs/output.log") == "z" + LONG[:4999] + "!"


def test_something_is_added_to_a_finished_run_and_a_store_is_shown(shared, record):
    record.end("FINISHED")
    tracking.reopen(shared.uri, record.run_id).metrics({"late": 1})
    assert back(record).data.metrics == {"late": 1.0} and back(record).info.status == "FINISHED"
    assert tracking.reopen(shared.uri, record.run_id).uri == shared.uri
    assert tracking.ui_command("http://h:1") == "open http://h:1"
    assert tracking.ui_command("sqlite:////a/m.db") == "mlflow ui --backend-store-uri sqlite:////a/m.db"
