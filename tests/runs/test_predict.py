"""A finished run scores new maps: the same numbers by command, by MLflow and from an exported folder."""

import json
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
import tifffile
from lab import SOURCE, TARGETS, execute, write

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import loose, predict, promote, trained
from hdmap_mlflow.runs.export import export
from hdmap_mlflow.runs.predict import Request

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("predict")]  # the run is made once


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def one(lab, tmp_path_factory):
    flags = {"data.target_domains": [TARGETS[0]]}
    return execute(
        lab, tmp_path_factory.mktemp("run"), "toy_model:Toy", "toy", "source_holdout", "data.batch_size=8", **flags
    )


@pytest.fixture
def scored(one, lab, tmp_path):
    """Scores maps of the target by command; the table, and what became of it."""

    def predicting(run=None, paths=(lab / TARGETS[0] / "test",), name="scores.csv", **more):
        request = Request(run or one.finished.run_id, paths, tmp_path / name, trust_model=True, **more)
        done = predict.predict(one.finished.uri, request, lambda _: None)
        read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
        return read(request.out), done

    return predicting


def test_new_maps_score_as_in_the_run_and_alarm_at_its_threshold(one, lab, scored):
    table, done = scored()
    kept = one.kept[TARGETS[0]].query("split == 'test'").set_index("path")["score"]
    stored = [kept[path.partition(f"{TARGETS[0]}/")[2]] for path in table["path"]]
    assert table["score"].tolist() == pytest.approx(stored, rel=1e-6) and len(table) == done.maps == len(kept)
    threshold = one.found.data.metrics["val/threshold_normal_q99"]
    assert table["alarm"].tolist() == (table["score"] >= threshold).tolist() and done.alarms == table["alarm"].sum() > 0
    val = one.kept[SOURCE].query("split == 'val' and label == 0")["score"].to_numpy()
    p = [(1 + (val >= score).sum()) / (1 + len(val)) for score in table["score"]]
    assert table["p_value"].tolist() == pytest.approx(p)
    calibrated = (table["score"] - np.median(val)) / val.std(ddof=1)
    assert table["calibrated"].tolist() == pytest.approx(calibrated.tolist())


def test_parquet_and_another_threshold(one, scored):
    table, _ = scored(name="scores.parquet", threshold="normal_q95")
    threshold = one.found.data.metrics["val/threshold_normal_q95"]
    assert table["alarm"].tolist() == (table["score"] >= threshold).tolist()


def test_more_maps_than_a_batch_are_scored_piece_by_piece(lab, scored, monkeypatch):
    whole, _ = scored(name="whole.csv")
    monkeypatch.setattr(loose, "BATCH", 3)
    pieces, _ = scored(name="pieces.csv")
    assert whole["path"].tolist() == pieces["path"].tolist()
    assert whole["score"].tolist() == pytest.approx(pieces["score"].tolist(), rel=1e-6)


def test_mlflow_scores_to_the_last_digit_as_the_command_does(one, lab, scored, monkeypatch):
    table, _ = scored()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one.finished.uri)
    model_id = tracking.model.model_of(one.client.get_run(one.finished.run_id))
    loaded = mlflow.pyfunc.load_model(f"models:/{model_id}", model_config={"trust_model": True})
    maps = np.stack([tifffile.imread(path) for path in table["path"]]).astype(np.float32)
    answer = loaded.predict(maps)
    assert answer["score"].tolist() == table["score"].tolist()
    assert answer["alarm"].tolist() == table["alarm"].tolist()


def test_the_checkpoint_is_stored_once_in_a_model_without_pickles(one):
    model_id = tracking.model.model_of(one.client.get_run(one.finished.run_id))
    folder = tracking.model.home(one.finished.uri, one.finished.run_id).parents[1]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert len([name for name in files if name.endswith(".ckpt")]) == 1 and not [n for n in files if "pkl" in n]
    assert "checkpoint" not in {found.path for found in one.client.list_artifacts(one.finished.run_id)}
    signature = mlflow.models.Model.load(str(folder)).signature.to_dict()
    assert "float32" in signature["inputs"] and '"name": "alarm"' in signature["outputs"]
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements and "hdmap_mlflow==" in requirements and "+" not in requirements
    logged = one.client.get_logged_model(model_id)
    assert str(logged.status) == "READY"
    linked = {(metric.key, metric.dataset_name): metric.value for metric in logged.metrics}
    metrics = one.found.data.metrics
    assert linked["source/image_AUROC", SOURCE] == metrics["source/image_AUROC"]
    assert linked[f"target/{TARGETS[0]}/image_AUROC", TARGETS[0]] == metrics[f"target/{TARGETS[0]}/image_AUROC"]
    assert linked["target_mean/image_AUROC", None] == metrics["target_mean/image_AUROC"]
    history = one.client.get_metric_history(one.finished.run_id, "source/image_AUROC")
    assert len(history) == 1, "linking records nothing twice"


def test_whether_the_checkpoint_is_kept_has_its_name_of_before_too(one):
    params = one.found.data.params
    assert params["tracking.checkpoint"] == params["tracking.model"] == "best"


