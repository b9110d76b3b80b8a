"""A watch scores every new map once, whatever interrupts it, and MLflow has what its log has."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from lab import SOURCE, TARGETS, execute, write
from mlflow.exceptions import MlflowException
from scipy.stats import wasserstein_distance
from servers import new_store

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import promote, watch
from hdmap_mlflow.runs.export import export
from hdmap_mlflow.runs.watch import Log, Request
from hdmap_mlflow.tracking.journal import Entry

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("watch")]  # the run is made once


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def one(lab, quick_disk):
    folder = quick_disk / "run"
    folder.mkdir()
    flags = {"data.target_domains": [TARGETS[0]]}
    return execute(lab, folder, "toy_model:Toy", "toy", "source_holdout", "data.batch_size=8", **flags)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def look(one, folder, tmp_path):
    """Watches for a look or more with a log of the test's own; the log, the MLflow run, and what was said."""
    for past in tracking.Store(one.finished.uri, "hdmap").runs(kind="watch"):
        one.client.delete_run(past.run_id)

    def watching(looks=1, **more):
        said, request = [], Request(one.finished.run_id, folder, trust_model=True, out=tmp_path / "log", every=0.01)
        request = Request(**{**vars(request), **more})
        log = watch.watch(one.finished.uri, request, said.append, looks)
        (past,) = tracking.Store(one.finished.uri, "hdmap").runs(kind="watch")
        return log, one.client.get_run(past.run_id), said

    return watching


def give(lab, folder, count=None, seconds=1000, role="test/fault"):
    """Maps of the target as they would have come, one every 10 s until `seconds` ago."""
    sources = sorted((lab / TARGETS[0] / role).glob("*"))[:count]
    for i, source in enumerate(sources):
        path = folder / f"{role.rpartition('/')[2]}_{source.name}"
        shutil.copyfile(source, path)
        age(path, seconds + 10 * (len(sources) - i))
    return sources


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def history(one, run, name):
    points = one.client.get_metric_history(run.info.run_id, f"watch/{name}")
    return {point.step: point.value for point in points}, len(points)


def test_a_map_scores_as_in_the_run_and_its_row_says_whether_it_is_above(one, lab, folder, look):
    sources = give(lab, folder)
    log, run, said = look()
    stored = one.kept[TARGETS[0]].set_index("path")["score"]
    expected = [stored[source.relative_to(lab / TARGETS[0]).as_posix()] for source in sources]
    assert log["score"].tolist() == expected, "in the order of their times"
    threshold = one.found.data.metrics["val/threshold_normal_q99"]
    assert (log["threshold"] == threshold).all() and log["above"].tolist() == [s >= threshold for s in expected]
    above = log["above"].tolist()
    assert log["alarm"].tolist() == [sum(above[max(0, i - 4) : i + 1]) >= 3 for i in range(len(above))]
    begins = log["alarm"] & ~log["alarm"].shift(1, fill_value=False)
    assert sum(line.startswith("ALARM") for line in said) == begins.sum() > 0
    assert run.info.status == "FINISHED" and run.data.tags["hdmap.watched"] == one.finished.run_id
    assert run.data.tags["hdmap.kind"] == "watch" and run.data.tags["hdmap.alarm"] == "3of5"
    kept = pd.read_parquet(tracking.artifacts(one.finished.uri, run.info.run_id, "log.parquet"))
    pd.testing.assert_frame_equal(kept, log, check_dtype=False)


def test_a_restart_goes_on_and_repeats_nothing(one, lab, folder, look):
    give(lab, folder, 4)
    first, _, _ = look()
    give(lab, folder, 3, 500, "test/good")
    second, run, _ = look(looks=2)
    assert len(first) == 4 and len(second) == 7 and second["path"].is_unique
    pd.testing.assert_frame_equal(second[:4], first)
    steps, points = history(one, run, "maps")
    assert steps == {4: 4, 7: 7} and points == 2
    third, run, said = look()
    assert len(third) == 7 and history(one, run, "maps") == ({4: 4, 7: 7}, 2) and len(said) == 1


def test_an_alarm_goes_on_over_a_restart(lab, folder, look):
    give(lab, folder, 2)
    first, _, _ = look(threshold="normal_q99", alarm="3of3")
    give(lab, folder, 3)
    every = look(alarm="3of3")[0]
    above = every["above"].tolist()
    assert every["alarm"].tolist() == [i >= 2 and all(above[i - 2 : i + 1]) for i in range(len(above))]


