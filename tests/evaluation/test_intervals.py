"""Intervals cover what they claim, and the paired test errs as often as it claims."""

from dataclasses import astuple

import numpy as np
import pytest
from reference import intervals as reference
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from hdmap_mlflow.evaluation.intervals import (
    auroc_interval,
    compare,
    holm,
    mean_interval,
    placements,
    rate_interval,
)
from hdmap_mlflow.evaluation.pooled import partial_auroc
from hdmap_mlflow.evaluation.resampled import (
    RESAMPLES,
    _precisions,
    ap_interval,
    drawn,
    partial_aurocs,
    pauroc_interval,
)

LABEL = np.repeat([0, 1], [40, 40])


def binormal(rng, auroc, label=LABEL):
    return rng.normal(size=len(label)) + label * norm.ppf(auroc) * np.sqrt(2)


def test_placements_give_the_auroc_with_ties_and_average_over_models():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (3, len(LABEL))) + LABEL
    each = [roc_auc_score(LABEL, row) for row in scores]
    assert placements(LABEL, scores[0]).auroc == pytest.approx(each[0])
    parts = placements(LABEL, scores)
    assert parts.auroc == pytest.approx(np.mean(each)) == pytest.approx(parts.good.mean())


@pytest.mark.slow
@pytest.mark.parametrize(("auroc", "goods", "faults"), [(0.5, 40, 40), (0.75, 40, 20), (0.9, 100, 30), (0.97, 64, 64)])
def test_the_auroc_interval_covers_the_truth_in_95_percent(auroc, goods, faults):
    rng, label = np.random.default_rng(1), np.repeat([0, 1], [goods, faults])
    found = [auroc_interval(label, binormal(rng, auroc, label)) for _ in range(1500)]
    assert 0.93 <= np.mean([i.low <= auroc <= i.high for i in found]) <= 0.975
    assert all(0 <= i.low <= i.value <= i.high <= 1 for i in found)


def test_perfect_separation_is_not_certainty():
    found = auroc_interval(LABEL, LABEL + 0.0)
    assert found.value == found.high == 1 and 0.9 < found.low < 0.99
    assert auroc_interval(LABEL, -LABEL).high == pytest.approx(1 - found.low)
    assert auroc_interval(np.array([0, 1]), np.array([0.0, 1.0])).low < 0.3


@pytest.mark.slow
def test_the_interval_agrees_with_the_bootstrap():
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1], [150, 100])
    score = binormal(rng, 0.8, label)
    good, fault = score[label == 0], score[label == 1]
    again = [roc_auc_score(label, np.concatenate([rng.choice(good, 150), rng.choice(fault, 100)])) for _ in range(1000)]
    np.testing.assert_allclose(auroc_interval(label, score).bounds(), np.quantile(again, [0.025, 0.975]), atol=0.012)


@pytest.mark.slow
def test_the_ap_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], 30)
    big = np.repeat([0, 1], 30_000)
    truth = average_precision_score(big, binormal(rng, 0.8, big))
    hits = [(i := ap_interval(label, binormal(rng, 0.8, label))).low <= truth <= i.high for _ in range(100)]
    assert 0.88 <= np.mean(hits) <= 0.99


def test_the_ap_interval_of_perfect_separation_is_not_a_point():
    found = ap_interval(np.repeat([0, 1], 20), np.arange(40.0))
    assert found.value == 1 and found.high == 1 and 0.7 < found.low < 0.99


@pytest.mark.slow
def test_the_paired_test_errs_in_5_percent_and_finds_what_is_there():
    rng = np.random.default_rng(4)

    def pair(other):
        cells = {}
        for name in "bc":
            shared = rng.normal(size=len(LABEL))
            one, two = (shared + rng.normal(size=len(LABEL)) + LABEL * d for d in (1.5, other))
            cells[name] = (LABEL, one[None], two[None])
        return compare(cells)

    assert 0.03 <= np.mean([pair(1.5).p < 0.05 for _ in range(1500)]) <= 0.07
    assert np.mean([pair(0.3).p < 0.05 for _ in range(100)]) > 0.9


def test_pairing_on_the_same_maps_beats_treating_them_as_different():
    rng = np.random.default_rng(5)
    one = binormal(rng, 0.8)
    two = one - 0.25 * LABEL + 0.1 * rng.normal(size=len(LABEL))
    found = compare({"b": (LABEL, one[None], two[None])})
    apart = auroc_interval(LABEL, one)
    assert found.difference > 0 and found.p < 0.05
    assert found.high - found.low < 0.7 * (apart.high - apart.low)


def test_a_model_is_tied_with_itself():
    score = binormal(np.random.default_rng(6), 0.7)
    assert astuple(compare({"b": (LABEL, score[None], score[None])})) == (0, 0, 0, 1, False)


