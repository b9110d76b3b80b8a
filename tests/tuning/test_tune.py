"""A search from end to end: what is tried, what becomes of it, what MLflow shows, and what a killed driver loses."""

import contextlib
import dataclasses
import json
import re
import signal
from pathlib import Path

import optuna
import pandas as pd
import pytest
import starts
from fakes import LONG, alive, trial_command, trial_notes, until
from reference import study as reference
from servers import postgresql

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput, Incomplete
from hdmap_mlflow.execution.executor import ended_elsewhere
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.models import builder
from hdmap_mlflow.process import process_name
from hdmap_mlflow.runs import setup
from hdmap_mlflow.runs.identity import identity_tags
from hdmap_mlflow.tuning import driver
from hdmap_mlflow.tuning.driver import status, tune
from hdmap_mlflow.tuning.search import SearchRequest, check
from hdmap_mlflow.tuning.storage import StudyStorage, look
from hdmap_mlflow.tuning.study import Asked

SMALL = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
TRAINED = "data.image_size=[32,96],model.weights=random,train.max_epochs=3"


def search(
    maps, model="patchcore", trials=6, refit_seeds="", overrides=SMALL, condition="quickstart", composed=None, **more
):
    flags = {"data.root": str(maps), "data.source_domain": "domain_A", "train.seed": 0}
    wanted = SearchRequest(
        model, condition, flags=flags, overrides=overrides, trials=trials, refit_seeds=refit_seeds, study="s", **more
    )
    return check(wanted, composed)


def order(number, text):
    trial_command()
    Path("orders", str(number)).write_text(text)


def launch(jobs=1):
    return Launch(jobs=jobs, ray=False, stagger=0, child=trial_command(), resume="hdmap tune --again")


def runs(store, **tags):
    return {past.name: store.client.get_run(past.run_id) for past in store.runs(study="s", **tags)}


