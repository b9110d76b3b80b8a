"""What is done with finished runs, on one that costs next to nothing: re-scored, verified, reported."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from compare import same
from lab import SOURCE, TARGETS, execute, write
from records import DOMAINS, grid, retagged
from reference import report as report_reference
from servers import new_store

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.report.write import write_report
from hdmap_mlflow.runs import history, rescore, verify
from hdmap_mlflow.tracking import NOTE, Store, reopen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("finished")]  # the run is made once


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run of the toy model with two targets, the first with masks and groups, the second with neither."""
    lab = write(tmp_path_factory.mktemp("lab"))
    return execute(
        lab,
        tmp_path_factory.mktemp("run"),
        "toy_model:Toy",
        "toy",
        "source_holdout",
        "data.batch_size=8",
        **{"data.target_domains": [TARGETS[0], TARGETS[2]]},
    )


@pytest.fixture
def uri(one):
    """The store of the run, which afterwards holds what it held before."""
    run_id, where = one.finished.run_id, one.finished.uri
    yield where
    kept = reopen(where, run_id)
    kept.metrics(one.found.data.metrics)
    kept.tags({NOTE: one.found.data.tags[NOTE]})
    kept.json(one.cards, "cards.json")


def rescored(one, uri, **changes):
    return rescore.rescore(uri, dataclasses.replace(history.read_run(uri, one.finished.run_id), **changes))


def test_a_run_that_is_right_stays_as_it_is(one, uri):
    assert rescored(one, uri) == rescore.Rescored(one.found.info.run_name, one.finished.run_id, [], [])
    again = history.read_run(uri, one.finished.run_id)
    assert again.metrics == one.found.data.metrics and again.tags == one.found.data.tags
    same(history.read_json(uri, one.finished.run_id, "cards.json"), one.cards)


@pytest.mark.parametrize(
    ("name", "part"),
    [("source/image_AP", 1.5), (f"target/{TARGETS[0]}/image_AUROC", 1 + 1e-3), ("transfer/ratio", 1 - 1e-7)],
)
def test_a_metric_that_is_wrong_by_little_is_repaired_too(one, uri, name, part):
    right = one.found.data.metrics[name]
    reopen(uri, one.finished.run_id).metrics({name: right * part})
    found = rescored(one, uri)
    assert (found.new, found.changed) == ([], [name])
    assert history.read_run(uri, one.finished.run_id).metrics[name] == right


def test_a_metric_of_a_newer_version_is_added_and_pixel_metrics_are_left_alone(one, uri):
    left = [name for name in one.found.data.metrics if "image_AP" not in name]
    pixel = f"target/{TARGETS[0]}/pixel_AUROC"
    reopen(uri, one.finished.run_id).metrics({pixel: 0.25})
    known = {name: one.found.data.metrics[name] for name in left}
    found = rescored(one, uri, metrics=known)
    assert found.changed == [] and found.new == sorted(set(one.found.data.metrics) - set(left)) and found.new
    assert history.read_run(uri, one.finished.run_id).metrics == one.found.data.metrics | {pixel: 0.25}


def test_the_note_and_the_cards_are_made_anew_from_the_scores_and_distances_are_kept(one, uri):
    kept, target = reopen(uri, one.finished.run_id), TARGETS[0]
    wrong = json.loads(json.dumps(one.cards))
    wrong["intervals"] = wrong["thresholds"] = {}
    wrong["shift"][target] |= {"intensity": 7.5, "AUROC_drop": 9.0}
    kept.json(wrong, "cards.json")
    kept.metrics({f"target/{target}/image_AUROC": 0.123})
    kept.note("old")
    rescored(one, uri)
    again = history.read_run(uri, one.finished.run_id)
    assert again.tags[NOTE] == one.found.data.tags[NOTE]
    expected = json.loads(json.dumps(one.cards))
    expected["shift"][target]["intensity"] = 7.5  # measured from maps, which are not read
    same(again.cards, expected)


def test_a_run_from_before_the_cards_gets_them_without_distances(one, uri, monkeypatch):
    original = history.read_json

    def without(uri, run_id, name):
        if name == "cards.json":
            raise BadInput("keeps no cards.json")
        return original(uri, run_id, name)

    monkeypatch.setattr(history, "read_json", without)
    rescored(one, uri)
    monkeypatch.undo()
    told = history.read_json(uri, one.finished.run_id, "cards.json")
    assert told["intervals"] == one.cards["intervals"]
    assert all(set(card) == {"AUROC_drop"} for card in told["shift"].values())


# ------------------------------------------------------------------------------------------- verification
def shifted(one, monkeypatch, of_sd, rows=slice(None), domain=TARGETS[0]):
    """Let the stored scores of a domain's reported maps be others, by a part of their sd."""
    original = history.read_scores(one.finished.uri, one.finished.run_id)
    table = original[domain]
    reported = table.index[table["split"] == "test"]
    spread = table.loc[reported, "score"].std()
    altered = table.assign(score=table["score"].astype(float))
    altered.loc[reported[rows], "score"] += of_sd * spread
    monkeypatch.setattr(history, "read_scores", lambda *_: {**original, domain: altered})
    return altered.loc[reported, "score"]


