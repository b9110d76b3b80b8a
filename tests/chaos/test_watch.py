"""Bad input for what is done with a trained model: watched, exported to ONNX; and for what cleans up."""

import json
from pathlib import Path

import pandas as pd
import pytest
from lab import TARGETS, execute, write
from maps import write_domain
from mlflow import MlflowClient
from servers import new_store

from hdmap_mlflow import process, tracking

pytestmark = pytest.mark.slow
NOBODY = "/sys/nobody"


@pytest.fixture(scope="module")
def one(tmp_path_factory, quick_disk):
    """A finished run of the toy model, in a store of its own."""
    folder = quick_disk / "run"
    folder.mkdir()
    lab = write(tmp_path_factory.mktemp("lab"))
    return execute(lab, folder, "toy_model:Toy", "toy", "source_holdout", "", **{"data.target_domains": [TARGETS[0]]})


def artifacts(one):
    """The folder in which the store keeps what the run left."""
    return Path(one.found.info.artifact_uri.removeprefix("file://"))


@pytest.fixture
def place(tmp_path):
    """A folder to watch, a log that is none, the log of another run, and files in the way."""
    (tmp_path / "in").mkdir()
    for name in ("damaged", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged/log.parquet").write_text("hello")
    (tmp_path / "file").write_text("hello")
    pd.DataFrame({"run": ["f" * 32]}).to_parquet(tmp_path / "columns.parquet")
    return tmp_path


WATCH = {
    "no such folder": (["{run}", "nowhere"], ["nowhere", "is no folder"]),
    "a file for a folder": (["{run}", "file"], ["file", "is no folder"]),
    "a run that is not there": (["0" * 32, "in"], ["0" * 32, "--uri"]),
    "an alarm that is none": (["{run}", "in", "--alarm", "6of5"], ["6of5", "3of5"]),
    "an alarm in words": (["{run}", "in", "--alarm", "often"], ["often", "MofN"]),
    "no time between looks": (["{run}", "in", "--every", "0"], ["--every"]),
    "a negative time": (["{run}", "in", "--every", "-1"], ["--every"]),
    "no time at all": (["{run}", "in", "--every", "nan"], ["--every"]),
    "half a look": (["{run}", "in", "--looks", "0.5"], ["--looks"]),
    "a threshold that is none": (["{run}", "in", "--threshold", "normal_99"], ["normal_99", "normal_q99", "youden"]),
    "a log that is none": (["{run}", "in", "--out", "damaged"], ["damaged/log.parquet", "move it away"]),
    "a log in a file": (["{run}", "in", "--out", "file"], ["file", "--out"]),
    "a log where none can be": (["{run}", "in", "--out", NOBODY], [NOBODY, "--out"]),
    "a class of somebody's": (["{run}", "in", "--distrust"], ["toy_model:Toy", "--trust-model"]),
    "a store that is none": (["{run}", "in", "--uri", "ftp://host"], ["ftp://host", "is not a store"]),
}


@pytest.mark.parametrize("what", WATCH)
def test_what_cannot_be_watched_is_refused(refused, one, place, what):
    given, says = WATCH[what]
    given = [word.format(run=one.finished.run_id) for word in given]
    trust = [] if "--distrust" in given else ["--trust-model"]
    store = [] if "--uri" in given else ["--uri", one.finished.uri]
    given = [word for word in given if word != "--distrust"]
    refused("watch", *given, *trust, *store, says=says)
    assert not tracking.Store(one.finished.uri, "hdmap").runs(kind="watch")


def test_a_run_that_is_watched_already_is_refused(refused, one, place):
    live = {"hdmap.kind": "watch", "hdmap.watched": one.finished.run_id, "hdmap.process": process.process_name()}
    other = tracking.Store(one.finished.uri, "hdmap").create("a watch", live, None)
    given = ("watch", one.finished.run_id, "in", "--trust-model", "--uri", one.finished.uri)
    refused(*given, says=["watched already", process.process_name(), "end that one"])
    one.client.delete_run(other)


@pytest.mark.parametrize("command", [["watch", "in"], ["export-onnx"]])
@pytest.mark.parametrize("lost", ["checkpoint", "scores"])
def test_a_run_that_lacks_a_part_is_refused(refused, one, place, command, lost):
    """A run as it is, but for one artifact."""
    client = MlflowClient(one.finished.uri)
    run = client.create_run("1", tags={k: v for k, v in one.found.data.tags.items() if k.startswith("hdmap.")})
    for path in artifacts(one).iterdir():
        if path.name != lost:
            (client.log_artifacts if path.is_dir() else client.log_artifact)(
                run.info.run_id, str(path), path.name if path.is_dir() else None
            )
    name, *rest = command
    given = (name, run.info.run_id, *rest, "--trust-model", "--uri", one.finished.uri)
    refused(*given, says=[run.info.run_id[:8], f"keeps no {lost}"])
    client.delete_run(run.info.run_id)


EXPORT = {
    "a run that is not there": (["0" * 32], ["0" * 32, "--uri"]),
    "a file that exists": (["{run}", "--out", "file"], ["file exists", "--out"]),
    "a folder": (["{run}", "--out", "in"], ["in exists", "--out"]),
    "a place that takes no file": (["{run}", "--out", f"{NOBODY}/m.onnx"], [NOBODY, "--out"]),
    "a class of somebody's": (["{run}", "--distrust"], ["toy_model:Toy", "--trust-model"]),
    "other data": (["{run}", "--data-root", "maps"], ["is not what run", "--data-root"]),
    "no data": (["{run}", "--data-root", "nowhere"], ["nowhere"]),
    "a store that is none": (["{run}", "--uri", "ftp://host"], ["ftp://host", "is not a store"]),
}


@pytest.mark.parametrize("what", EXPORT)
def test_what_cannot_be_exported_is_refused(refused, one, place, what):
    given, says = EXPORT[what]
    if "maps" in given:
        for name in ("domain_A", "domain_B"):
            write_domain(place / "maps", name)
    given = [word.format(run=one.finished.run_id) for word in given]
    trust = [] if "--distrust" in given else ["--trust-model"]
    store = [] if "--uri" in given else ["--uri", one.finished.uri]
    given = [word for word in given if word != "--distrust"]
    refused("export-onnx", *given, *trust, *store, says=says, leaves=("cache/maps",))


def test_a_model_that_has_no_onnx_form_is_refused_with_the_reason(refused, one, place, monkeypatch):
    import toy_model

    def forward(self, images):
        raise RuntimeError("this is no operator of ONNX")

    monkeypatch.setattr(toy_model.Quantile, "forward", forward)
    given = ("export-onnx", one.finished.run_id, "--trust-model", "--uri", one.finished.uri, "--out", "m.onnx")
    refused(*given, says=["toy_model:Toy", "this is no operator of ONNX", "hdmap models"], leaves=("cache/maps",))


@pytest.mark.parametrize("command", ["watch", "export-onnx"])
def test_a_checkpoint_that_holds_more_than_tensors_executes_nothing(refused, one, place, command):
    import pickle

    class Evil:
        def __reduce__(self):
            return (open, (str(place / "executed"), "w"))

    (checkpoint,) = (tracking.model.home(one.finished.uri, one.finished.run_id) / "checkpoint").iterdir()
    before, client = checkpoint.read_bytes(), tracking.client.connect(one.finished.uri)
    digest = client.get_run(one.finished.run_id).data.tags["hdmap.model_digest"]
    client.delete_tag(one.finished.run_id, "hdmap.model_digest")  # as of a run of before
    checkpoint.write_bytes(pickle.dumps({"state_dict": Evil()}))
    try:
        given = (command, one.finished.run_id, *(["in"] if command == "watch" else []), "--trust-model")
        refused(*given, "--uri", one.finished.uri, says=[one.finished.run_id, "its checkpoint cannot be used"])
        assert not (place / "executed").exists()
    finally:
        checkpoint.write_bytes(before)
        client.set_tag(one.finished.run_id, "hdmap.model_digest", digest)


CLEAN = {
    "runs that finished": (["--runs", "finished"], ["finished", "failed,killed"]),
    "runs under way": (["--runs", "failed,running"], ["running", "failed,killed"]),
    "runs that are none": (["--runs", "faild"], ["faild", "failed"]),
    "an experiment without runs": (["--experiment", "hdmap"], ["--runs"]),
    "a store without runs": (["--uri", "sqlite:///mlflow.db"], ["--runs"]),
    "an experiment that is not there": (
        ["--runs", "failed", "--experiment", "none"],
        ["none", "hdmap", "--experiment"],
    ),
    "a store that is not there": (["--runs", "failed", "--uri", "sqlite:///no.db"], ["no.db"]),
    "a store that is none": (["--runs", "failed", "--uri", "ftp://host"], ["ftp://host", "is not a store"]),
    "results that are not there": (["--results", "nowhere"], ["nowhere", "--results"]),
    "results in a file": (["--results", "file"], ["file", "--results"]),
    "a cache of nobody's": (["--cache", "--results", "~nobody-of-that-name/r"], ["no such user"]),
}


@pytest.mark.parametrize("what", CLEAN)
def test_what_cannot_be_cleaned_is_refused(refused, place, what):
    new_store(place / "mlflow.db")
    given, says = CLEAN[what]
    refused("clean", *given, says=says, leaves=("mlflow.db.lock",))


def test_a_cache_in_use_is_refused_before_anything_is_removed(refused, place):
    new_store(place / "mlflow.db")
    folder = place / "results/model/run"
    folder.mkdir(parents=True)
    with tracking.start(f"sqlite:///{place}/mlflow.db", "hdmap", "run", {"hdmap.kind": "run"}, folder=folder) as record:
        record.json({"a": 1}, "cards.json")
    with process.using_cache():
        refused("clean", "--cache", says=["in use by", process.process_name(), "--cache"])
    assert json.loads((folder / "cards.json").read_text()) == {"a": 1}
