"""Finished runs read back as records: which are read, what of them, and what is said of those left out."""

import json

import pandas as pd
import pytest

from hdmap_mlflow.config import CheckedConfig, ModelConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import history
from hdmap_mlflow.tracking import Record, Store


@pytest.fixture
def make(shared, tmp_path):
    """Makes a run of an experiment: its scores by domain, its end, its tags."""

    def made(store, name, scores=None, ended="FINISHED", start=1000, **tags):
        what = {"kind": "run", "source": "b", "model": "m", "condition": "c", "validation": "v", "data_digest": "d"}
        tags = {f"hdmap.{key}": value for key, value in (what | tags).items()}
        run = store.client.create_run(store.experiment_id, start_time=start, run_name=name, tags=tags)
        record = Record(store.client, run.info.run_id, store.uri)
        for domain, values in (scores or {}).items():
            split = ["test"] * len(values)
            split[0] = "val" if domain == what["source"] else "test"
            same = {"split": split, "label": 0, "image_max": 1.0, "image_mean": 0.5}
            table = pd.DataFrame({"path": [f"{i}.tiff" for i in range(len(values))], "score": values} | same)
            table.to_parquet(tmp_path / f"{domain}.parquet")
            record.artifact(tmp_path / f"{domain}.parquet", "scores")
        if ended != "RUNNING":
            record.end(ended, tags.get("hdmap.reason", ""))
        return record

    return made


def test_the_finished_runs_of_the_asked_kinds_are_read_the_newest_first(shared, make):
    store = Store(shared.uri, "kinds")
    for i, kind in enumerate(("run", "trial", "study", "report", "run")):
        more = {"c": [1.5, 2.5], "a": [3.5]} if i == 0 else {}
        make(store, f"{kind}{i}", {"b": [0.5, 0.25]} | more, start=1000 + i, kind=kind)
    records, left_out = history.read_experiment(shared.uri, "kinds")
    assert [record.name for record in records] == ["run4", "trial1", "run0"] and left_out == []
    assert [r.name for r in history.read_experiment(shared.uri, "kinds", ("study",))[0]] == ["study2"]
    one = records[-1]
    assert (one.status, one.started, one.tag("kind"), one.tag("none"), one.source) == ("FINISHED", 1000, "run", "", "b")
    assert one.targets == ["a", "c"] and one.scores["c"]["score"].tolist() == [1.5, 2.5] and one.cards == {}
    source, targets = history.as_scores(one)
    assert (source.domain, [t.domain for t in targets]) == ("b", ["a", "c"])
    assert source.table["score"].tolist() == [0.5, 0.25] and targets[1].table["score"].tolist() == [1.5, 2.5]


def test_what_is_left_out_is_said_with_the_reason(shared, make):
    store, inf = Store(shared.uri, "left out"), float("inf")
    make(store, "well", {"b": [0.5, 0.25]}, start=9)
    lost = {
        "failed: no maps": make(store, "x", ended="FAILED", start=8, reason="no maps"),
        "killed": make(store, "x", ended="KILLED", start=7),
        "running": make(store, "x", ended="RUNNING", start=6),
        "keeps no scores": make(store, "x", start=5),
        "2 scores of c are NaN or infinite (1.tiff, 2.tiff)": make(
            store, "x", {"c": [1.0, inf, float("nan")]}, start=4
        ),
        "4 scores of b are NaN or infinite (0.tiff, 1.tiff, 2.tiff)": make(store, "x", {"b": [-inf] * 4}, start=3),
    }
    records, left_out = history.read_experiment(shared.uri, "left out")
    assert [record.name for record in records] == ["well"] and len(left_out) == len(lost)
    for line, (reason, record) in zip(left_out, lost.items(), strict=True):
        assert line.startswith(f"x ({record.run_id[:8]}): ") and reason in line
    assert left_out[1].endswith(": killed")


def test_an_experiment_without_a_whole_run_says_why(shared, make):
    store = Store(shared.uri, "none")
    with pytest.raises(BadInput, match="experiment 'none' has no finished run with scores; train first"):
        history.read_experiment(shared.uri, "none")
    make(store, "x", ended="FAILED", reason="no maps")
    with pytest.raises(BadInput, match=r"experiment 'none' has no finished run with scores \(x .*: failed: no maps\)"):
        history.read_experiment(shared.uri, "none")


def test_one_run_is_read_with_its_cards_and_its_configuration(shared, make):
    record = make(shared, "x", {"b": [0.5, 1.0], "c": [1.0]})
    record.params({"model.name": "m"})
    record.metrics({"source/x": 0.5})
    record.json({"repair": {"a": 1}}, "cards.json")
    config = CheckedConfig(condition="c", model=ModelConfig(name="m", settings={"a": 1.0, "b": [2]}))
    record.json(json.loads(config.model_dump_json()), "config.json")
    whole = history.read_run(shared.uri, record.run_id)
    assert (
        whole.cards == {"repair": {"a": 1}} and whole.params["model.name"] == "m" and whole.metrics == {"source/x": 0.5}
    )
    bare = history.read_run(shared.uri, record.run_id, scores=False)
    assert bare.scores == {} and bare.cards == {} and bare.metrics == whole.metrics
    assert history.read_config(shared.uri, record.run_id) == config
    lost = make(shared, "y", {"c": [1.0]})
    with pytest.raises(BadInput, match=f"run {lost.run_id} keeps no scores of its source b; train it again"):
        history.read_run(shared.uri, lost.run_id)
