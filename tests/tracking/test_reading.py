"""What is read back of many runs: every page of a listing, what a past run was, and how one is closed from outside."""

import socket
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from servers import back, text

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.tracking import PARENT, Past, Record, Store, client

LONG = "x" * 4999 + "yz"


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
    monkeypatch.setattr(client, "MlflowClient", lambda tracking_uri: Paged(store.client, asked))
    for page in (3, 7):
        monkeypatch.setattr(client, "PAGE", page)
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
    monkeypatch.setattr(client, "PAGE", 2)
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


@pytest.mark.parametrize(
    ("began", "ended", "process", "is_twin"),
    [
        (900, None, "another host:1:1", True),
        (1100, None, "", True),
        (900, None, f"{socket.gethostname()}:0:1", False),  # killed, and nobody came to say so
        (900, 1100, f"{socket.gethostname()}:0:1", True),
        (900, 950, "", False),
    ],
)
def test_twins_are_the_runs_of_a_fingerprint_that_went_on_since_a_run_began(shared, began, ended, process, is_twin):
    def made(start, fingerprint, process=""):
        tags = {"hdmap.fingerprint": fingerprint, "hdmap.process": process}
        return shared.client.create_run(shared.experiment_id, start_time=start, tags=tags).info.run_id

    same = f"{began} {ended} {process}"
    own, other, _ = made(1000, same), made(began, same, process), made(1000, f"not {same}")
    if ended:
        shared.client.set_terminated(other, "FAILED", ended)
    assert tracking.twins(shared.client, own, same) == ({other} if is_twin else set())


def test_twins_of_a_store_that_is_away_are_none(shared):
    class Away:
        def get_run(self, run_id):
            raise MlflowException("nobody answers")

    assert tracking.twins(Away(), "run", "f") == set()


def test_a_run_is_made_for_a_child_below_its_parent(shared):
    study = shared.create("study/x", {"hdmap.kind": "study"}, None)
    run = shared.client.get_run(shared.create("name", {"hdmap.kind": "trial"}, study))
    tags = run.data.tags
    assert (run.info.run_name, run.info.status, run.info.experiment_id) == ("name", "RUNNING", shared.experiment_id)
    assert (tags["hdmap.kind"], tags["hdmap.status"], tags[PARENT]) == ("trial", "running", study)
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
    with pytest.raises(BadInput, match=f"there is no store {Path.cwd()}/none.db; "):
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
        ("RUNNING", "pruned", "KILLED", False),
        ("RUNNING", "timeout", "FAILED", False),
        ("RUNNING", "out_of_memory", "FAILED", False),
        ("FINISHED", "killed", "FINISHED", True),
        ("FAILED", "killed", "KILLED", False),
        ("KILLED", "failed", "FAILED", False),
        ("KILLED", "pruned", "KILLED", False),
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