@pytest.mark.parametrize(("of_sd", "holds"), [(0, True), (0.9e-3, True), (1.2e-3, False), (-1.2e-3, False), (2, False)])
def test_a_run_is_verified_to_a_thousandth_of_the_spread_of_its_scores(one, monkeypatch, of_sd, holds):
    shifted(one, monkeypatch, of_sd)
    found = verify.verify(one.finished.uri, one.finished.run_id, maps=5, trust_model=True)
    assert found.holds is holds and found.maps == 5 and set(found.differences) == {SOURCE, TARGETS[0], TARGETS[2]}
    assert found.differences.pop(TARGETS[0]) == pytest.approx(abs(of_sd), abs=1e-5)
    assert max(found.differences.values()) < 1e-5
    told = history.read_run(one.finished.uri, one.finished.run_id).tag("verified")
    worst = r"2 sd" if of_sd == 2 else "sd"
    assert told.startswith("yes, 2" if holds else "NO, 2") and "5 maps per domain scored again" in told
    assert told.endswith(worst)


@pytest.mark.parametrize(("maps", "holds"), [(2, True), (3, False), (1000, False)])
def test_the_maps_that_are_scored_again_are_spread_over_the_reported_ones(one, monkeypatch, maps, holds):
    """A wrong score in the middle: two maps are the first and the last."""
    reported = (one.kept[TARGETS[0]]["split"] == "test").sum()
    table = shifted(one, monkeypatch, 0.5, [round((reported - 1) / 2)])
    found = verify.verify(one.finished.uri, one.finished.run_id, maps, trust_model=True)
    assert found.holds is holds
    if not holds:  # in units of the sd of the scores that are stored now
        before = one.kept[TARGETS[0]].query("split == 'test'")["score"].std()
        assert found.differences[TARGETS[0]] == pytest.approx(0.5 * before / table.std(), rel=1e-4)


def test_a_run_is_verified_where_every_domain_is_within_the_tolerance():
    found = verify.Verified("r", 1, {"a": verify.TOLERANCE, "b": 0.0})
    assert found.holds and not dataclasses.replace(found, differences={"a": 0.0, "b": verify.TOLERANCE * 1.01}).holds


# ------------------------------------------------------------------------------------------- the report
def stored(store, records, folder, kind="run"):
    """Write records that were made by hand, the oldest first, to an experiment."""
    for i, one in enumerate(records):
        tags = {**one.tags, "hdmap.kind": kind}
        run = store.client.create_run(store.experiment_id, start_time=1000 + i, run_name=one.name, tags=tags)
        record = reopen(store.uri, run.info.run_id)
        record.params(one.params)
        record.metrics(one.metrics)
        for domain, table in one.scores.items():
            table.to_parquet(folder / f"{domain}.parquet")
            record.artifact(folder / f"{domain}.parquet", "scores")
        record.end("FINISHED")


def test_a_report_of_an_experiment_ranks_what_may_be_ranked_and_nothing_else(tmp_path):
    """Beside the runs: settings chosen on targets, on this data and on another, and trials, which see no target."""
    store = Store(new_store(tmp_path / "mlflow.db"), "hdmap")
    runs = grid(sources="A")
    chosen = [retagged(run, oracle="true") for run in grid((("known", 4.0),), "A", (0,))]
    elsewhere = [retagged(run, oracle="true", data_digest="d2") for run in grid((("elsewhere", 4.0),), "A", (0,))]
    stored(store, [*runs, *chosen, *elsewhere], tmp_path)
    stored(store, grid((("trial", 4.0),), "A", (0,)), tmp_path, kind="trial")
    page, tables = write_report(store.uri, "hdmap", tmp_path / "out")
    assert page == tmp_path / "out/report.html"
    assert [standing.label for standing in tables.leaderboard] == ["good/quick", "poor/quick"]
    expected = report_reference.report({"good/quick": runs[:2], "poor/quick": runs[2:]})
    found = [standing.target.value for standing in tables.leaderboard]
    assert found == pytest.approx([row["target"]["value"] for row in expected["leaderboard"]])
    assert len(tables.oracles) == 1 and "known" in str(tables.oracles)
    text = (tmp_path / "out/report.md").read_text()
    assert "known" in text and "elsewhere" not in text and "trial/" not in text
    written = pd.read_csv(tmp_path / "out/report.csv")
    assert set(written["entry"]) == {"good/quick", "poor/quick"}
    assert len(written) == len(runs) * len(DOMAINS) and np.isfinite(written["image_AUROC"]).all()
    (kept,) = store.client.search_runs([store.experiment_id], "tags.`hdmap.kind` = 'report'")
    said = {name: kept.data.tags[f"hdmap.{name}"] for name in ("validation", "data_digest", "simulated", "status")}
    assert said == {"validation": "source_holdout", "data_digest": "d1", "simulated": "true", "status": "finished"}
    assert kept.data.tags[NOTE] == text
    files = {file.path for file in store.client.list_artifacts(kept.info.run_id)}
    assert files == {f"report.{kind}" for kind in ("html", "md", "csv", "tex", "bib")}


def test_an_experiment_of_settings_chosen_on_targets_alone_is_refused(tmp_path):
    store = Store(new_store(tmp_path / "mlflow.db"), "hdmap")
    stored(store, [retagged(run, oracle="true") for run in grid(sources="A", seeds=(0,))], tmp_path)
    with pytest.raises(BadInput):
        write_report(store.uri, "hdmap", tmp_path / "out")
    assert not (tmp_path / "out").exists()