@pytest.mark.slow
def test_a_study_finds_the_better_settings_and_shows_them(maps, store, capsys):
    """The fake AUROC is highest at four neighbours; the published nine are the baseline."""
    asked = search(maps, trials=6, refit_seeds="0,1")
    tune(asked, launch())
    said = capsys.readouterr().out
    (study,) = runs(store, kind="study").values()
    trials, refits = runs(store, kind="trial"), runs(store, kind="run")
    assert study.info.status == "FINISHED" and {t.info.status for t in trials.values()} == {"FINISHED"}
    assert len(trials) == len(trial_notes("end")) - 4 <= 6 and len(refits) == 4
    assert all(t.data.tags["mlflow.parentRunId"] == study.info.run_id for t in (trials | refits).values())
    assert all(note["targets"] == [] for note in trial_notes("begin") if note["trial"] != "refit")
    assert all(note["targets"] == "auto" for note in trial_notes("begin") if note["trial"] == "refit")
    best = look(StudyStorage.of("sqlite:///optuna.db"), "s").best_trial
    assert best.value == max(t.data.metrics["val/image_AUROC"] for t in trials.values()) > 0.75, said
    (winner,) = [name for name in trials if name.startswith("best: ")]
    assert trials[winner].data.tags["hdmap.trial"] == str(best.number) == study.data.tags["hdmap.best_trial"]
    found = {int(t.data.tags["hdmap.trial"]): reference.values(t.data.metrics, ["val_auroc"]) for t in trials.values()}
    course = {
        "study/val_auroc": {number: values[0] for number, values in found.items()},
        "study/best_val_auroc": reference.best_so_far(sorted(found.items()), ["val_auroc"]),
    }
    assert set(study.data.metrics) == set(course)
    for name, wanted in course.items():
        points = store.client.get_metric_history(study.info.run_id, name)
        assert {point.step: point.value for point in points} == wanted
    assert found[0] == [0.75]
    kept = {file.path for file in store.client.list_artifacts(study.info.run_id)}
    drawn = {file.path for file in store.client.list_artifacts(study.info.run_id, "figures")}
    names = ("optimization_history", "slice", "parallel_coordinate", "param_importances")
    assert kept >= {"trials.csv", "best_condition.json"} and drawn == {f"figures/{name}.png" for name in names}
    table = pd.read_csv(asked.folder / "trials.csv")
    assert len(table) == 6 and table["state"][0] == "complete (baseline)"
    assert table["val_auroc"].to_numpy() == pytest.approx(1 - abs(table["model.num_neighbors"] - 4) / 20)  # the fake
    note = study.data.tags["mlflow.note.content"]
    gain = best.value - 0.75
    again = {(r.data.tags["hdmap.role"], int(r.info.run_name[-1])): r.data.metrics for r in refits.values()}
    for columns, count in reference.gains([(s, again["baseline", s], again["best", s]) for s in (0, 1)]).values():
        cells = [f"{mean:{sign}.4f} ± {sd:.4f}" for (mean, sd), sign in zip(columns, ("", "", "+"), strict=True)]
        assert f"| {' | '.join(cells)} | {count} |" in note
    assert (
        f"Trial {best.number} is the best so far: val_auroc {best.value:.4g}" in note
        and f"{gain:+.4f} ± 0.0000" in note
    )
    trained = setup.configure("patchcore", "quickstart-best", str(asked.folder / "best_condition.json"))
    assert trained.model.settings["num_neighbors"] == best.params["model.num_neighbors"]
    assert optuna.load_study(study_name="s", storage="sqlite:///optuna.db").metric_names == ["val_auroc"]
    lines = said.splitlines()
    begun = next(i for i, line in enumerate(lines) if line.startswith("started trial 0 (baseline): model."))
    assert "; log " in lines[begun] and "[1/6] trial 0" in lines[begun + 1], "said when it begins, not when it ends"
    assert "(best so far 0.75, trial 0)" in lines[begun + 1]
    assert "optuna-dashboard sqlite" in said and re.search(r"\[1/6\] trial 0 \(baseline\): val_auroc 0.75", said)

    tune(asked, launch())  # again: nothing is run
    assert len(trial_notes("begin")) == len(trials) + 4
    status(asked.wanted)
    assert f"Trial {best.number} is the best so far" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"search.model.num_neighbors: 1 to 15 then, none now"):
        tune(search(maps, overrides=f"{SMALL},model.num_neighbors=3"), launch())
    with pytest.raises(BadInput, match=r"data.validation: source_holdout then, source_test now"):
        tune(search(maps, overrides=f"{SMALL},data.validation=source_test"), launch())
    other = dataclasses.replace(asked, data=dataclasses.replace(asked.data, digest="of other maps"))
    with pytest.raises(BadInput, match=r"data_digest: \w+ then, of other maps now"):
        tune(other, launch())


@pytest.mark.slow
def test_a_trial_fails_alone_a_pruned_one_is_killed_and_a_bug_stops_the_study(maps, store, capsys):
    asked = search(maps, "reverse_distillation", trials=8, overrides=TRAINED)
    assert asked.pruner == "median"
    order(1, "fail training diverged")
    order(2, "without val/image_AUROC")
    order(6, "reaches 0.3")
    order(7, "bug here")
    with pytest.raises(Incomplete, match="trial 7 met an error .*ZeroDivisionError: here.*goes on"):
        tune(asked, launch())
    (study,) = runs(store, kind="study").values()
    trials = {int(t.data.tags["hdmap.trial"]): t for t in runs(store, kind="trial").values()}
    ended = [trials[n].info.status for n in range(8)]
    assert ended == ["FINISHED", "FAILED", "FINISHED", "FINISHED", "FINISHED", "FINISHED", "KILLED", "FAILED"]
    assert trials[1].data.tags["hdmap.reason"] == "training diverged"
    assert trials[6].data.tags["hdmap.reason"].startswith("pruned at epoch 1 by median")
    found = look(asked.place, "s").trials
    assert [t.state.name for t in found] == [
        "COMPLETE",
        "FAIL",
        "FAIL",
        "COMPLETE",
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "FAIL",
    ]
    assert found[2].user_attrs["reason"] == "failed: its run has no val/image_AUROC"
    assert found[6].intermediate_values == {0: 0.3, 1: 0.3}, "it was stopped before its last epoch"
    assert study.info.status == "FAILED" and "trial 7" in study.data.tags["hdmap.reason"]