def test_an_exported_folder_scores_without_a_store(one, lab, scored, tmp_path):
    by_run, _ = scored()
    export(one.finished.uri, one.finished.run_id, tmp_path / "out", lambda _: None)
    by_folder, _ = scored(str(tmp_path / "out"), name="again.csv")
    columns = ["path", "score", "p_value", "alarm"]
    pd.testing.assert_frame_equal(by_run[columns], by_folder[columns])


def test_a_promoted_run_is_taken_by_its_name_and_listed(one, scored):
    done = promote.promote(one.finished.uri, one.finished.run_id, "gearbox", anyway=True, trust_model=True)
    again = promote.promote(one.finished.uri, one.finished.run_id, "gearbox", "next", anyway=True, trust_model=True)
    assert (done.version, again.version) == (1, 1), "the same run is the same version"
    by_name, _ = scored("models:/gearbox@champion")
    by_version, _ = scored("models:/gearbox/1", name="again.csv")
    assert by_name["score"].tolist() == by_version["score"].tolist()
    (row,) = tracking.model.registered(one.finished.uri)
    assert row["run"] == one.finished.run_id and row["source"] == SOURCE
    assert row["data_digest"] == one.found.data.tags["hdmap.data_digest"]
    first, note = one.client.get_model_version("gearbox", "1").description.split("\n\n", 1)
    auroc = [one.found.data.metrics[f"{scope}/image_AUROC"] for scope in ("source", "target_mean")]
    assert first == f"toy_model:Toy of {SOURCE}, AUROC {auroc[0]:.3f} on the source, AUROC {auroc[1]:.3f} on targets"
    assert note == one.found.data.tags["mlflow.note.content"]
    with pytest.raises(BadInput, match="other data"):
        tags = {"hdmap.data_digest": "another"}
        tracking.model.register(one.finished.uri, one.finished.run_id, "gearbox", "champion", tags, False)


def shrunk_z(score, healthy, source):
    """As issue 20 has it, by hand."""
    k, logs = len(healthy), np.log(healthy)
    variance = (8 * np.log(source).var(ddof=1) + (k - 1) * logs.var(ddof=1)) / (7 + k)
    return (np.log(score) - np.median(logs)) / np.sqrt(variance)


