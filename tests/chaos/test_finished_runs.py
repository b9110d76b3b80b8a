"""Finished runs with one thing damaged: left out by name, never the end of a whole experiment."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from records import record as made
from servers import new_store

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import remove
from hdmap_mlflow.runs import flow, history, setup, verify
from hdmap_mlflow.tracking import Store, reopen

pytestmark = pytest.mark.slow


def stored(store, folder, one):
    tags = {**one.tags, "hdmap.kind": "run"}
    run_id = store.client.create_run(store.experiment_id, run_name=one.name, tags=tags).info.run_id
    kept = reopen(store.uri, run_id)
    kept.params(one.params)
    for domain, table in one.scores.items():
        table.to_parquet(folder / f"{domain}.parquet")
        kept.artifact(folder / f"{domain}.parquet", "scores")
    kept.json({}, "cards.json")
    kept.end("FINISHED")
    return run_id


def put(name, content, folder="scores"):
    def damage(store, run_id, place):
        if isinstance(content, pd.DataFrame):
            content.to_parquet(place / name)
        else:
            (place / name).write_bytes(content)
        reopen(store.uri, run_id).artifact(place / name, folder)

    return damage


def without(tag):
    return lambda store, run_id, place: store.client.delete_tag(run_id, tag)


DAMAGES = {
    "no parquet": (put("B.parquet", b"PAR1"), "scores/B.parquet"),
    "an empty parquet": (put("B.parquet", b""), "scores/B.parquet"),
    "an extra parquet": (put("Z.parquet", pd.DataFrame({"x": [1]})), "scores/Z.parquet has no column path"),
    "an extra file": (put("Z.txt", b"words"), "scores/Z.txt"),
    "cut JSON": (put("cards.json", b"{", ""), "cards.json"),
    "cards that are a list": (put("cards.json", json.dumps([1]).encode(), ""), "cards.json"),
    "no source": (without("hdmap.source"), "hdmap.source"),
    "no model": (without("hdmap.model"), "hdmap.model"),
    "no data digest": (without("hdmap.data_digest"), "hdmap.data_digest"),
    "no protocol": (without("hdmap.validation"), "hdmap.validation"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_run_is_left_out_by_name(tmp_path, name):
    store = Store(new_store(tmp_path / "mlflow.db"), "hdmap")
    damage, says = DAMAGES[name]
    good, bad = (stored(store, tmp_path, made("m", "A", seed, 2.0)) for seed in (0, 1))
    damage(store, bad, tmp_path)
    records, left_out = history.read_experiment(store.uri, "hdmap")
    assert [one.run_id for one in records] == [good]
    (line,) = left_out
    assert bad[:8] in line and says in line


def test_a_class_that_a_foreign_run_names_is_not_imported(tmp_path):
    store = Store(new_store(tmp_path / "mlflow.db"), "hdmap")
    run_id = stored(store, tmp_path, made("m", "A", 0, 2.0))
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    reopen(store.uri, run_id).json({"condition": "c", "model": {"name": "evil:M"}}, "config.json")
    with pytest.raises(BadInput, match="evil:M.*--trust-model"):
        verify.verify(store.uri, run_id)
    assert not (tmp_path / "ran").exists()


# --------------------------------------------------------------------------- a real run, by every command that reads it
SETTINGS = (
    "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1],model.n_features=8"
)


@pytest.fixture(scope="module")
def trained(maps, tmp_path_factory):
    """The folder of a store with two runs, and the id and the artifacts of one of them."""
    folder = tmp_path_factory.mktemp("trained")
    here = f"tracking.uri={new_store(folder / 'mlflow.db')},tracking.output_dir={folder / 'out'},tracking.heatmaps=1"
    runs = []
    for seed in (0, 1):
        config = setup.configure(
            "padim", flags={"data.root": str(maps), "train.seed": seed}, overrides=f"{SETTINGS},{here}"
        )
        runs.append(flow.execute(config, say=lambda line: None))
    store = Store(runs[0].uri, "hdmap")
    store.client.delete_tag(runs[1].run_id, "hdmap.model_digest")  # as of a run of before: its parts are looked at
    return folder, runs[1].run_id, Path(store.client.get_run(runs[1].run_id).info.artifact_uri.removeprefix("file://"))


def change(name, *keys, to):
    """Another value within a JSON file of a run; `to` DELETE takes it out."""

    def damage(artifacts):
        content = part = json.loads((artifacts / name).read_text())
        for key in keys[:-1]:
            part = part[key]
        if not keys:
            content = to
        elif to is DELETE:
            del part[keys[-1]]
        else:
            part[keys[-1]] = to
        (artifacts / name).write_text(json.dumps(content))

    return damage


def column(domain, name, value):
    def damage(artifacts):
        file = artifacts / f"scores/{domain}.parquet"
        table = pd.read_parquet(file)
        (table.drop(columns=name) if value is DELETE else table.assign(**{name: value})).to_parquet(file)

    return damage


def content(name, what):
    """Another content of a file, or a folder in its place; a file in place of a folder."""

    def damage(artifacts):
        path = artifacts / name
        remove(path)
        path.mkdir() if what is None else path.write_bytes(what)

    return damage


DELETE = object()
READ = ("rescore", "verify", "export")
# What is damaged, by which commands the run is then refused, and what they say.
PARTS = {
    "config: a list": (change("config.json", to=[1]), ("rescore", "verify"), "config.json"),
    "config: data a list": (change("config.json", "data", to=[]), ("rescore", "verify"), "config.json"),
    "config: a size in words": (
        change("config.json", "data", "image_size", to="x"),
        ("rescore", "verify"),
        "config.json",
    ),
    "config: no model": (change("config.json", "model", to=DELETE), ("rescore", "verify"), "config.json"),
    "config: a model in a list": (
        change("config.json", "model", "name", to=["padim"]),
        ("rescore", "verify"),
        "config",
    ),
    "config: no settings": (
        change("config.json", "model", "settings", to={}),
        ("verify",),
        "config.json cannot be used",
    ),
    "config: another layer": (change("config.json", "model", "settings", "layers", to=[]), ("verify",), "config.json"),
    "config: unknown setting": (
        change("config.json", "model", "settings", "x", to=1),
        ("verify",),
        "unknown key 'model.x'",
    ),
    "config: another size": (change("config.json", "data", "image_size", to=DELETE), ("verify",), "config.json"),
    "config: nested": (content("config.json", b"[" * 9999), ("rescore", "verify"), "config.json"),
    "config: a folder": (content("config.json", None), ("rescore", "verify"), "config.json"),
    "config: twice": (
        content("config.json", b'{"data": {}, "data": {}}'),
        ("rescore", "verify"),
        "'data' stands twice",
    ),
    "result: a list": (change("result.json", to=[]), ("export",), "result.json"),
    "result: cut": (content("result.json", b'{"a": '), ("export",), "result.json"),
    "cards: shift a list": (change("cards.json", "shift", to=[]), READ, "cards.json"),
    "cards: shift in words": (change("cards.json", "shift", to={"domain_B": {"intensity": "x"}}), READ, "cards.json"),
    "cards: alarm a number": (change("cards.json", "saturation", "domain_B", "alarm", to=3), READ, "cards.json"),
    "cards: no alarm": (change("cards.json", "saturation", "domain_B", "alarm", to=DELETE), READ, "cards.json"),
    "cards: text": (change("cards.json", to="x"), READ, "cards.json"),
    "scores: a file": (content("scores", b"x"), READ, "scores is damaged (a file)"),
    "scores: none": (content("scores", None), READ, "scores"),
    "scores: not the source's": (lambda a: remove(a / "scores/domain_A.parquet"), READ, "its source domain_A"),
    "scores: words": (column("domain_B", "score", "x"), READ, "scores/domain_B.parquet has no numbers in score"),
    "scores: infinite means": (column("domain_B", "image_mean", float("inf")), READ, "infinite values in image_mean"),
    "scores: labels": (column("domain_B", "label", 2), READ, "labels beside 0 and 1"),
    "scores: paths": (column("domain_B", "path", 3), READ, "paths that are no texts"),
    "scores: another split": (column("domain_B", "split", "x"), READ, "has no reported maps"),
    "scores: no validation": (column("domain_A", "split", "test"), READ, "keeps no validation scores"),
    "scores: a bad name": (
        lambda a: (a / "scores/domain_B.parquet").rename(a / "scores/a%.parquet"),
        READ,
        "a%.parquet",
    ),
    "checkpoint: a file": (content("checkpoint", b"x"), ("verify",), "checkpoint is damaged (a file)"),
    "checkpoint: none": (content("checkpoint", None), ("verify",), "checkpoint"),
    "checkpoint: cut": (
        lambda a: [os.truncate(f, 900) for f in (a / "checkpoint").iterdir()],
        ("verify",),
        "checkpoint",
    ),
    "checkpoint: text": (
        lambda a: [f.write_text("x") for f in (a / "checkpoint").iterdir()],
        ("verify",),
        "checkpoint",
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_every_command_refuses_or_leaves_out_a_run_with_a_damaged_part(
    trained, exit_code, capfd, tmp_path, monkeypatch, name
):
    folder, run_id, artifacts = trained
    damage, by, says = PARTS[name]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    if name.startswith("checkpoint"):  # lies in the model
        artifacts = tracking.model.home(f"sqlite:///{folder}/mlflow.db", run_id)
    shutil.copytree(artifacts, tmp_path / "whole")
    try:
        damage(artifacts)
        if by == READ:  # and so a report
            left_out = history.read_experiment(f"sqlite:///{folder}/mlflow.db", "hdmap")[1]
            assert [line for line in left_out if run_id[:8] in line and says in line]
        for command in by:
            given = ["--run", run_id] if command == "rescore" else [run_id, "--out", "out"]
            assert exit_code(command, *(given[:1] if command == "verify" else given)) == 2
            err = capfd.readouterr().err
            assert err.startswith("hdmap: ") and len(err.splitlines()) == 1 and says in err, err
            assert not (tmp_path / "out").exists()
    finally:
        shutil.rmtree(artifacts)
        shutil.copytree(tmp_path / "whole", artifacts)


def test_pictures_of_no_domain_are_left_out_of_an_export_by_name(trained, exit_code, capfd, tmp_path, monkeypatch):
    folder, run_id, artifacts = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    (artifacts / "heatmaps/domain_Z").mkdir()
    try:
        assert exit_code("export", run_id, "--out", "out") == 0
    finally:
        (artifacts / "heatmaps/domain_Z").rmdir()
    assert "left out: heatmaps/domain_Z, which is of no domain" in capfd.readouterr().out
    assert list((tmp_path / "out/visualize/target_domains/domain_B").rglob("*.png"))


FOREIGN = {"hdmap.source": "../../../x", "hdmap.condition": "../../x", "hdmap.model": "", "hdmap.validation": ""}


@pytest.mark.parametrize("tag", FOREIGN)
def test_a_tag_of_a_foreign_run_names_no_file_elsewhere(trained, exit_code, capfd, tmp_path, monkeypatch, tag):
    folder, run_id, _ = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    client = Store(f"sqlite:///{folder}/mlflow.db", "hdmap").client
    before = client.get_run(run_id).data.tags[tag]
    client.set_tag(run_id, tag, FOREIGN[tag])
    try:
        assert exit_code("export", run_id, "--out", "a/b/c/d") == 2
    finally:
        client.set_tag(run_id, tag, before)
    assert tag in capfd.readouterr().err and not list(tmp_path.glob("a/**/*.json")) and not (tmp_path / "a/x").exists()