@pytest.mark.slow
def test_a_trial_whose_settings_the_model_refuses_together_fails_alone_in_a_run_of_its_own(maps, store, monkeypatch):
    asked, check_config = search(maps, trials=3), builder.check

    def refuses_one(config):
        if config.condition.endswith("-trial-1"):
            raise BadInput("these do not go together")
        return check_config(config)

    monkeypatch.setattr(builder, "check", refuses_one)
    tune(asked, launch())
    trials = {int(t.data.tags["hdmap.trial"]): t for t in runs(store, kind="trial").values()}
    assert [trials[n].info.status for n in range(3)] == ["FINISHED", "FAILED", "FINISHED"]
    tags, (study,) = trials[1].data.tags, runs(store, kind="study").values()
    assert tags["hdmap.reason"] == "these do not go together" and tags["mlflow.parentRunId"] == study.info.run_id
    found = look(asked.place, "s").trials[1]
    assert found.state.name == "FAIL" and found.user_attrs["reason"] == "these do not go together"
    assert found.user_attrs["run_id"] == trials[1].info.run_id
    assert {note["trial"] for note in trial_notes("begin")} == {"0", "2"}


@pytest.mark.slow
def test_a_study_is_recorded_even_where_its_best_settings_cannot_be_trained_again(maps, store, monkeypatch):
    def stops(*_):
        raise RuntimeError("no machine is left")

    monkeypatch.setattr(driver, "_refit", stops)
    with pytest.raises(RuntimeError, match="no machine is left"):
        tune(search(maps, trials=2, refit_seeds="0"), launch())
    (study,) = runs(store, kind="study").values()
    kept = {file.path for file in store.client.list_artifacts(study.info.run_id)}
    assert kept == {"trials.csv", "best_condition.json", "figures"} and study.info.status == "FAILED"
    assert "## Trials" in study.data.tags["mlflow.note.content"] and "hdmap.best_trial" in study.data.tags


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["finished", "killed"])
def test_a_refit_that_another_launch_has_is_waited_for_and_run_where_that_one_was_killed(maps, store, capsys, ended):
    asked = search(maps, trials=1, refit_seeds="0")
    tags = identity_tags(asked.config, asked.data, asked.code)
    other = store.create("of a grid", tags | {"hdmap.kind": "run", "hdmap.process": process_name()}, None)
    tracking.reopen(store.uri, other).metrics({"target_mean/image_AUROC": 0.123})

    def end(elsewhere, *rest):
        if other in elsewhere.values():
            store.close(other, ended)
        return ended_elsewhere(elsewhere, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "ended_elsewhere", end)
        tune(asked, launch())
    refits = [note for note in trial_notes("begin") if note["trial"] == "refit"]
    assert len(refits) == (ended == "killed")
    said = capsys.readouterr().out
    assert f"baseline, seed 0: another launch has it: {process_name()}" in said
    assert ("0.1230" in said) == (ended == "finished"), "its numbers are the other's"


@pytest.mark.slow
def test_a_study_in_which_nothing_completed_concludes_nothing(maps, store):
    order(0, "fail no such layer")
    order(1, "fail no such layer")
    with pytest.raises(Incomplete, match=r"no trial of study s completed \(no such layer\)"):
        tune(search(maps, trials=2), launch(jobs=2))
    assert not Path("results/studies/s/best_condition.json").exists()


