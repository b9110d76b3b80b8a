"""Which runs may stand side by side, and which of them are one entry."""

from dataclasses import replace

import pandas as pd
import pytest
from records import grid, record, retagged, scores

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.report.arrange import arrange, is_oracle, reported
from hdmap_mlflow.runs.history import same_maps


def with_params(one, run_id, started=0, **params):
    """Another run of the same entry and place, with other settings."""
    dotted = {name.replace("__", "."): value for name, value in params.items()}
    again = replace(one, run_id=run_id, started=started, params={**one.params, **dotted})
    return retagged(again, fingerprint=run_id)


FIRST = record("good", "A", 0, 2)


@pytest.mark.parametrize(
    "free", ["data__split_seed", "data__target_domains", "tracking__figures", "data__root", "data__workers"]
)
def test_what_does_not_make_an_entry_leaves_the_newest_run_of_a_source_and_seed(free):
    later, earlier = (with_params(FIRST, name, at, **{free: name}) for name, at in (("x", 9), ("y", 4)))
    found = arrange([later, FIRST, earlier])
    assert [entry.label for entry in found.entries] == ["good/quick"] and found.superseded == 2
    assert found.entries[0].runs["A", 0].run_id == "x" and found.entries[0].first.run_id == "x"


def test_of_runs_that_began_at_once_the_last_by_id_stands_and_without_a_fingerprint_all_are_looked_at():
    twins = [replace(FIRST, run_id=name) for name in "bca"]
    assert arrange(twins).runs[0].run_id == "c" and arrange(twins).superseded == 2
    unnamed = [retagged(replace(r, run_id=r.run_id + "x"), fingerprint="") for r in grid()]
    assert len(arrange(unnamed).runs) == 8 and arrange(unnamed).superseded == 0


def test_a_run_of_mlflow_run_is_of_the_same_entry_as_one_of_the_command_line():
    """MLflow logs the project's own parameters, too, one of which is called model."""
    project = with_params(record("good", "A", 1, 2), "project", model="good", seed="1", data_root="demo")
    assert [entry.label for entry in arrange([FIRST, project]).entries] == ["good/quick"]


def test_settings_that_differ_tell_entries_apart_and_stand_in_their_labels():
    deep = with_params(FIRST, "deep", model__depth="5", train__max_epochs="9", data__image_size="64")
    wide = with_params(FIRST, "wide", model__depth="5", train__max_epochs="7", data__image_size="64")
    poor = record("poor", "A", 0, 1)
    slow = retagged(with_params(FIRST, "slow"), condition="slow")
    assert [entry.label for entry in arrange([wide, poor, deep, slow]).entries] == [
        "good/quick (max_epochs=7)",
        "good/quick (max_epochs=9)",
        "good/slow",
        "poor/quick",
    ]
    assert [entry.label for entry in arrange([FIRST, deep]).entries] == [
        "good/quick (depth=3)",
        "good/quick (image_size=64, depth=5, max_epochs=9)",
    ]


@pytest.mark.parametrize(("budget", "entries"), [("maps=600", 1), (None, 2), ("null", 2)])
def test_what_one_budget_buys_on_sources_of_two_sizes_is_one_entry(budget, entries):
    def bought(source, epochs):
        params = {"train.max_epochs": epochs, "train.early_stopping_patience": epochs, "model.epochs": epochs}
        run = record("good", source, 0, 2)
        return replace(run, params=run.params | params | ({"train.budget": budget} if budget else {}))

    assert len(arrange([bought("A", "6"), bought("B", "2")]).entries) == entries