def test_the_mean_over_domains_is_surer_than_each():
    rng = np.random.default_rng(7)
    cells = {name: (LABEL, binormal(rng, 0.8)[None]) for name in "bcd"}
    found = mean_interval(cells)
    assert found.value == pytest.approx(np.mean([roc_auc_score(LABEL, s[0]) for _, s in cells.values()]))
    widest = max(i.high - i.low for i in (auroc_interval(*cell) for cell in cells.values()))
    assert found.high - found.low < 0.7 * widest


def test_holm_is_the_textbook_adjustment():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_no_false_alarm_in_30_maps_still_allows_11_percent():
    assert rate_interval(np.zeros(30, bool)).high == pytest.approx(0.1135, abs=1e-3)


def made(seed):
    """Labels and two models' scores, some of them tied, of a few maps; classes of a single map among them."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat([0, 1], rng.integers(1, 12, 2)))
    models, distance = rng.integers(1, 4, 2), rng.integers(0, 9, 2)
    return label, *(rng.integers(0, 9, (m, len(label))) + d * label for m, d in zip(models, distance, strict=True))


def same(found, wanted):
    np.testing.assert_allclose(astuple(found)[:-1], wanted, atol=1e-8)


@pytest.mark.parametrize("seed", range(40))
def test_every_interval_and_test_is_the_naive_references(seed):
    label, one, other = made(seed)
    more, third, fourth = made(seed + 1000)
    same(auroc_interval(label, one), reference.auroc_interval(label, one))
    same(auroc_interval(more, third[0]), reference.auroc_interval(more, third[0]))
    cells = {"b": (label, one), "c": (more, third)}
    same(mean_interval(cells), reference.mean_interval(cells))
    for cells in (
        {"b": (label, one, other)},
        {"b": (label, one, other), "c": (more, third, fourth)},
        {"b": (label, one, one[::-1]), "c": (more, third, fourth)},
    ):
        same(compare(cells), reference.compare(cells))
    same(rate_interval(np.arange(40) < seed), reference.rate_interval(seed, 40))
    p_values = np.random.default_rng(seed).uniform(size=seed % 6 + 1)
    assert holm(p_values) == pytest.approx(reference.holm(p_values))


@pytest.mark.parametrize("seed", range(6))
def test_the_intervals_of_resamples_are_the_naive_references(seed):
    label, one, _ = made(seed)
    for some in (label, np.array([0, 1, 0, 1])):  # two maps a class are the fewest to resample
        score = one[0, : len(some)]
        same(ap_interval(some, score), reference.ap_interval(some, score))
        same(pauroc_interval(some, score), reference.pauroc_interval(some, score))


def test_an_interval_holds_its_value_just_below_perfect_separation():
    score = np.arange(40.0)
    score[19] = 20.5  # one good map beats one fault map
    for interval, least in ((ap_interval, 0.8), (auroc_interval, 0.8), (pauroc_interval, 0.7)):
        found = interval(np.repeat([0, 1], 20), score)
        assert least < found.low < found.value < found.high < 1


@pytest.mark.parametrize("faults", [1, 3])
def test_a_difference_on_a_few_maps_is_never_certain(faults):
    label = np.repeat([0, 1], [6, faults])
    ahead, behind = label + 0.0, np.zeros(len(label))  # both without a variance of their own
    found = compare({"b": (label, ahead, behind)})
    assert found.difference == 0.5 and found.p > 0.001 and found.low < 0.5 < found.high


def recorded(seed, shared=False):
    """Labels, scores with ties and recordings of a few maps; `shared` recordings hold maps of both classes."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], rng.integers(8, 30, 2))
    recording = rng.integers(0, 5, len(label)) + (0 if shared else 5 * label)
    recording[:2], recording[-2:] = (0, 1), (0, 1) if shared else (5, 6)  # at least two in a class
    order = rng.permutation(len(label))
    return label[order], (rng.integers(0, 9, len(label)) + 2 * label + recording % 2)[order] + 0.0, recording[order]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_the_variance_over_recordings_is_obuchowskis_written_out(seed, shared):
    label, score, recording = recorded(seed, shared)
    wanted = reference.clustered_variance(label, score, recording)
    assert placements(label, score, recording).variance == pytest.approx(wanted, abs=1e-10)
    named = np.array([f"recording {code}" for code in recording])
    assert auroc_interval(label, score, named) == auroc_interval(label, score, recording)


