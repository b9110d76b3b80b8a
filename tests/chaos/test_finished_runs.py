"""Finished runs with one thing damaged: left out by name, never the end of a whole experiment."""

import json

import pandas as pd
import pytest
from records import record as made
from servers import new_store

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import history, verify
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
