"""Whether another validation strategy would have chosen the same, by hand and on altered validation scores."""

from dataclasses import replace

import pytest
from records import grid, record, retagged
from reference import report as reference

from hdmap_mlflow.report import write
from hdmap_mlflow.report.agreement import agreements
from hdmap_mlflow.report.arrange import arrange
from hdmap_mlflow.report.page import markdown

MODELS = (("good", 2.5), ("fair", 1.6), ("poor", 0.8))


def synthetic(runs, turned=()):
    """The same runs under `synthetic`; of the sources `turned` what was best on validation is worst there."""

    def again(one):
        own = one.scores[one.source]
        if one.source in turned:
            own = own.assign(score=own["score"].where(own["split"] != "val", -own["score"]))
        params = one.params | {"data.validation": "synthetic", "data.val_fraction": "null"}
        found = retagged(one, validation="synthetic", fingerprint=f"s{one.tag('fingerprint')}")
        return replace(found, run_id=f"s{one.run_id}", params=params, scores={**one.scores, one.source: own})

    return [again(one) for one in runs]


def found(own, other):
    return agreements(arrange(own), {"synthetic": arrange(other)})


def reached(runs, model, source):
    some = [one for one in runs if one.tag("model") == model and one.source == source]
    values = [reference.auroc(reference.rows(one, domain)) for one in some for domain in reference.targets(one)]
    return sum(values) / len(values)


def test_on_every_source_the_choices_of_both_and_what_they_reach_in_the_reports_own_runs():
    own = grid(MODELS)
    same, turned = found(own, synthetic(own, turned="B"))
    assert (same.source, turned.source) == ("A", "B") and {same.strategy, turned.strategy} == {"synthetic"}
    for one, other in ((same, "good"), (turned, "poor")):
        assert (one.own, one.other, one.entries) == ("good/quick", f"{other}/quick", 3)
        assert one.reached == pytest.approx(reached(own, "good", one.source))
        assert one.other_reached == pytest.approx(reached(own, other, one.source))
        assert one.best == pytest.approx(max(reached(own, model, one.source) for model, _ in MODELS))
    assert (same.tau, turned.tau) == (pytest.approx(1), pytest.approx(-1))


def test_target_scores_of_the_other_strategys_runs_count_for_nothing():
    own = grid(MODELS)
    other = [replace(one, scores={one.source: one.scores[one.source]}) for one in synthetic(own)]
    assert [vars(one) for one in found(own, other)] == [vars(one) for one in found(own, synthetic(own))]


def test_entries_are_judged_that_both_strategies_ran_in_full_and_two_of_them_are_needed():
    own = grid(MODELS)
    other = [one for one in synthetic(own) if not (one.tag("model") == "fair" and one.params["train.seed"] == "1")]
    assert [one.entries for one in found(own, other)] == [2, 2]
    alone = [one for one in other if one.tag("model") != "poor"]
    assert found(own, alone) == []
    deeper = [replace(one, params=one.params | {"model.depth": "4"}) for one in other if one.tag("model") == "poor"]
    assert found(own, [*alone, *deeper]) == [], "another setting is another entry"


def test_a_constant_validation_has_no_correlation():
    own = grid(MODELS)
    flat = [
        replace(one, scores={**one.scores, one.source: one.scores[one.source].assign(score=0.0)})
        for one in synthetic(own)
    ]
    assert {one.tau for one in found(own, flat)} == {None}


def test_the_report_of_one_strategy_says_what_the_other_would_have_chosen(monkeypatch):
    own = grid(MODELS)
    optimistic = [retagged(one, validation="source_test", fingerprint=f"t{one.run_id}") for one in own]
    elsewhere = [retagged(one, data_digest="d2") for one in synthetic(own)]
    everything = [*own, *synthetic(own, turned="B"), *optimistic, *elsewhere]
    monkeypatch.setattr(write.history, "read_experiment", lambda *_, **__: (everything, []))
    tables = write.compare("uri", "hdmap", "source_holdout", "d1")
    assert [one.strategy for one in tables.agreements] == ["synthetic"] * 2
    text = markdown(tables)
    assert "## Agreement of validation strategies" in text
    (note,) = [line for line in text.splitlines() if "chooses as" in line]
    regret = (reached(own, "good", "B") - reached(own, "poor", "B")) / 2
    assert f"`synthetic` chooses as `source_holdout` does on 1 of 2 sources; mean regret {regret:.3f}" in note
    assert "of `source_holdout` 0.000" in note


def test_where_the_other_strategys_runs_cannot_be_ranked_the_report_says_so_and_stands(monkeypatch):
    own = grid(MODELS)
    mixed = synthetic(own)
    mixed[0] = replace(mixed[0], params=mixed[0].params | {"data.val_fraction": "0.3"})
    monkeypatch.setattr(write.history, "read_experiment", lambda *_, **__: ([*own, *mixed], []))
    tables = write.compare("uri", "hdmap", "source_holdout")
    assert tables.agreements == [] and any("agreement with synthetic" in line for line in tables.missing)


def test_without_runs_of_another_strategy_there_is_no_such_table(monkeypatch):
    own = [record("good", "A", 0, 2.5), record("poor", "A", 0, 1.0)]
    monkeypatch.setattr(write.history, "read_experiment", lambda *_, **__: (own, []))
    assert "Agreement" not in markdown(write.compare("uri", "hdmap"))
