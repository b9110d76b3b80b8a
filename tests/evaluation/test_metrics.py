"""Metrics of scores: equal to scikit-learn's, blind to a monotone rescaling, absent where undefined."""

import numpy as np
import pandas as pd
import pytest
from frames import frame
from hypothesis import given, settings
from hypothesis import strategies as st
from records import grid
from sklearn import metrics as sk

from hdmap_mlflow.config import build_config
from hdmap_mlflow.evaluation import cards
from hdmap_mlflow.evaluation.intervals import rate_interval
from hdmap_mlflow.evaluation.metrics import METRICS, Metric, decisions, image_metrics, join_targets, summary, thresholds
from hdmap_mlflow.evaluation.pooled import over_states
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import Scope
from hdmap_mlflow.report.arrange import arrange
from hdmap_mlflow.report.tables import long_table
from hdmap_mlflow.runs.result import Result


@st.composite
def tables(draw):
    """Both classes, and few enough distinct scores that ties are common."""
    n = draw(st.integers(4, 20))
    label = [0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))]
    score = draw(st.lists(st.integers(-20, 20), min_size=n, max_size=n))
    return frame(label, score)


MONOTONE = {
    "gain": lambda s: 3.5 * s - 7,
    "exponential": lambda s: np.exp(s / 8),
    "cube": lambda s: s**3,
    "rank": lambda s: pd.Series(s).rank(method="dense").to_numpy(),
}


@settings(max_examples=25, deadline=None)
@given(val=tables(), test=tables(), name=st.sampled_from(sorted(MONOTONE)))
def test_metrics_and_decisions_do_not_change_under_a_strictly_monotone_transform(val, test, name):
    joined = MONOTONE[name](np.concatenate([val["score"], test["score"]]).astype(np.float64))
    moved_val, moved = val.assign(score=joined[: len(val)]), test.assign(score=joined[len(val) :])
    before, after = thresholds(val), thresholds(moved_val)
    assert image_metrics(test, before) == image_metrics(moved, after)
    for threshold in before:
        assert decisions(test, before[threshold]) == decisions(moved, after[threshold])


@settings(max_examples=25, deadline=None)
@given(val=tables(), test=tables())
def test_metrics_are_those_of_scikit_learn(val, test):
    fitted = thresholds(val)
    found = image_metrics(test, fitted)
    label, score = test["label"], test["score"].astype(float)
    assert found["image_AUROC"] == sk.roc_auc_score(label, score)
    assert found["image_AP"] == sk.average_precision_score(label, score)
    assert found["baseline_mean_AUROC"] == pytest.approx(1 - found["baseline_max_AUROC"])
    negatives = np.sort(score[label == 0])
    allowed = [cut for cut in [*score, np.inf] if (negatives >= cut).mean() <= 0.01]
    assert found["image_TPR_at_1FPR"] == max((score[label == 1] >= cut).mean() for cut in allowed)
    caught = [cut for cut in score if (score[label == 1] >= cut).mean() >= 0.95]
    assert found["image_FPR_at_95TPR"] == min((negatives >= cut).mean() for cut in caught)
    for cut in fitted.values():
        alarm, made = (score >= cut).astype(int), decisions(test, cut)
        assert made["TPR"] == sk.recall_score(label, alarm)
        assert made["F1"] == sk.f1_score(label, alarm)
        assert made["accuracy"] == sk.accuracy_score(label, alarm)
        assert made["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, alarm))
        assert made.get("precision") == (sk.precision_score(label, alarm) if alarm.any() else None)


@settings(max_examples=25, deadline=None)
@given(val=tables())
def test_thresholds_are_the_best_of_their_kind_on_validation(val):
    fitted, cuts = thresholds(val), val["score"].astype(float)
    made = {name: decisions(val, cut) for name, cut in fitted.items()}
    assert made["normal_q99"]["FPR"] <= 0.01
    assert made["F1"]["F1"] == pytest.approx(max(sk.f1_score(val["label"], cuts >= cut) for cut in cuts.unique()))
    good, fault = (cuts[val["label"] == label] for label in (0, 1))
    best = max((fault >= cut).mean() - (good >= cut).mean() for cut in cuts)
    assert made["youden"]["TPR"] - made["youden"]["FPR"] == pytest.approx(best)


def test_one_class_leaves_only_what_it_defines():
    good = frame([0] * 6, range(6))
    assert image_metrics(good, {"normal_q99": 3.0, "F1": 2.0}) == {"FPR_at_normal_q99": 0.5}
    assert set(thresholds(good)) == {"normal_q99", "normal_q95"}
    assert set(decisions(good, 3)) == {"accuracy", "FPR"}
    assert set(thresholds(frame([1, 1], [1, 2]))) == set()


def test_constant_scores_are_chance_and_not_an_error():
    table = frame([0, 1] * 5, [2] * 10)
    found = image_metrics(table, thresholds(table))
    assert found["image_AUROC"] == 0.5 and found["image_TPR_at_1FPR"] == 0 and found["image_FPR_at_95TPR"] == 1


def test_the_summary_names_the_realised_false_alarms_of_every_target():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 50)
    halves = np.tile(["val", "test"], 50)
    source = Scores("a", frame(label, rng.normal(size=100) + 2 * label, split=halves))
    moved = Scores("b", frame(label, rng.normal(size=100) + 2 * label + 5), {"pixel_AUROC": 0.75})
    named = summary(source, [moved])
    assert named["target/b/FPR_at_normal_q99"] > 0.9 and named["source/FPR_at_normal_q99"] < 0.2
    assert named["target_mean/FPR_at_normal_q99"] == named["target/b/FPR_at_normal_q99"]
    assert named["target/b/pixel_AUROC"] == 0.75 and "source/pixel_AUROC" not in named
    assert named["transfer/gap"] == named["source/image_AUROC"] - named["target_mean/image_AUROC"]