@pytest.mark.parametrize("seed", range(10))
def test_recordings_of_one_map_have_delongs_variance_and_students_width(seed):
    label, score, _ = recorded(seed)
    alone = np.random.default_rng(seed).permutation(len(label))
    parts, plain = placements(label, score, alone), placements(label, score)
    assert parts.variance == pytest.approx(plain.variance, abs=1e-10)
    assert parts.degrees == min(label.sum(), (1 - label).sum()) - 1
    wide, narrow = auroc_interval(label, score, alone), auroc_interval(label, score)
    assert wide.low < narrow.low < narrow.high < wide.high


FIGURES = [
    (ap_interval, _precisions, average_precision_score),
    (pauroc_interval, partial_aurocs, reference.partial_auroc),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("interval", "figures", "naive"), FIGURES)
def test_whole_recordings_are_resampled(interval, figures, naive, seed):
    label, score, recording = recorded(seed)
    wanted = reference.spread_over_recordings(label, score, recording, RESAMPLES, naive)
    assert figures(label, score, drawn(label, recording)).std(ddof=1) == pytest.approx(wanted, abs=1e-12)
    found = interval(label, score, recording)
    assert found.value == interval(label, score).value and found.low < found.value < found.high


def test_the_partial_auroc_of_all_maps_once_is_scikit_learns():
    label, score, _ = recorded(0)
    once = np.ones((1, len(label)), int)
    for scores in (score, np.round(score), label + 0.0, -label):
        assert partial_aurocs(label, scores, once)[0] == pytest.approx(partial_auroc(label, scores), abs=1e-12)


def test_maps_that_repeat_their_recording_are_worth_no_more_than_it():
    """50 copies of a recording's map say what the one map says; intervals for independent maps would shrink."""
    rng, label = np.random.default_rng(3), np.repeat([0, 1], 12)
    score, other = (binormal(rng, 0.8, label) for _ in range(2))
    many, recording = [np.repeat(row, 50) for row in (label, score, other)], np.repeat(np.arange(24), 50)
    once = np.arange(24)
    assert auroc_interval(*many[:2], recording).bounds() == pytest.approx(auroc_interval(label, score, once).bounds())
    for interval in (ap_interval, pauroc_interval):
        assert interval(*many[:2], recording).bounds() == pytest.approx(interval(label, score, once).bounds())
    cells = {"b": (many[0], many[1][None], many[2][None])}, {"b": (label, score[None], other[None])}
    tests = compare(cells[0], {"b": recording}), compare(cells[1], {"b": once})
    assert astuple(tests[0]) == pytest.approx(astuple(tests[1]))
    means = [
        mean_interval({"b": cell["b"][:2], "c": cell["b"][:2]}, {"b": of, "c": of})
        for cell, of in zip(cells, (recording, once), strict=True)
    ]
    assert means[0].bounds() == pytest.approx(means[1].bounds())
    alarm = score > 1
    rates = rate_interval(np.repeat(alarm, 50), recording), rate_interval(alarm, once)
    assert rates[0].low < rates[1].low * 1.2 and rates[0].high > rates[1].high * 0.8


def test_perfect_separation_of_few_recordings_is_not_certainty():
    label = np.repeat([0, 1], 500)
    found = auroc_interval(label, label + 0.0, np.arange(1000) // 50)
    assert found.low < 0.85 < auroc_interval(label, label + 0.0).low
    for interval in (ap_interval, pauroc_interval):
        assert interval(label, label + 0.0, np.arange(1000) // 50).low < 0.9
    rate = rate_interval(np.zeros(500, bool), np.arange(500) // 50)
    assert rate.high == pytest.approx(rate_interval(np.zeros(10, bool)).high, abs=0.1) and rate.low == 0


def test_one_recording_in_a_class_says_next_to_nothing():
    label, recording = np.repeat([0, 1], 20), np.repeat([0, 1], 20)
    rng = np.random.default_rng(0)
    one, two = binormal(rng, 0.7, label), binormal(rng, 0.9, label)
    found = auroc_interval(label, one, recording)
    assert found.high - found.low > 0.8
    test = compare({"b": (label, one[None], two[None])}, {"b": recording})
    assert test.p > 0.3 and test.low < 0 < test.high
    assert rate_interval(np.arange(20) < 3, np.zeros(20, int)).bounds() == [0, 1]


@pytest.mark.parametrize(("faults", "goods", "few"), [(6, 6, False), (5, 6, True), (6, 5, True), (None, None, False)])
def test_of_fewer_than_six_recordings_of_a_class_it_is_said(faults, goods, few):
    label, score = np.repeat([1, 0], 30), np.random.default_rng(0).normal(size=60)
    units = faults and {"b": np.concatenate([np.arange(30) % faults, 100 + np.arange(30) % goods])}
    assert mean_interval({"b": (label, score[None])}, units or None).few == few
    assert compare({"b": (label, score[None], -score[None])}, units or None).few == few