@pytest.mark.slow
def test_several_objectives_and_an_oracle_are_told_apart(maps, store, capsys):
    two = search(maps, objective="val_auroc,seconds", trials=4)
    assert two.pruner == "none"
    tune(two, launch(jobs=2))
    found = look(two.place, "s")
    assert [d.name for d in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert all(t.values[1] == 2 * t.params["model.num_neighbors"] for t in found.trials)
    assert (two.folder / "pareto_front.png").exists()
    Path("optuna.db").unlink()
    tune(search(maps, objective="target_mean", trials=2, refit_seeds="0"), launch())
    said = capsys.readouterr().out
    assert (
        "ORACLE" in said and [n["targets"] for n in trial_notes("begin") if n["trial"] != "refit"][-2:] == ["auto"] * 2
    )
    roles = {r.data.tags["hdmap.role"]: r.data.tags["hdmap.oracle"] for r in runs(store, kind="run").values()}
    assert roles["baseline"] == "false" and roles.get("best", "true") == "true"
    (study,) = [s for s in runs(store, kind="study").values() if s.info.run_name.endswith("(oracle)")]
    assert "**ORACLE" in study.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "patchcroe"}, "did you mean 'patchcore'"),
        ({"objective": "auroc"}, "did you mean 'val_auroc'"),
        ({"objective": "seconds"}, "--objective is val_auroc"),
        ({"objective": "val_auroc,target_mean"}, "goes alone"),
        ({"model": "stfpm", "objective": "val_auroc,seconds", "pruner": "median"}, "pruning needs one objective"),
        ({"pruner": "median"}, "patchcore has no epochs"),
        ({"pruner": "halving"}, "--pruner halving.*known: none, median"),
        ({"refit_seeds": "0,x"}, "whole numbers"),
        ({"trials": 0}, "--trials is 1 or more"),
        ({"timeout": 0}, "--timeout more than 0"),
        ({"storage": "optuna.db"}, "give sqlite:///FILE"),
        ({"condition": "quick"}, "unknown condition 'quick'"),
        ({"model": "winclip", "overrides": ""}, "nothing to tune"),
        ({"overrides": "train.seeed=3"}, "unknown key 'train.seeed'"),
    ],
)
def test_a_wrong_search_is_refused_before_anything_starts(maps, more, message):
    with pytest.raises(BadInput, match=message):
        search(maps, **more)
    assert not Path("optuna.db").exists() and not Path("mlflow.db").exists()


def test_what_trials_import_is_imported_beside_the_check_of_the_search(maps, monkeypatch):
    order, checked = [], builder.check
    monkeypatch.setattr(builder, "check", lambda config: order.append("check") or checked(config))
    search(maps, composed=lambda: order.append("begin"))
    assert order[:2] == ["begin", "check"] and order.count("begin") == 1


ADAPTERS = {"adapt.adapters": {"type": "categorical", "choices": ["z", "robust_z"]}}


def test_adapters_are_searched_as_an_oracle_alone_for_validation_sees_no_target(maps, tmp_path):
    file = tmp_path / "own.json"
    own = {
        "name": "patchcore_own",
        "config": {},
        "search": ADAPTERS | {"adapt.k": {"type": "int", "low": 2, "high": 4}},
    }
    file.write_text(json.dumps({"experiment_conditions": [own]}))
    given = {"condition": "own", "condition_file": str(file)}
    with pytest.raises(BadInput, match="adapt.adapters changes targets alone, .* --objective target_mean"):
        search(maps, **given)
    found = search(maps, objective="target_mean", **given)
    config, _ = found.trial(Asked(3, 3, {"adapt.adapters": "robust_z", "adapt.k": 4}, False))
    assert (config.adapt.adapters, config.adapt.k, config.data.target_domains) == (("robust_z",), 4, "auto")


@pytest.mark.parametrize(
    ("choices", "low", "high", "says"),
    [
        (["z", "merg"], 4, 4, "search: unknown adapter 'merg'"),
        (["z", "robust_z"], 1, 4, "search: robust_z needs adapt.k=2"),
        (["z", "adabn+z+z"], 4, 4, "search: .*z stands twice"),
        (["z"], 1, 100, "adapt.k=100 is more than domain_B has"),
    ],
)
def test_adapters_that_some_trial_could_not_have_are_refused_before_the_first(maps, tmp_path, choices, low, high, says):
    file = tmp_path / "own.json"
    law = {"adapt.adapters": {"type": "categorical", "choices": choices}}
    own = {
        "name": "patchcore_own",
        "config": {},
        "search": law | {"adapt.k": {"type": "int", "low": low, "high": high}},
    }
    file.write_text(json.dumps({"experiment_conditions": [own]}))
    with pytest.raises(BadInput, match=says):
        search(maps, objective="target_mean", condition="own", condition_file=str(file))
    assert not Path("optuna.db").exists()