def test_with_healthy_maps_of_a_machine_alarms_are_raised_on_its_own_scale(one, lab, scored):
    healthy = lab / TARGETS[0] / "train/good"
    table, _ = scored(reference=[healthy])
    known = one.kept[TARGETS[0]].query("split == 'reference'")["score"].to_numpy(float)
    val = one.kept[SOURCE].query("split == 'val'")
    source = val.query("label == 0")["score"].to_numpy(float)
    expected = shrunk_z(table["score"].to_numpy(), known, source)
    assert table["calibrated"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert table["alarm"].tolist() == (expected >= np.quantile(shrunk_z(source, source, source), 0.99)).tolist()
    p = [(1 + (known >= score).sum()) / (1 + len(known)) for score in table["score"]]
    assert table["p_value"].tolist() == pytest.approx(p)
    named, _ = scored(reference=[healthy], adapters=("z",), name="named.csv")
    pd.testing.assert_frame_equal(named.drop(columns="seconds"), table.drop(columns="seconds"))
    assert table["alarm"].tolist() != scored(name="plain.csv")[0]["alarm"].tolist(), "else nothing is shown"


def test_a_conformal_alarm_is_a_p_value_of_one_in_a_hundred_or_less(lab, scored):
    healthy = [lab / SOURCE / "train/good", lab / SOURCE / "test/good", lab / SOURCE / "test/fault"]
    few, _ = scored(reference=[healthy[0]], adapters=("conformal",))
    assert not few["alarm"].any(), "52 maps cannot say so"
    many, _ = scored(reference=healthy, adapters=("conformal",), threshold="normal_q95", name="many.csv")
    assert many["alarm"].tolist() == (many["p_value"] <= 0.05).tolist()
    assert many["calibrated"].tolist() == pytest.approx((1 - many["p_value"]).tolist())


def test_a_gain_of_the_machine_changes_no_alarm_of_z(lab, scored, tmp_path):
    """Toy scores are a ratio of grey values: twice as bright maps have twice the score."""
    for part in ("train/good", "test/good", "test/fault"):
        (tmp_path / "loud" / part).mkdir(parents=True)
        for path in sorted((lab / TARGETS[0] / part).glob("*.tiff")):
            tifffile.imwrite(tmp_path / "loud" / part / path.name, tifffile.imread(path) * np.float32(2))
    here, _ = scored(reference=[lab / TARGETS[0] / "train/good"])
    there, done = scored(paths=[tmp_path / "loud/test"], reference=[tmp_path / "loud/train"], name="loud.csv")
    alarms = {
        path.partition(f"{TARGETS[0]}/")[2]: alarm for path, alarm in zip(here["path"], here["alarm"], strict=True)
    }
    loud = {path.partition("loud/")[2]: alarm for path, alarm in zip(there["path"], there["alarm"], strict=True)}
    assert loud == {path: alarms[path] for path in loud} and done.warnings == []


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_a_map_that_cannot_be_scored_stands_in_the_table_with_its_problem(lab, scored, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loose, "BATCH", 2)
    good = sorted((lab / TARGETS[0] / "test/good").glob("*.tiff"))[:3]
    (tmp_path / "night").mkdir()
    for number, path in enumerate(good):
        (tmp_path / f"night/{2 * number}.tiff").write_bytes(path.read_bytes())
    (tmp_path / "night/1.tiff").write_bytes(b"half a file")
    tifffile.imwrite(tmp_path / "night/3.tiff", np.full((31, 95), np.nan, np.float32))
    for late in (5, 6):  # a whole batch
        tifffile.imwrite(tmp_path / f"night/{late}.tiff", np.ones((7, 9), np.float32) * np.arange(9, dtype=np.float32))
    table, done = scored(paths=[tmp_path / "night"], name=name)
    alone, _ = scored(paths=good, name="alone.csv")
    problems = table["problem"].fillna("").tolist()
    assert [bool(one) for one in problems] == [False, True, False, True, False, True, True]
    assert "NaN" in problems[3] and "7 x 9" in problems[5] and (done.maps, done.broken) == (7, 4)
    whole = table[[not one for one in problems]]
    assert whole["score"].tolist() == pytest.approx(alone["score"].tolist(), rel=1e-6)
    assert whole["alarm"].astype(bool).tolist() == alone["alarm"].tolist()
    lost = table[[bool(one) for one in problems]]
    assert lost[["score", "calibrated", "p_value", "alarm"]].isna().all(axis=None), "no number stands for a failure"
    assert "4 of 7 maps have no score" in done.warnings[0]


REFUSED = {  # adapters, how many reference maps, and what is said
    "no reference": (("z",), 0, "--reference FOLDER"),
    "a model adapter": (("merge", "z"), 1, "merge changes the model"),
    "an adapter that is none": (("zz",), 1, "unknown adapter"),
    "too few maps": (("robust_z",), 1, "robust_z needs"),
}


@pytest.mark.parametrize("adapters, count, says", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_the_scale_of_a_machine_is_refused(lab, scored, tmp_path, adapters, count, says):
    healthy = sorted((lab / SOURCE / "train/good").iterdir())[:count]
    with pytest.raises(BadInput, match=says):
        scored(adapters=adapters, reference=healthy)
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("gain, says", [(4.1, "brighter"), (0.1, "as bright")])
def test_maps_unlike_those_the_model_has_seen_are_warned_of(lab, scored, tmp_path, gain, says):
    (tmp_path / "bright").mkdir()
    for path in sorted((lab / SOURCE / "test/good").glob("*"))[:5]:
        tifffile.imwrite(tmp_path / "bright" / path.name, tifffile.imread(path) * np.float32(gain))
    (line,) = scored(paths=[tmp_path / "bright"])[1].warnings
    assert says in line and "--reference" in line
    same = list((lab / SOURCE / "test/good").iterdir())
    assert scored(paths=same, name="same.csv")[1].warnings == []


def test_the_maps_with_the_highest_scores_are_drawn(scored, tmp_path):
    table, _ = scored(heatmaps=2)
    drawn = sorted(path.name for path in (tmp_path / "scores_heatmaps").iterdir())
    highest = table.sort_values("score", ascending=False)["path"].head(2)
    assert [name.partition("_")[2] for name in drawn] == [path.rpartition("/")[2][:-5] + ".png" for path in highest]


@pytest.mark.parametrize(
    "tags, says",
    [
        ({"oracle": "true"}, "oracle"),
        ({"validation": "source_test"}, "source_test"),
        ({"simulated": "true"}, "simulated"),
        ({"weights": "random:abc"}, "random weights"),
    ],
)
def test_what_should_not_be_used_is_not_promoted(tags, says):
    from hdmap_mlflow.runs.history import RunRecord

    good = {"oracle": "false", "validation": "source_holdout", "simulated": "false", "weights": "hub:abc"}
    record = RunRecord("r", "n", "FINISHED", {}, {}, {f"hdmap.{k}": v for k, v in (good | tags).items()})
    assert len(promote.objections(record)) == 1 and says in promote.objections(record)[0]
    assert not promote.objections(RunRecord("r", "n", "FINISHED", {}, {}, {f"hdmap.{k}": v for k, v in good.items()}))


def test_a_folder_says_with_which_anomalib_its_model_was_made(one, tmp_path):
    shutil.copytree(tracking.model.home(one.finished.uri, one.finished.run_id), tmp_path / "model")
    head = json.loads((tmp_path / "model/run.json").read_text())
    head["packages"]["anomalib"] = "1.0.0"
    (tmp_path / "model/run.json").write_text(json.dumps(head))
    (checkpoint,) = (tmp_path / "model/checkpoint").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(BadInput, match="made with anomalib 1.0.0"):
        trained.read(tmp_path / "model", True)