def test_one_row_of_the_table_is_a_metric_with_its_column_and_its_interval_everywhere(monkeypatch):
    row = Metric(
        sk.balanced_accuracy_score,
        threshold="F1",
        joins=(Scope.TARGET_MEAN, Scope.TARGET_WORST),
        interval=lambda label, alarm: rate_interval(label == alarm),
        heading="balanced",
        chooses=True,
    )
    monkeypatch.setitem(METRICS, "image_balanced_accuracy", row)
    rng, label = np.random.default_rng(0), np.repeat([0, 1], 50)
    source = Scores("a", frame(label, rng.normal(size=100) + 2 * label, split=np.tile(["val", "test"], 50)))
    near, far = (Scores(name, frame(label, rng.normal(size=100) + gap * label)) for name, gap in (("b", 2), ("c", 0.5)))
    measured, told = summary(source, [near, far]), cards.build(source, [near, far])
    cut = thresholds(source.part("val"))["F1"]
    wanted = {
        d: decisions(one.part("test"), cut)["balanced_accuracy"]
        for d, one in (("source", source), ("target/b", near), ("target/c", far))
    }
    wanted["val"] = decisions(source.part("val"), cut)["balanced_accuracy"]
    wanted |= {"target_mean": (wanted["target/b"] + wanted["target/c"]) / 2}
    wanted |= {"target_worst": min(wanted["target/b"], wanted["target/c"])}
    assert {scope: measured[f"{scope}/image_balanced_accuracy"] for scope in wanted} == pytest.approx(wanted)
    for domain in "abc":
        low, high = told["intervals"][domain]["image_balanced_accuracy"]
        assert 0 < low < high < 1
    config = build_config("m", {"name": "m", "config": {"source_domain": "a"}})
    result = Result("id", "", config, ["a", "b", "c"], dict.fromkeys("abc", 100), measured, False, told)
    head, _, *lines = result.markdown().splitlines()[2:7]
    assert head.endswith("| balanced |")
    assert [line.split("|")[-2].strip() for line in lines] == [f"{wanted[s]:.3f}" for s in list(wanted)[:3]]
    assert long_table(arrange(grid()))["image_balanced_accuracy"].between(0.5, 1).all()


def test_the_worst_target_of_a_rate_of_errors_is_the_highest(monkeypatch):
    monkeypatch.setitem(METRICS, "errors", Metric(None, higher_is_better=False, joins=(Scope.TARGET_WORST,)))
    assert join_targets({"b": {"errors": 0.25}, "c": {"errors": 0.5}, "d": {}}) == {"target_worst/errors": 0.5}


def test_cold_against_warm_is_measured_within_every_domain_and_sees_an_offset_between_the_states():
    label, group = np.tile([0, 1], 40), np.repeat(["cold", "warm"], 40)
    score = label * 2.0 + (group == "warm") * 10
    table = frame(label, score, group=group)
    assert over_states("b", table) == {"cross/b/cold/warm/image_AUROC": 1.0, "cross/b/warm/cold/image_AUROC": 0.0}
    source = Scores("a", table.assign(split=np.tile(["val", "val", "test", "test"], 20)))
    named = summary(source, [Scores("b", table)])
    assert {name for name in named if name.startswith("cross/") and name.count("/") == 4} == {
        f"cross/{domain}/{pair}/image_AUROC" for domain in "ab" for pair in ("cold/warm", "warm/cold")
    }


@pytest.mark.parametrize(
    ("groups", "pairs"),
    [
        (["", ""], 0),
        (["cold", "cold"], 0),
        (["cold", ""], 0),
        (["cold", "warm", "hot", "idle"], 12),
        (["0", "1", "2", "3", "4"], 0),
        (["cold", "50 %, up"], 0),  # MLflow would refuse the name, and the run with it
        (["cold", "x" * 61], 0),
    ],
)
def test_only_groups_that_a_metric_can_name_are_crossed_and_never_many(groups, pairs):
    label, group = np.tile([0, 1], 2 * len(groups)), np.repeat(groups, 4)
    assert len(over_states("b", frame(label, np.arange(len(label)), group=group))) == pairs


def test_the_worst_target_of_the_faults_found_is_the_lowest_at_both_nominal_rates():
    rates = {"b": {"TPR_at_normal_q99": 0.2, "TPR_at_normal_q95": 0.4}, "c": {"TPR_at_normal_q99": 0.6}}
    assert join_targets(rates) == pytest.approx(
        {
            "target_mean/TPR_at_normal_q99": 0.4,
            "target_worst/TPR_at_normal_q99": 0.2,
            "target_mean/TPR_at_normal_q95": 0.4,
            "target_worst/TPR_at_normal_q95": 0.4,
        }
    )