def test_a_trial_that_sees_no_target_is_not_adapted_and_the_refit_is(maps):
    found = search(maps, overrides=SMALL + ",adapt.k=4")
    config, _ = found.trial(Asked(0, 0, {}, True))
    assert (config.adapt.k, config.data.target_domains) == (0, ()) and found.config.adapt.k == 4


@pytest.mark.parametrize(
    ("condition", "overrides", "name"),
    [
        ("quickstart", SMALL, "patchcore_quickstart_domain_A"),
        ("patchcore_quickstart", SMALL, "patchcore_quickstart_domain_A"),
        ("quickstart", f"{SMALL},data.source_domain=domain_B", "patchcore_quickstart_domain_B"),
    ],
)
def test_a_study_is_looked_for_under_the_name_it_was_made_with(maps, capsys, condition, overrides, name):
    flags = {"data.root": str(maps), "data.source_domain": "domain_A", "train.seed": 0}
    wanted = SearchRequest("patchcore", condition, flags=flags, overrides=overrides)
    made = check(wanted)
    assert made.name == name
    optuna.create_study(study_name=name, storage=made.place.url)
    status(wanted)
    assert f"study {name}" in capsys.readouterr().out


@contextlib.contextmanager
def storage(kind):
    if kind == "postgresql":
        with postgresql() as url:
            yield url
    else:
        yield f"{kind}:///{Path.cwd()}/study.db"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_a_killed_study_goes_on_where_it_was_and_two_drivers_share_the_rest(maps, store, kind):
    """SIGKILL in mid-trial, then two drivers at once: every trial ends once, none is lost, none is too many."""
    for number in range(3, 7):
        order(number, "sleep 0.3")
    order(2, "sleep 3600")
    with storage(kind) as url:
        asked = search(maps, trials=6, storage=url)
        first = starts.Work(starts.tune, asked)
        until(lambda: [note for note in trial_notes("begin") if note["trial"] == "2"])
        first.kill()
        before = {note["trial"] for note in trial_notes("end")}
        assert before == {"0", "1"}
        both = [starts.Work(starts.tune, asked, jobs, number=jobs) for jobs in (2, 1)]
        ended = [driver.wait(LONG) for driver in both]
        said = [driver.log.read_text() for driver in both]
        assert ended == [0, 0], said
        found = look(asked.place, "s").get_trials()
    done = [trial for trial in found if trial.state.name == "COMPLETE"]
    lost = [trial for trial in found if trial.user_attrs.get("lost")]
    assert len(done) == 6 and [trial.number for trial in lost] == [2] and len(found) == 7, said
    begun = [note["trial"] for note in trial_notes("begin")]
    assert len(begun) == len(set(begun)), "no trial was run twice"
    again = [trial.user_attrs["settings"] for trial in done].count(lost[0].user_attrs["settings"])
    assert again == 1, "the settings of the lost trial were run"
    until(lambda: not any(alive(note["pid"]) for note in trial_notes("begin")))
    ended = until(
        lambda: (
            (kinds := [r.info.status for r in runs(store, kind="trial").values()]) and "RUNNING" not in kinds and kinds
        )
    )
    assert sorted(set(ended)) == ["FINISHED", "KILLED"] and ended.count("KILLED") == 1
    assert len(runs(store, kind="study")) == 1 and sum("another driver" in out for out in said) <= 1


@pytest.mark.slow
def test_an_interrupted_study_gives_its_trial_back_at_once(maps, store):
    order(1, "sleep 3600")
    asked = search(maps, trials=3)
    driver = starts.Work(starts.tune, asked)
    until(lambda: [note for note in trial_notes("begin") if note["trial"] == "1"])
    driver.send(signal.SIGINT)
    assert driver.wait(LONG) == 130 and "To go on: hdmap tune --again" in driver.log.read_text()
    found = look(asked.place, "s").get_trials()
    assert [t.state.name for t in found] == ["COMPLETE", "FAIL", "WAITING"]
    (study,) = runs(store, kind="study").values()
    assert study.info.status == "KILLED"
