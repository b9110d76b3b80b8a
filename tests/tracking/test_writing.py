"""What MLflow is told of a run: values, steps, files, and how it ended."""

import contextlib
import json
import math
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from servers import back, new_store, text
from tenacity import wait_fixed

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput, Incomplete, OutOfMemory, Stopped
from hdmap_mlflow.tracking import NOTE, PARENT, Store, client, fetched, patience

LONG = "x" * 4999 + "yz"  # a letter more than MLflow takes


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


@pytest.mark.parametrize("call", ["get_run", "delete_run", "set_terminated"])
def test_an_interrupt_cuts_no_question_to_a_database(store, monkeypatch, call):
    """In the midst of it a lock of the file would be left, for which all others wait."""
    run_id, done = store.create("a run", {}, None), []

    def asked(*arguments):
        signal.raise_signal(signal.SIGINT)
        done.append(arguments)

    monkeypatch.setattr(f"mlflow.tracking.client.TrackingServiceClient.{call}", asked)
    with pytest.raises(KeyboardInterrupt):
        getattr(tracking.open_store(store.uri, "hdmap")[0], call)(run_id)
    assert done


def test_an_experiment_is_made_once_with_its_artifacts_beside_the_file(tmp_path):
    uri = new_store(tmp_path / "mlflow.db")
    client, made = tracking.open_store(uri, "mine")
    assert tracking.open_store(uri, "mine")[1] == made
    found = client.get_experiment(made)
    assert found.name == "mine" and found.artifact_location == (tmp_path / "mlartifacts").as_uri()
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert (tmp_path / "mlflow.db.lock").exists()


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
def test_a_server_that_does_not_answer_is_asked_twice_for_four_seconds(monkeypatch, ask, way_out):
    monkeypatch.setattr(tracking.client, "MlflowClient", Silent)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")  # the user's own word
    with pytest.raises(BadInput, match=r"http://nobody does not answer \(no answer 1/7 o+\); ") as problem:
        ask()
    assert way_out in str(problem.value) and "o" * 200 not in str(problem.value) and "o" * 100 in str(problem.value)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ and os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    with pytest.raises(BadInput, match="no answer 1/4"):
        ask()


@pytest.mark.parametrize(("file", "why"), [("text/mlflow.db", "is not a folder"), ("text", "no SQLite database")])
def test_a_file_that_cannot_be_a_store_is_named(file, why):
    Path("text").write_text("no database " * 100)
    with pytest.raises(BadInput, match=f"{Path.cwd()}/text.*{why}; .*change tracking.uri"):
        tracking.open_store(f"sqlite:///{file}", "hdmap")
    with pytest.raises(BadInput, match=f"{Path.cwd()}/text.*{why}; .*give --uri"):
        tracking.find_runs(f"sqlite:///{file}", "hdmap")
    assert [path.name for path in Path().iterdir()] == ["text"], "nothing is left behind"


def test_a_store_is_opened_by_one_process_at_a_time(tmp_path, monkeypatch):
    """The client itself makes the tables of a fresh file, and two that do so at once break it."""
    path = tmp_path / "new" / "folder" / "mlflow.db"
    monkeypatch.setattr(tracking.database, "make", lambda file: new_store(file))

    def client(tracking_uri):
        with pytest.raises(Timeout):
            FileLock(f"{path}.lock").acquire(timeout=0)
        raise OSError("seen")

    monkeypatch.setattr(tracking.client, "DatabaseClient", client)
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


def test_what_lies_on_this_machine_is_read_where_it_lies_and_else_fetched(record, monkeypatch, tmp_path):
    (tmp_path / "one.txt").write_text("one")
    record.artifact(tmp_path / "one.txt")
    place = back(record).info.artifact_uri
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read = tracking.artifacts(record.uri, record.run_id, "one.txt")
    assert read.as_uri() == f"{place}/one.txt" and [path.name for path in tmp_path.iterdir()] == ["one.txt"]
    fetched._scratch.cache_clear()
    monkeypatch.setattr(fetched, "is_local_uri", lambda place: False)
    first, again = (fetched.local(place, "one.txt", record.uri) for _ in range(2))
    assert first == again and first.read_text() == "one" and first.is_relative_to(tmp_path)
    fetched._scratch().cleanup()
    fetched._scratch.cache_clear()
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]


