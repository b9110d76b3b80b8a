"""The saved views of an experiment, as they are written and as a browser shows them."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from servers import back, free_port, new_store

from hdmap_mlflow.tracking import STUDIES, invitation, server, views

METRICS = {"source/image_AUROC": 0.9, "target_mean/image_AUROC": 0.7, "target_worst/image_AUROC": 0.6}


def finish(store, name, targets=(), **tags):
    """A finished run of the store with an AUROC for each target."""
    from hdmap_mlflow.tracking import Record

    record = Record(store.client, store.create(name, {"hdmap.kind": "run"} | tags, None), store.uri)
    record.metrics(METRICS | {f"target/{target}/image_AUROC": 0.6 for target in targets})
    record.end("FINISHED")
    return record


def saved(store, view="hdmap-runs"):
    """The state that a view was saved with."""
    tag = json.loads(store.client.get_experiment(store.experiment_id).tags[f"mlflow.sharedViewState.{view}"])
    return tag, json.loads(zlib.decompress(base64.b64decode(tag["state"].removeprefix("deflate;"))))


def columns(store, view="hdmap-runs"):
    return [column.strip("`").partition("`")[2] for column in saved(store, view)[1]["selectedColumns"]]


def test_a_new_domain_adds_its_column_and_an_old_one_stays(store):
    first = finish(store, "a", ["B", "C"])
    line = invitation(store.uri, first.run_id)
    assert line.startswith(f"to compare runs: http://127.0.0.1:5000/#/experiments/{store.experiment_id}/runs?")
    assert line.endswith("viewStateShareKey=hdmap-models (served by: hdmap ui)")
    made = saved(store)[0]
    store.client.delete_run(first.run_id)
    assert STUDIES in invitation(store.uri, finish(store, "b", ["D"]).run_id, STUDIES)
    found = columns(store)
    assert [f"target/{name}/image_AUROC" in found for name in "BCDE"] == [True, True, True, False]
    assert found.index("source/image_AUROC") < found.index("target/B/image_AUROC") < found.index("transfer/gap")
    again = saved(store)[0]
    assert again["createdAt"] == made["createdAt"] and again["updatedAt"] > made["updatedAt"]
    assert "target/B/image_AUROC" not in columns(store, STUDIES)


def test_a_view_of_adapted_runs_is_there_where_some_were_adapted_the_fewest_maps_first(store):
    first = finish(store, "a", ["B"])
    invitation(store.uri, first.run_id)
    assert "mlflow.sharedViewState.hdmap-adapted" not in store.client.get_experiment(store.experiment_id).tags
    ways = [f"adapted/{way}/target_mean" for way in ("z/k4", "merge-z/k16", "z/k64")]
    first.metrics({f"{way}/{name}": 0.5 for way in ways for name in ("image_AUROC", "FPR_at_normal_q99", "image_AP")})
    first.metrics({"adapted/z/k4/target/B/image_AUROC": 0.5})
    invitation(store.uri, first.run_id)
    shown = [name for name in columns(store, "hdmap-adapted") if "/" in name]
    assert shown == [
        "source/image_AUROC",
        *(f"{scope}/{name}" for scope in ("target_mean", *ways) for name in ("image_AUROC", "FPR_at_normal_q99")),
    ]
    assert "adapted/z/k4/target_mean/image_AUROC" not in columns(store), "the other views stay as they were"


def test_seeds_are_averaged_within_what_must_not_be_mixed(store):
    invitation(store.uri, finish(store, "a", ["B"]).run_id)
    groups = [group["groupByData"] for group in saved(store, "hdmap-models")[1]["groupBy"]["groupByKeys"]]
    assert groups == [f"hdmap.{name}" for name in ("model", "condition", "source", "validation", "data_digest")]
    assert saved(store)[1]["groupBy"] is None


def test_a_run_of_a_grid_says_the_name_of_the_grid(store):
    grid = finish(store, "grid/2 runs/abc")
    child = store.client.get_run(store.create("a child", {}, grid.run_id))
    assert child.data.tags["hdmap.part_of"] == "grid/2 runs/abc"
    assert "hdmap.part_of" not in back(grid).data.tags


def test_a_store_that_needs_naming_is_named():
    assert views.ui_command("sqlite:////a/m.db") == "hdmap ui --uri sqlite:////a/m.db"


def test_a_command_that_has_done_its_work_does_not_fail_for_want_of_a_view(store, monkeypatch):
    run_id = finish(store, "a", ["B"]).run_id

    def refuses(*given):
        raise MlflowException("read only")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuses)
    assert invitation(store.uri, run_id).startswith("to compare runs: hdmap ui (the store did not take the views: read")


def test_an_address_shows_no_password():
    assert "secret" not in views.link("http://me:secret@host:1/", "7")


@pytest.mark.slow
def test_the_page_that_hdmap_ui_serves_has_the_columns_without_a_click(store):
    selenium = pytest.importorskip("selenium.webdriver")
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not browser:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    finish(store, "toy/quick/A/s0", ["B"], **{"hdmap.model": "toy", "hdmap.source": "A"})
    port = str(free_port())
    command = [sys.executable, "-m", "hdmap_mlflow", "ui", "--port", port]
    ui = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    options = selenium.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=2400,1000"):
        options.add_argument(flag)
    try:
        address = ui.stdout.readline().rpartition(" ")[2].strip()
        assert f":{port}/" in address
        page = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
        try:
            page.get(address.replace("hdmap-models", "hdmap-runs"))
            needed = ("hdmap.model", "hdmap.source", "source/image_AUROC", "toy/quick/A/s0", "hdmap: every run")
            deadline = time.time() + 90
            while not all(word in page.page_source for word in needed) and time.time() < deadline:
                time.sleep(0.5)
            text = page.page_source
            assert [word for word in needed if word not in text] == []
        finally:
            page.quit()
        again = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert again.stdout.rpartition(" ")[2].strip() == address, "a server that answers is not started twice"
        with pytest.raises(Exception, match="not with this store"), server.shown(other(), "hdmap", int(port)):
            pass
    finally:
        ui.send_signal(2)
        assert ui.wait(60) == 130


def other():
    """URI of another store with an experiment of the same name."""
    folder = Path("other")
    folder.mkdir()
    uri = new_store(folder.absolute() / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("UPDATE experiments SET creation_time = 1 WHERE name = 'hdmap'")
    return uri
