"""What a study concludes, against the independent reference."""

import re
from datetime import datetime, timedelta
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from reference import study as reference

from hdmap_mlflow.config import DataConfig, ModelConfig, RunConfig
from hdmap_mlflow.models.searchspace import Int
from hdmap_mlflow.tuning import findings
from hdmap_mlflow.tuning.search import DIRECTIONS, Search
from hdmap_mlflow.tuning.space import Space
from hdmap_mlflow.tuning.study import winner

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
CONFIG = RunConfig(condition="c", data=DataConfig(), model=ModelConfig(name="m", settings={"n": 3}))
SPACE = Space({"model.n": Int(low=1, high=9)}, CONFIG)


def trial(number, value=None, *more, state="complete", baseline=False, reason=""):
    found = None if value is None else [value, *more]
    return {
        "number": number,
        "state": state,
        "values": found,
        "settings": {"model.n": number + 3},
        "baseline": baseline,
        "seconds": 10.26 + number,
        "reason": reason,
    }


def frozen(one):
    """The trial as Optuna keeps it."""
    notes = {"settings": one["settings"], "reason": one["reason"]} | ({"lost": True} if one["state"] == "lost" else {})
    notes |= {"baseline": one["settings"]} if one["baseline"] else {}
    made = create_trial(state=STATES[one["state"]], values=one["values"], user_attrs=notes)
    began = datetime(2026, 1, 1)
    ended = None if one["state"] == "running" else began + timedelta(seconds=one["seconds"])
    made.number, made.datetime_start, made.datetime_complete = one["number"], began, ended
    return made


ONE, TWO, ORACLE = ["val_auroc"], ["val_auroc", "seconds"], ["target_mean"]
CASES = [
    (ONE, [trial(0, 0.75, baseline=True), trial(1, 0.9), trial(2, 0.9), trial(3, 0.6)]),
    (ONE, [trial(0, 0.75, baseline=True), trial(1, 0.7), trial(2, state="pruned", reason="at epoch 1")]),
    (ONE, [trial(0, state="failed", baseline=True, reason="no such layer"), trial(1, 0.5), trial(2, state="running")]),
    (ONE, [trial(0, state="lost", baseline=True), trial(1, 0.8, baseline=True), trial(2, state="failed", reason="x")]),
    (TWO, [trial(0, 0.8, 9.0, baseline=True), trial(1, 0.9, 8.0), trial(2, 0.9, 3.0), trial(3, 0.1, 1.0)]),
    (ORACLE, [trial(0, 0.55, baseline=True), trial(1, 0.65)]),
    (ONE, [trial(0, state="failed", baseline=True), trial(1, state="running")]),
]