def test_a_tag_that_another_process_has_removed_is_gone(record):
    record.client.set_tag(record.run_id, "hdmap.reason", "lost")
    for _ in range(2):  # as by two drivers that go on with one study
        client.forget(record.client, record.run_id, "hdmap.reason")
    assert "hdmap.reason" not in back(record).data.tags


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
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    refuse = lambda *given: (_ for _ in ()).throw(OSError("disk\n full " + "o" * 300))  # noqa: E731
    monkeypatch.setattr(record.client, "log_artifact", refuse)
    record.checkpoint(path, 2)
    said = back(record).data.tags["hdmap.checkpoint"]
    assert said == f"not uploaded (upload failed: disk full {'o' * 190}); it is at {path}"


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_no_number_is_null_in_json_and_still_what_it_was_where_it_is_recorded(shared, tmp_path, kept):
    """Also in the file from which `hdmap upload` records."""
    folder = tmp_path if kept else None
    with tracking.start(shared.uri, "hdmap", "name", {}, folder=folder) as record:
        record.metrics({"loss": float("nan"), "rate": float("inf")})
        record.json({"a": [float("nan")], "b": {"c": float("inf")}}, "card.json")
    read = json.loads(text(record, "card.json"), parse_constant=lambda word: pytest.fail(word))
    assert read == {"a": [None], "b": {"c": None}}
    told = back(record).data.metrics
    assert math.isnan(told["loss"]) and told["rate"] > 1e300
    if folder:
        lines = (folder / "record.jsonl").read_text().splitlines()
        [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in lines]
        metrics = tracking.Kept(folder).metrics
        assert math.isnan(metrics["loss"]) and math.isinf(metrics["rate"])


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


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_why_a_run_ended_before_is_forgotten_where_it_goes_on(shared, how):
    """Of a grid or a study: an interrupt says why itself, a SIGKILL is found by the next launch."""
    with contextlib.suppress(KeyboardInterrupt), tracking.start(shared.uri, "hdmap", "grid", {}) as before:
        if how == "interrupted":
            raise KeyboardInterrupt
    if how == "killed":
        shared.client.update_run(before.run_id, status="RUNNING")
        shared.client.set_tag(before.run_id, "hdmap.process", f"{socket.gethostname()}:0:1")
        shared.close_gone()
    assert back(before).info.status == "KILLED" and back(before).data.tags["hdmap.reason"]
    with tracking.start(shared.uri, "hdmap", "grid", {}, resume=before.run_id):
        assert "hdmap.reason" not in back(before).data.tags
    assert back(before).info.status == "FINISHED" and "hdmap.reason" not in back(before).data.tags


@pytest.mark.parametrize("change", [{"status": "FINISHED"}, {"process": "another:1:1"}])
def test_a_run_that_ended_or_changed_hands_since_it_was_listed_is_not_killed(shared, monkeypatch, change):
    gone = f"{socket.gethostname()}:0:1"
    run_id = shared.create("run", {"hdmap.process": gone}, None)
    listed = [shared.client.get_run(run_id)]
    assert listed[0].info.status == "RUNNING"
    monkeypatch.setattr(client, "_running", lambda *_: listed)
    if "status" in change:
        shared.client.set_terminated(run_id, change["status"])
    else:
        shared.client.set_tag(run_id, "hdmap.process", change["process"])
    shared.close_gone()
    found = shared.client.get_run(run_id)
    assert found.info.status == change.get("status", "RUNNING") and "hdmap.reason" not in found.data.tags


@pytest.mark.parametrize(
    ("before", "after"),
    [("upset-shrike-42", "mine"), ("of my own", "of my own"), ("test-run-1", "test-run-1"), ("upset-shrike", None)],
)
def test_inside_mlflow_run_the_projects_own_run_is_written_and_keeps_the_name_that_it_was_given(
    shared, monkeypatch, before, after
):
    own = shared.create(before, {}, None)
    monkeypatch.setenv("MLFLOW_RUN_ID", own)
    with tracking.start(shared.uri, "no such experiment", "mine", {}, resume="another") as record:
        pass
    assert (
        record.run_id == own
        and back(record).info.run_name == (after or before)
        and back(record).info.status == "FINISHED"
    )
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


@pytest.mark.parametrize(("given", "seconds"), [(None, 180), ("", 180), ("2.5", 2.5), ("0", 0)])
def test_a_store_is_waited_for_as_long_as_hdmap_patience_says(monkeypatch, given, seconds):
    monkeypatch.delenv("HDMAP_PATIENCE", raising=False)
    if given is not None:
        monkeypatch.setenv("HDMAP_PATIENCE", given)
    assert patience.seconds() == seconds


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_a_store_that_is_away_is_asked_again_until_the_time_is_over(monkeypatch, seconds):
    monkeypatch.setattr(patience, "WAIT", wait_fixed(0.05))
    asked = []
    with pytest.raises(ConnectionError):
        for attempt in patience.tries(seconds):
            with attempt:
                asked.append(time.monotonic())
                raise ConnectionError("away")
    assert (len(asked) > 3) == (seconds > 0) and asked[-1] - asked[0] <= seconds


def test_data_that_two_runs_record_at_once_is_no_refusal():
    said = "(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name [SQL: INSERT INTO datasets (dataset_uuid"
    assert patience.is_away(MlflowException(said, error_code=BAD_REQUEST))
    assert patience.is_refusal(MlflowException("Changing param values is not allowed", error_code=BAD_REQUEST))


def test_a_model_is_written_without_a_list_of_every_installed_package(tmp_path, monkeypatch):
    from mlflow.utils import requirements_utils

    listed = []
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    monkeypatch.setattr("importlib_metadata.packages_distributions", lambda: listed.append(1) or {})
    script, run = tmp_path / "served.py", tmp_path / "run"
    run.mkdir()
    script.write_text("from hdmap_mlflow.tracking import model\nmodel.serve(lambda folder, trust: len)\n")
    packages = {"numpy": np.__version__, "psutil": "0.1"}
    tracking.model.write(tmp_path / "model", script, run, np.zeros((1, 4, 4), np.float32), packages)
    assert not listed and requirements_utils._MODULES_TO_PACKAGES is None, "as it was, for what the user logs"
    assert {f"numpy=={np.__version__}", "psutil==0.1"} <= set((tmp_path / "model/requirements.txt").read_text().split())