def test_runs_of_one_entry_are_kept_by_source_and_training_seed():
    records = grid((("good", 2),), "BA", (1, 0))
    unseeded = replace(records[0], params={"data.source_domain": "B", "model.depth": "3"})
    found = arrange(records).entries[0].runs
    assert list(found) == [("A", 0), ("A", 1), ("B", 0), ("B", 1)]
    assert all(run.source == source and run.params["train.seed"] == str(seed) for (source, seed), run in found.items())
    assert list(arrange([unseeded]).entries[0].runs) == [("B", 0)]


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"data_digest": ""}, ["data_digest", "3 with d1", "1 with none", "--data-digest"]),
        ({"validation": "synthetic"}, ["validation", "3 with source_holdout", "1 with synthetic", "--validation"]),
    ],
)
def test_a_mixture_is_refused_with_the_counts_and_the_way_out(change, facts):
    first, *others = grid(sources="A")
    with pytest.raises(BadInput) as problem:
        arrange([retagged(first, **change), *others])
    assert all(fact in str(problem.value) for fact in facts)


def test_runs_that_kept_other_shares_for_validation_are_not_ranked():
    first, second, *others = grid(sources="A")
    halves = [replace(r, params={**r.params, "data.val_fraction": "0.5"}) for r in (second, *others)]
    assert len(arrange(halves).runs) == 3
    with pytest.raises(BadInput, match="share of validation maps: 3 with 0.5, 1 with null.*--experiment"):
        arrange([first, *halves])


def test_runs_are_chosen_by_the_beginning_of_their_datas_digest_and_by_protocol():
    first, second, third, last = grid(sources="A")
    mixed = [
        retagged(first, data_digest="abc"),
        retagged(second, data_digest="cab"),
        retagged(third, data_digest="abd", validation="synthetic"),
        last,
    ]
    assert [run.run_id for run in arrange(mixed, data_digest="abc").runs] == [first.run_id]
    assert [run.run_id for run in arrange(mixed, "synthetic").runs] == [third.run_id]
    assert [run.run_id for run in arrange(mixed, "source_holdout", "d1").runs] == [last.run_id]
    with pytest.raises(BadInput, match="no finished run .*--data-digest .*--validation"):
        arrange(mixed, data_digest="bc")


def test_only_what_a_study_chose_on_targets_is_an_oracle():
    assert is_oracle(retagged(FIRST, oracle="true"))
    assert not any(map(is_oracle, (FIRST, retagged(FIRST, oracle="false"), retagged(FIRST, chosen="true"))))


def test_reported_maps_come_in_the_order_of_their_content_whatever_the_files_are_called():
    table = scores("A", 2, 0)
    table.loc[:3, "image_max"] = table["image_max"][0]  # as where recordings clip: the mean decides
    val = scores("A", 2, 1, "val")
    shuffled = pd.concat([table.sample(frac=1, random_state=0), val]).assign(path=[f"{i}.tiff" for i in range(80)])
    found = [reported(replace(FIRST, scores={"A": one}), "A") for one in (pd.concat([val, table]), shuffled)]
    assert len(found[0]) == 40 and (found[0]["split"] == "test").all()
    pd.testing.assert_frame_equal(*(one.drop(columns="path") for one in found))
    expected = sorted(zip(table["label"], table["image_max"], table["image_mean"], strict=True))
    assert list(zip(found[0]["label"], found[0]["image_max"], found[0]["image_mean"], strict=True)) == expected


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"image_mean": lambda t: t["image_mean"] * (1 + 9e-6)}, True),
        ({"image_mean": lambda t: t["image_mean"] * (1 + 2e-5)}, False),
        ({"image_max": lambda t: t["image_max"] * (1 + 1e-9)}, False),
        ({"label": lambda t: 1 - t["label"]}, False),
        ({"path": "other", "score": 0.0}, True),
    ],
)
def test_maps_are_the_same_by_content(change, same):
    table = scores("A", 2, 0)
    assert same_maps(table, table.assign(**change)) == same
    assert not same_maps(table, table[:-1])


@pytest.mark.parametrize(
    ("name", "value", "entries"),
    [
        ("train__budget", "null", 1),
        ("train__budget", "maps=9", 2),
        ("score__image", "published", 1),
        ("score__image", "row", 2),
    ],
)
def test_a_setting_that_older_runs_do_not_have_makes_another_entry_only_where_it_says_something(name, value, entries):
    other = with_params(record("good", "B", 0, 2), "later", **{name: value})
    assert len(arrange([FIRST, other]).entries) == entries
