"""Several launches at the same moment: a fresh store is made once, a fingerprint is run once, a study has one run."""

import os
import random
import sqlite3
from pathlib import Path

import pytest
import starts
from fakes import cells, notes, order, trial_notes
from servers import mlflow_server, postgresql

from hdmap_mlflow import tracking
from hdmap_mlflow.tracking import Store

pytestmark = pytest.mark.slow


def logs():
    return "\n".join(path.read_text() for path in sorted(Path().glob("start*.log")))


@pytest.mark.parametrize(("folder", "count"), [("", 8), ("que?st=1/%20 it's/", 3)])
def test_starts_on_a_fresh_store_at_once_are_as_many_runs(tmp_path, folder, count):
    from hdmap_mlflow import sqlite

    uri = sqlite.url(tmp_path / folder / "mlflow.db")
    assert starts.at_once(starts.record, uri, count=count) == [0] * count, logs()
    found = tracking.find_runs(uri, "hdmap")
    assert sorted(run.data.params["number"] for run in found) == [str(i) for i in range(count)]
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(run.data.tags["hdmap.process"] for run in found)
    names = {path.name for path in (tmp_path / folder).iterdir() if "start" not in path.name}
    assert names - {"que?st=1", "mlartifacts"} == {"mlflow.db", "mlflow.db.lock"}


def test_starts_on_a_fresh_database_of_a_server_are_as_many_runs():
    with postgresql() as uri:
        assert starts.at_once(starts.record, uri, count=4) == [0] * 4, logs()
        assert len(tracking.find_runs(uri, "hdmap")) == 4


@pytest.mark.parametrize("url", ["sqlite:///o.db", "journal://o.log"])
def test_eight_drivers_open_a_fresh_storage(url):
    assert starts.at_once(starts.open_study, url) == [0] * 8, logs()


@pytest.mark.parametrize("work", [starts.record, starts.open_study])
def test_a_store_whose_making_was_killed_is_made_by_the_next_start(work):
    """Killed at seeded moments after the first byte; there is a whole file or none, and the next start makes it."""
    rng, cuts = random.Random(0), 0
    for i in range(3):
        file, part = Path(f"{i}.db"), lambda i=i: list(Path().glob(f".{i}.db.*.part"))
        cuts += starts.killed(work, f"sqlite:///{file}", when=part, after=rng.uniform(0, 0.2))
        assert not file.exists() or sqlite3.connect(file).execute("SELECT * FROM alembic_version").fetchone()
        assert starts.at_once(work, f"sqlite:///{file}", count=1) == [0], logs()
        assert not part(), "what the killed one left is gone"
    assert cuts, "the kills came too late to say anything"


def once(count):
    """Every run of a grid was begun once, and finished."""
    begun = {seed: [note for note in notes(seed) if "end" not in note] for seed in range(count)}
    assert {seed: len(found) for seed, found in begun.items()} == dict.fromkeys(range(count), 1), logs()
    assert all(any("end" in note for note in notes(seed)) for seed in range(count))


def test_two_identical_grids_run_every_cell_once():
    for seed in range(6):
        order(seed, "sleep 1")
    assert starts.at_once(starts.grid, 6, 2, count=2) == [0, 0], logs()
    once(6)
    store = Store(os.environ["MLFLOW_TRACKING_URI"], "hdmap")
    assert len(store.runs(kind="run")) == 6 and len(store.runs(kind="grid")) == 1
    assert {past.status for past in store.runs()} == {"finished"}


def test_two_identical_grids_on_a_server_run_every_cell_once(tmp_path, monkeypatch):
    with mlflow_server(f"sqlite:///{tmp_path}/server.db", tmp_path / "artifacts") as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for seed in range(4):
            order(seed, "sleep 1")
        assert starts.at_once(starts.grid, 4, 2, count=2) == [0, 0], logs()
        once(4)
        assert len(Store(uri, "hdmap").runs(kind="run")) == 4


def test_what_a_dead_launch_had_claimed_is_run_by_the_next():
    order(0, "sleep 3600")
    assert starts.killed(starts.grid, 2, when=lambda: len(notes(1)) == 2, after=1), logs()
    order(0, "sleep 0.2")
    assert starts.at_once(starts.grid, 2, count=1) == [0], logs()
    store = Store(os.environ["MLFLOW_TRACKING_URI"], "hdmap")
    assert sorted(past.status for past in store.runs(kind="run", fingerprint=cells(1)[0].fingerprint)) == [
        "finished",
        "killed",
    ]
    assert len(notes(1)) == 2, "what had finished is not run again"


def test_two_drivers_of_a_fresh_study_make_one_run_of_it(maps):
    from hdmap_mlflow.tuning.request import SearchRequest
    from hdmap_mlflow.tuning.search import check

    flags = {"data.root": str(maps), "data.source_domain": "domain_A", "train.seed": 0}
    small = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
    search = check(
        SearchRequest("patchcore", "baseline", flags=flags, overrides=small, trials=4, refit_seeds="", study="s")
    )
    assert starts.at_once(starts.tune, search, count=2) == [0, 0], logs()
    store = Store(os.environ["MLFLOW_TRACKING_URI"], "hdmap")
    assert len(store.runs(kind="study")) == 1 and len(store.runs(kind="trial")) == 4
    assert len(trial_notes("begin")) == 4
