"""What cannot be scored, loaded or registered is refused in one line, and nothing tampered with is run."""

import json
import pickle
import shutil

import numpy as np
import pytest
import tifffile
from lab import TARGETS, execute, write

from hdmap_mlflow import tracking
from hdmap_mlflow.runs.export import export

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("use")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def one(lab, tmp_path_factory):
    flags = {"data.target_domains": [TARGETS[0]]}
    return execute(lab, tmp_path_factory.mktemp("run"), "toothwise", "quickstart", "source_holdout", "", **flags)


@pytest.fixture(scope="module")
def exported(one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(one.finished.uri, one.finished.run_id, folder, lambda _: None)
    return folder


def a_map(folder, name, pixels):
    folder.mkdir(exist_ok=True)
    tifffile.imwrite(folder / name, pixels.astype(np.float32))
    return str(folder)


def nothing(tmp_path, lab):
    (tmp_path / "new").mkdir()
    return str(tmp_path / "new")


def of_size(tmp_path, lab):
    return a_map(tmp_path / "new", "small.tiff", np.random.default_rng(0).random((7, 9)))


def not_a_number(tmp_path, lab):
    return a_map(tmp_path / "new", "nan.tiff", np.full((31, 95), np.nan))


def constant(tmp_path, lab):
    return a_map(tmp_path / "new", "flat.tiff", np.ones((31, 95)))


def text(tmp_path, lab):
    (tmp_path / "notes.txt").write_text("x")
    return str(tmp_path / "notes.txt")


MAPS = {
    "no map": (nothing, "holds no map"),
    "another size": (of_size, "small.tiff is 7 x 9"),
    "NaN": (not_a_number, "nan.tiff holds NaN"),
    "constant": (constant, "flat.tiff is constant"),
    "no file of maps": (text, "notes.txt is no map"),
    "gone": (lambda tmp_path, lab: str(tmp_path / "gone"), "gone is not there"),
}


@pytest.mark.parametrize("make, says", MAPS.values(), ids=MAPS)
def test_what_is_no_map_of_the_model_is_not_scored(one, lab, refused, tmp_path, make, says):
    path = make(tmp_path, lab)
    refused("predict", one.finished.run_id, path, "--uri", one.finished.uri, says=[says])


OPTIONS = {
    "threshold": (["--threshold", "normal_q98"], "normal_q99"),
    "suffix": (["--out", "scores.xlsx"], ".parquet"),
    "folder of the table": (["--out", "/proc/none/scores.csv"], "/proc/none"),
    "adapters without a reference": (["--adapters", "z"], "--reference FOLDER"),
    "an adapter of the model": (["--adapters", "merge", "--reference", "{lab}"], "merge changes the model"),
    "an adapter that is none": (["--adapters", "zz", "--reference", "{lab}"], "zz"),
    "a reference that is not there": (["--reference", "nowhere"], "nowhere is not there"),
    "a reference of files that are no maps": (["--reference", "{lab}/../notes"], "holds no map"),
}


@pytest.mark.parametrize("options, says", OPTIONS.values(), ids=OPTIONS)
def test_what_cannot_be_written_or_decided_is_refused(one, lab, refused, options, says):
    (lab.parent / "notes").mkdir(exist_ok=True)
    maps, options = str(lab / TARGETS[0] / "test/good"), [word.format(lab=lab) for word in options]
    refused("predict", one.finished.run_id, maps, *options, "--uri", one.finished.uri, says=[says])


NAMES = {
    "id": ("nosuchrun", "no run nosuchrun"),
    "name": ("models:/nobody@champion", "is not registered"),
    "form": ("models:/nobody", "models:/NAME@ALIAS"),
}


@pytest.mark.parametrize("run, says", NAMES.values(), ids=NAMES)
def test_what_is_no_run_scores_nothing(one, lab, refused, run, says):
    refused("predict", run, str(lab / TARGETS[0]), "--uri", one.finished.uri, says=[says])


class Bomb:
    def __reduce__(self):
        return (open, ("executed", "w"))


def bomb(model):
    (checkpoint,) = (model / "checkpoint").iterdir()
    checkpoint.write_bytes(pickle.dumps({"state_dict": Bomb()}))


def name_a_module(model):
    config = json.loads((model / "config.json").read_text())
    config["model"]["name"] = "evil:Model"
    (model / "config.json").write_text(json.dumps(config))
    (model.parents[1] / "evil.py").write_text("open('executed', 'w')")


def no_checkpoint(model):
    shutil.rmtree(model / "checkpoint")


TAMPERED = {
    "a pickle for a checkpoint": (bomb, "checkpoint cannot be used"),
    "a module in the config": (name_a_module, "--trust-model"),
    "no checkpoint": (no_checkpoint, "keeps no checkpoint"),
    "no config": (lambda model: (model / "config.json").unlink(), "config.json"),
    "a config of something else": (lambda model: (model / "config.json").write_text("[]"), "config.json"),
    "a head of something else": (lambda model: (model / "run.json").write_text("{}"), "run.json"),
    "scores of nothing": (lambda model: [f.write_bytes(b"x") for f in (model / "scores").iterdir()], "cannot be read"),
}


@pytest.mark.parametrize("spoil, says", TAMPERED.values(), ids=TAMPERED)
def test_a_tampered_model_executes_nothing(exported, lab, refused, tmp_path, monkeypatch, spoil, says):
    shutil.copytree(exported, tmp_path / "out")
    spoil(tmp_path / "out/model")
    monkeypatch.syspath_prepend(str(tmp_path))
    refused("predict", str(tmp_path / "out"), str(lab / TARGETS[0]), says=[says])
    assert not (tmp_path / "executed").exists()


ASKED = {
    "predict": ["{maps}"],
    "verify": ["--data-root", "{lab}"],
    "adapt": ["--adapters", "z", "--k", "4", "--data-root", "{lab}"],
    "watch": ["{maps}", "--looks", "1"],
}


@pytest.mark.parametrize("name", ["served.py", "python_model.pkl", "MLmodel"])
@pytest.mark.parametrize("command", ASKED)
def test_of_a_model_that_was_tampered_with_nothing_is_run_and_it_is_said(one, lab, tmp_path, refused, command, name):
    file = tracking.model.home(one.finished.uri, one.finished.run_id).parents[1] / name
    before = file.read_bytes() if file.exists() else None
    file.write_bytes(pickle.dumps(Bomb()) if before is None else before + b"\nopen('executed', 'w')")
    try:
        given = [word.format(maps=lab / TARGETS[0] / "test/good", lab=lab) for word in ASKED[command]]
        says = [f"run {one.finished.run_id}: its model is not what was recorded", "train it again"]
        refused(command, one.finished.run_id, *given, "--uri", one.finished.uri, says=says)
    finally:
        file.unlink() if before is None else file.write_bytes(before)
    assert not (tmp_path / "executed").exists()


def test_what_mlflow_adds_to_a_model_that_it_loads_is_no_tampering(one, lab, exit_code, tmp_path):
    folder = tracking.model.home(one.finished.uri, one.finished.run_id).parents[1]
    (folder / "__pycache__").mkdir(exist_ok=True)
    for name in ("registered_model_meta", "__pycache__/served.cpython-311.pyc"):
        (folder / name).write_text("model_name: gearbox")
    maps, uri = str(lab / TARGETS[0] / "test/good"), one.finished.uri
    assert exit_code("predict", one.finished.run_id, maps, "--uri", uri, "--out", str(tmp_path / "s.csv")) == 0


def test_a_run_that_is_simulated_or_random_is_promoted_only_anyway(one, refused):
    one.client.set_tag(one.finished.run_id, "hdmap.oracle", "true")
    try:
        arguments = ("promote", one.finished.run_id, "--name", "gearbox", "--uri", one.finished.uri)
        refused(*arguments, says=["oracle", "--anyway"])
    finally:
        one.client.delete_tag(one.finished.run_id, "hdmap.oracle")
    assert tracking.model.registered(one.finished.uri) == []
    refused("models", "--registered", "--uri", one.finished.uri, says=["not registered"])


@pytest.mark.parametrize("name", ["", "a/b", "a:b"])
def test_a_name_that_the_registry_does_not_take_is_said(one, refused, name):
    refused("promote", one.finished.run_id, "--name", name, "--uri", one.finished.uri, says=["does not register"])