def test_a_map_that_was_replaced_is_scored_again(lab, folder, look):
    give(lab, folder, 1)
    look()
    (path,) = folder.iterdir()
    tifffile.imwrite(path, tifffile.imread(path) * 2)
    age(path, 100)
    log = look()[0]
    assert len(log) == 2 and log["path"].nunique() == 1 and log["score"].nunique() == 2


def test_what_is_half_written_is_waited_for(lab, folder, look):
    """A file that grows is not looked at, one that rests and cannot be read is looked at again, and then is whole."""
    give(lab, folder, 1)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert look(looks=1)[0].empty, "it may still grow"
    age(path, 100)
    assert look(looks=2)[0].empty, "it cannot be read"
    path.write_bytes(whole)
    log, _, said = look(looks=2)
    assert len(log) == 1 and log["problem"].tolist() == [""] and not [line for line in said if "no score" in line]


@pytest.mark.parametrize("spoil", ["cut", "nan"])
def test_what_stays_unreadable_is_said_once_and_has_no_score(lab, folder, look, spoil):
    give(lab, folder, 2)
    path = sorted(folder.iterdir())[0]
    pixels = tifffile.imread(path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        tifffile.imwrite(path, np.full_like(pixels, np.nan))
    age(path, 100)
    log, run, said = look(looks=4)
    assert len([line for line in said if line.startswith("no score") and str(path) in line]) == 1
    assert log["problem"].ne("").tolist() == [False, True] and log["score"].isna().tolist() == [False, True]
    assert run.data.metrics["watch/unreadable"] == 1 and run.data.metrics["watch/maps"] == 1
    assert len(look(looks=4)[0]) == 2


def test_what_is_no_new_map_is_passed_over(lab, folder, look):
    give(lab, folder, 1)
    (path,) = folder.iterdir()
    (folder / "day").mkdir()
    path.rename(folder / "day" / path.name)
    (folder / ".hidden.tiff").write_text("rsync writes here")
    (folder / "notes.txt").write_text("hello")
    (folder / "a.tiff").mkdir()
    log = look(looks=4)[0]
    assert len(log) == 1 and log["path"].str.endswith(f"day/{path.name}").all()


def test_maps_of_several_sizes_are_scored(lab, folder, look):
    give(lab, folder, 3)
    path = sorted(folder.iterdir())[1]
    tifffile.imwrite(path, tifffile.imread(path)[:20])
    age(path, 1015)
    log = look()[0]
    assert len(log) == 3 and (log["problem"] == "").all() and log["path"].str.contains(path.name).any()


def test_what_mlflow_was_not_told_of_it_is_told_at_the_next_start(one, lab, folder, look, monkeypatch):
    give(lab, folder, 2)
    look()
    give(lab, folder, 3, 500, "test/good")
    with monkeypatch.context() as patch:
        patch.setattr(watch._Watcher, "record_looks", lambda self: None)
        look()
    log, run, _ = look()
    steps, points = history(one, run, "maps")
    assert steps == {2: 2, 5: 5} and points == 2
    times = [point.timestamp for point in one.client.get_metric_history(run.info.run_id, "watch/maps")]
    assert sorted(times) == sorted(log["looked"].unique()), "at the times of the looks"


def test_a_store_that_is_away_is_waited_for_while_maps_are_scored(one, lab, folder, look, monkeypatch):
    give(lab, folder, 2)
    send, refusals = Entry.send, [0]

    def away(entry, *where):
        if "watch/maps" in entry.metrics and refusals[0] < 2:
            refusals[0] += 1
            raise MlflowException("the server is away")
        send(entry, *where)

    monkeypatch.setattr(Entry, "send", away)
    monkeypatch.setattr(tracking.patience, "WAIT", lambda _: 0)
    log, run, _ = look(looks=2)
    assert refusals == [2] and len(log) == 2 and history(one, run, "maps") == ({2: 2}, 1)


def test_what_is_drawn_is_computed_from_the_log(one, lab, folder, look):
    give(lab, folder)
    log, run, _ = look()
    normals = one.kept[SOURCE].query("split == 'val' and label == 0")
    expected = {
        "maps": len(log),
        "unreadable": 0,
        "score_q50": np.quantile(log["score"], 0.5),
        "score_q95": np.quantile(log["score"], 0.95),
        "score_max": log["score"].max(),
        "above_rate": log["above"].mean(),
        "alarm_rate": log["alarm"].mean(),
        "alarm": float(log["alarm"].iloc[-1]),
        "score_distance": wasserstein_distance(normals["score"], log["score"]) / normals["score"].std(ddof=1),
        "intensity": wasserstein_distance(normals["image_mean"], log["image_mean"]) / normals["image_mean"].mean(),
    }
    drawn = {name.removeprefix("watch/"): value for name, value in run.data.metrics.items()}
    assert drawn == pytest.approx(expected)


def test_a_run_is_watched_once_at_a_time(one, lab, folder, look, tmp_path):
    give(lab, folder, 1)
    live = {"hdmap.kind": "watch", "hdmap.watched": one.finished.run_id, "hdmap.process": "another-host:1:1"}
    other = tracking.Store(one.finished.uri, "hdmap").create("a watch", live, None)
    with pytest.raises(BadInput, match="is watched already, by process another-host:1:1"):
        look()
    one.client.delete_run(other)
    log = Log(tmp_path / "log", one.finished.run_id)
    with log.locked(), pytest.raises(BadInput, match="written by another watch"):
        look()
    assert not log.path.exists()


def test_a_watch_by_a_name_or_an_exported_folder_is_that_of_the_run(one, lab, folder, look, tmp_path):
    give(lab, folder, 1)
    by_id, run, _ = look()
    promote.promote(one.finished.uri, one.finished.run_id, "watched", anyway=True, trust_model=True)
    export(one.finished.uri, one.finished.run_id, tmp_path / "out", lambda _: None)
    for name in ("models:/watched@champion", str(tmp_path / "out")):
        log, same, _ = look(run_id=name)
        assert same.info.run_id == run.info.run_id
        pd.testing.assert_frame_equal(log, by_id, check_dtype=False)  # it goes on, and repeats nothing


def test_an_exported_folder_is_watched_where_its_run_is_not(one, lab, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "night")
    export(one.finished.uri, one.finished.run_id, tmp_path / "out", lambda _: None)
    give(lab, folder, 1)
    uri = new_store(tmp_path / "other.db")
    log = watch.watch(uri, Request(str(tmp_path / "out"), folder, trust_model=True, out=tmp_path / "log"), str, 1)
    (past,) = tracking.Store(uri, "night").runs(kind="watch", watched=one.finished.run_id)
    assert len(log) == 1 and past.status == "finished"


def test_a_watch_whose_log_is_lost_does_not_begin_again(lab, folder, look, tmp_path):
    give(lab, folder, 2)
    look()
    (tmp_path / "log/log.parquet").unlink()
    with pytest.raises(BadInput, match="has 0 maps, MLflow was told of 2; give --out"):
        look()


def test_the_log_of_another_run_is_left_alone(one, lab, folder, look, tmp_path):
    give(lab, folder, 1)
    log = look()[0]
    log.assign(run="0" * 32).to_parquet(tmp_path / "log/log.parquet")
    before = (tmp_path / "log/log.parquet").read_bytes()
    with pytest.raises(BadInput, match="is the log of run 00000000; give --out another folder"):
        look()
    assert (tmp_path / "log/log.parquet").read_bytes() == before and Path(folder).exists()


def test_a_watch_that_is_killed_goes_on_where_it_was_and_ends_well_at_ctrl_c(one, lab, folder, tmp_path):
    """Real processes: the first is killed, which leaves its run RUNNING and its lock taken by nobody."""
    give(lab, folder, 2)
    for past in tracking.Store(one.finished.uri, "hdmap").runs(kind="watch"):
        one.client.delete_run(past.run_id)
    command = [sys.executable, "-m", "hdmap_mlflow", "watch", one.finished.run_id, str(folder), "--every", "0.3"]
    command += ["--trust-model", "--out", str(tmp_path / "log"), "--uri", one.finished.uri]
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(watch.__file__).parents[2]), *sys.path])}

    def until(process, words):
        for line in process.stdout:
            if words in line:
                return
        pytest.fail(process.stderr.read())

    with subprocess.Popen(command, env=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first:
        until(first, "of 2 new maps")
        first.kill()
    give(lab, folder, 3, 500, "test/good")
    with subprocess.Popen(command, env=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as second:
        until(second, "of 3 new maps")
        second.send_signal(signal.SIGINT)
        out, err = second.communicate(timeout=120)
    assert second.returncode == 0 and "5 maps in" in out and err.count("\n") == 1 and "what was scored is kept" in err
    (past,) = tracking.Store(one.finished.uri, "hdmap").runs(kind="watch", watched=one.finished.run_id)
    assert past.status == "finished" and Log(tmp_path / "log", one.finished.run_id).table["path"].is_unique
    assert max(history(one, one.client.get_run(past.run_id), "maps")[0]) == 5