def numbers(text):
    return [float(found) for found in re.findall(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?!\w)", text)]


@pytest.mark.parametrize(("objectives", "trials"), CASES)
def test_the_winner_and_the_rows_of_a_study_are_the_references(objectives, trials):
    study = optuna.create_study(directions=[DIRECTIONS[name] for name in objectives])
    for one in trials:
        study.add_trial(frozen(one))
    best, wanted = winner(study), reference.winner(trials, objectives)
    assert (best and best.number) == (wanted and wanted["number"])
    assert [findings.trial_row(frozen(one), objectives) for one in trials] == [
        reference.row(one, objectives) for one in trials
    ]


@pytest.mark.parametrize(("objectives", "trials"), CASES)
def test_the_headline_of_a_study_says_the_references_numbers(objectives, trials):
    told = reference.headline(trials, objectives)
    best = next((frozen(one) for one in trials if one["number"] == told["best"]), None)
    lines = findings.headline([frozen(one) for one in trials], best, objectives)
    assert ("ORACLE" in lines[0]) == (objectives == ORACLE)
    counted = next(line for line in lines if "trials:" in line)
    assert numbers(counted)[0] == len(trials) and len(numbers(counted)) == 1 + len(told["counts"])
    assert all(f"{count} {state}" in counted for state, count in told["counts"].items())
    assert any(" is the best so far: " in line for line in lines) == (best is not None)
    if best:
        gain = [round(number, 4) for number in told["baseline"] or ()]
        assert numbers(lines[-1]) == [told["best"], *told["values"], *gain, told["best"] + 3]
        assert all(name in lines[-1] for name in objectives)


def metrics(value, without=""):
    found = {name: value + i / 100 for i, name in enumerate(reference.COMPARED)}
    return {name: number for name, number in found.items() if name != without}


@pytest.mark.parametrize(
    "refits",
    [
        [(0, metrics(0.5), metrics(0.8)), (1, metrics(0.6), metrics(0.7)), (2, metrics(0.4), metrics(0.41))],
        [(0, metrics(0.5), metrics(0.45))],
        [(0, None, metrics(0.8)), (1, metrics(0.6), None), (2, metrics(0.4), metrics(0.9))],
        [(0, metrics(0.5), metrics(0.8, "target_mean/image_AUROC")), (1, metrics(0.6), metrics(0.7))],
        [(0, None, None)],
    ],
)
def test_the_gain_of_trained_again_settings_is_paired_by_seed(refits):
    rows = findings.gains([findings.Refit(*one) for one in refits])
    wanted = reference.gains(refits)
    assert [row[0] for row in rows] == [findings.COMPARED[name] for name in wanted]
    for row, (columns, count) in zip(rows, wanted.values(), strict=True):
        assert row[4] == str(count)
        for cell, (mean, spread) in zip(row[1:4], columns, strict=True):
            assert numbers(cell) == pytest.approx([mean] if spread is None else [mean, spread], abs=5.1e-5)
    trials = [trial(0, 0.75, baseline=True), trial(1, 0.9)]
    end = findings.Conclusion(
        [frozen(one) for one in trials],
        frozen(trials[1]),
        [],
        {},
        "hdmap train",
        [findings.Refit(*one) for one in refits],
    )
    note = findings.note("s", end, ONE, SPACE)
    failed = [
        (seed, role)
        for seed, *both in refits
        for role, found in zip(("baseline", "best"), both, strict=True)
        if found is None
    ]
    assert re.findall(r"seed (\d+): the (\w+) failed", note) == [(str(seed), role) for seed, role in failed]
    assert "| model.n | 1 to 9 | 3 | **4** |" in note and "| 1 | complete | 0.9 |" in note


@pytest.mark.parametrize("objectives", [ONE, ["val_auroc", "seconds"], ["val_auroc", "memory", "seconds"], ORACLE])
@pytest.mark.parametrize("without", ["", "val/image_AUROC", "cost/evaluate_seconds", "target_mean/image_AUROC"])
def test_a_trial_is_judged_by_the_metrics_of_its_run(objectives, without):
    found = {
        "val/image_AUROC": 0.7,
        "target_mean/image_AUROC": 0.6,
        "source/image_AUROC": 0.9,
        "cost/fit_seconds": 20,
        "cost/evaluate_seconds": 3,
        "cost/fit_peak_MB": 100,
        "cost/evaluate_peak_MB": 300,
    }
    found.pop(without, None)
    wanted = reference.values(found, objectives)
    search = SimpleNamespace(objectives=tuple(objectives))
    if wanted is None:
        with pytest.raises(KeyError, match=without):
            Search.values(search, found)
    else:
        assert Search.values(search, found) == wanted


def test_an_oracle_of_adapters_is_judged_by_the_targets_as_they_were_adapted():
    found = {"target_mean/image_AUROC": 0.6, "adapted/merge-z/k16/target_mean/image_AUROC": 0.7}
    found |= {"adapted/merge-z/k16/target_mean/image_AUROC_sd": 0.1, "adapted/merge-z/k16/target/B/image_AUROC": 0.9}
    assert Search.values(SimpleNamespace(objectives=("target_mean",)), found) == [0.7]


def test_trials_are_listed_from_the_best_down_and_those_that_did_not_complete_last():
    made = [create_trial(state=TrialState.COMPLETE, values=[value]) for value in (0.5, 0.9, 0.7)]
    pruned = create_trial(state=TrialState.PRUNED)
    listed = findings.ranked([pruned, *made])
    assert [trial.values and trial.values[0] for trial in listed] == [0.9, 0.7, 0.5, None]
