"""What counts as independent: recordings, stretches of files, or maps; and what a run says of it."""

import numpy as np
import pytest
from frames import frame

from hdmap_mlflow.config import build_config, find_condition
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import cards
from hdmap_mlflow.evaluation.sample import MAPS, Sample, choose, counts, dependence, enough, independent
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.runs.result import summarise


def recorded(recordings, maps, correlation=0.5, seed=0, shift=1.5, **columns):
    """A table whose recordings, one after the other in the files, add a level of their own to the scores."""
    rng, of = np.random.default_rng(seed), np.repeat(np.arange(2 * recordings), maps)
    label = of // recordings
    level, own = rng.normal(size=2 * recordings)[of], rng.normal(size=len(of))
    score = np.sqrt(correlation) * level + np.sqrt(1 - correlation) * own + shift * label
    return frame(label, score, recording=[f"r{one}" for one in of], **columns)


def test_independent_maps_are_worth_one_each_and_copies_less():
    rng = np.random.default_rng(0)
    assert np.median([independent(rng.normal(size=400)) for _ in range(50)]) < 1.3
    assert 15 < np.median([independent(np.repeat(rng.normal(size=40), 20)) for _ in range(50)]) < 25
    assert independent(np.zeros(50)) == independent(np.arange(3.0)) == 1


def test_dependence_shows_in_the_order_of_the_files_and_not_in_that_of_the_rows():
    table = recorded(20, 20)
    found = dependence(table)
    assert set(found) == {"good", "fault"} and all(card["maps"] == 400 for card in found.values())
    assert all(0.3 < card["autocorrelation"] < 0.7 and 20 < card["effective"] < 120 for card in found.values())
    assert dependence(table.sample(frac=1, random_state=1)) == found
    shuffled = table.assign(
        score=table.groupby("label")["score"].transform(lambda s: s.sample(frac=1, random_state=2).to_numpy())
    )
    assert dependence(shuffled) == {}


def test_a_state_that_shifts_scores_is_no_dependence():
    rng, group = np.random.default_rng(0), np.tile(np.repeat(["cold", "warm"], 50), 2)
    label = np.repeat([0, 1], 100)
    assert dependence(frame(label, rng.normal(size=200) + 9 * (group == "warm"), group=group)) == {}


def test_few_maps_and_constant_scores_say_nothing_of_their_order():
    assert dependence(recorded(2, 10)) == {}
    assert dependence(frame(np.repeat([0, 1], 50), np.zeros(100))) == {}


def test_stretches_are_neighbours_of_one_class_and_long_where_maps_are_alike():
    table = recorded(20, 20)
    units = Sample("order").units(table)
    for label in (0, 1):
        mine = units[table["label"] == label]
        assert (np.diff(mine) >= 0).all()
        sizes = np.unique(mine, return_counts=True)[1]
        assert sizes.min() >= 10 and sizes.max() - sizes.min() <= 1
    assert not set(units[table["label"] == 0]) & set(units[table["label"] == 1])
    order = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(Sample("order").units(table.iloc[order]), units[order])


def test_recordings_are_the_sample_only_where_every_domain_names_them():
    named, unnamed = recorded(6, 2), recorded(6, 2).assign(recording="")
    assert choose("recordings", {"a": named, "b": named}).name == "recordings"
    assert choose("recordings", {"a": named, "b": unnamed}) == MAPS
    assert choose("recordings", {"a": named.drop(columns="recording")}) == MAPS  # a table of before
    assert choose("maps", {"a": named}) == MAPS and choose("order", {"a": named}).name == "order"
    with pytest.raises(BadInput, match="did you mean 'recordings'.*known: recordings, order, maps"):
        choose("recording", {})


def test_six_recordings_of_each_class_are_enough():
    label = np.repeat([0, 1], 12)
    assert enough(label, None) and enough(label[:1], None)
    assert enough(label, np.arange(24) // 2) and not enough(label, np.arange(24) // 3)
    assert counts(label, np.arange(24) // 3) == {0: 4, 1: 4} and counts(label, None) == {}


def summarised(*tables, sample="recordings"):
    config = build_config(
        "patchcore", find_condition("patchcore", "quickstart"), overrides=f"evaluation.sample={sample}"
    )
    source, *targets = (Scores(name, table) for name, table in zip("ab", tables, strict=False))
    halves = source.table.assign(split=np.where(np.arange(len(source.table)) % 2, "val", "test"))
    return summarise(Scores("a", halves), targets, {}, config=config, run_id="1", uri="x", simulated=False)


def test_a_run_over_recordings_has_wider_intervals_counts_them_and_says_so():
    tables = [recorded(8, 20, seed=seed) for seed in (0, 1)]
    aware, unaware = summarised(*tables), summarised(*tables, sample="maps")
    assert (aware.sample, unaware.sample) == ("recordings", "maps") and aware.metrics == unaware.metrics
    card = aware.cards["intervals"]["b"]
    assert (card["good_recordings"], card["fault_recordings"], card["good"]) == (8, 8, 160)
    assert "good_recordings" not in unaware.cards["intervals"]["b"]
    for name in ("image_AUROC", "image_AP"):
        (low, high), (inner, outer) = card[name], unaware.cards["intervals"]["b"][name]
        assert high - low > 1.5 * (outer - inner)
    rate = aware.cards["thresholds"]["F1"]["domains"]["b"]["TPR_interval"]
    plain = unaware.cards["thresholds"]["F1"]["domains"]["b"]["TPR_interval"]
    assert rate[1] - rate[0] > plain[1] - plain[0]
    assert any("intervals take its maps for independent" in line for line in unaware.remarks())
    assert not any("intervals take its maps" in line for line in aware.remarks())


def test_too_few_recordings_have_no_interval_and_no_grade_but_the_reason():
    result = summarised(recorded(3, 40, correlation=0, shift=6), recorded(3, 40, seed=1, correlation=0, shift=6))
    card = result.cards["intervals"]["a"]
    assert "image_AUROC" not in card and len(card["independent_image_AUROC"]) == 2
    assert result.grade is None and result.rows()[0][4] == "-"
    [line] = [line for line in result.remarks() if line.startswith("a: too few recordings")]
    assert "3 good, 3 fault; 6 of each class are needed" in line and "For independent maps it would be" in line
    assert "FPR_interval" not in result.cards["thresholds"]["F1"]["domains"]["b"]
    group = cards.groups(recorded(3, 10, group="cold"), Sample("recordings"))
    assert "interval" not in group["cold"] and 0.5 < group["cold"]["image_AUROC"] <= 1


def test_recordings_that_validate_and_are_reported_are_a_caution():
    lines = summarised(*[recorded(8, 4)] * 2).remarks()
    assert any("recordings have validation maps and reported maps" in line for line in lines)
