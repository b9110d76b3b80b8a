"""What a study may draw: the registry's ranges, narrowed or fixed by a condition, and never an impossible one."""

import json

import pytest
from optuna.trial import FixedTrial

from hdmap_mlflow import run, space
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.findings import condition_file
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.registry import REGISTRY

FLAGS = {"data.source_domain": "domain_A"}


def read(model="patchcore", search=None, overrides="", **config):
    return space.read(model, {"name": "c", "config": config, "search": search or {}}, FLAGS, overrides)


@pytest.mark.parametrize("model", [name for name, entry in REGISTRY.items() if entry.space])
def test_every_space_of_the_registry_is_possible_and_asks_for_settings_that_are_there(model):
    dimensions = {name: space.Dimension(**law) for name, law in REGISTRY[model].space.items()}
    assert all("|" not in space.words(one) for one in dimensions.values()), "a pipe breaks a Markdown table"
    assert all(other in dimensions for one in dimensions.values() for other in one.when)


def test_the_baseline_is_what_was_published_whatever_the_condition_says_of_a_searched_setting():
    found = read(num_neighbors=3, image_size=[64, 64])
    assert found.baseline() == {"model.coreset_sampling_ratio": 0.1, "model.num_neighbors": 9}
    assert found.config.data.image_size == (64, 64)


def test_a_condition_narrows_replaces_fixes_and_adds_and_an_override_fixes():
    search = {
        "num_neighbors": {"low": 2, "high": 4},
        "model.coreset_sampling_ratio": 0.02,
        "data.batch_size": {"type": "categorical", "choices": [8, 16]},
        "max_bank_mb": {"type": "int", "low": 10, "high": 100},
    }
    found = read(search=search, overrides="data.batch_size=4")
    assert found.dimensions["model.num_neighbors"].high == 4
    assert set(found.dimensions) == {"model.num_neighbors", "model.max_bank_mb"}
    assert found.config.model.settings["coreset_sampling_ratio"] == 0.02 and found.config.data.batch_size == 4
    assert not found.holds({"model.num_neighbors": 9}), "the published value lies outside now"
    drawn = found.draw(FixedTrial({"model.num_neighbors": 3, "model.max_bank_mb": 50}))
    assert found.place(drawn).model.settings["num_neighbors"] == 3


def test_a_setting_is_drawn_only_where_it_matters():
    found = read("draem_sevnet")
    values = found.baseline() | {"model.severity_head_mode": "none"}
    assert set(found.draw(FixedTrial(values))) == {"train.learning_rate", "model.severity_head_mode"}
    assert set(found.draw(FixedTrial(found.baseline()))) == set(found.dimensions)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"num_neighbors": {"low": 9, "high": 2}}, "low 9 is above high 2"),
        ({"num_neighbors": {"low": 1, "high": 99}}, "does not lie within 1 to 15"),
        ({"num_neighbors": {"type": "integer", "low": 1, "high": 9}}, "type"),
        ({"num_neighbors": {"type": "int", "low": 1.5, "high": 9}}, "whole numbers"),
        ({"num_neighbors": {"type": "int", "low": 0, "high": 9, "log": True}}, "log needs low above 0"),
        ({"num_neighbors": {"type": "int", "low": 1, "high": 9, "step": 0}}, "step 0"),
        ({"num_neighbors": {"low": 1, "high": 9, "hihg": 3}}, "hihg"),
        ({"num_neighbors": {"type": "categorical", "choices": []}}, "at least one"),
        ({"num_neighbors": {"type": "categorical", "choices": ["many"]}}, "cannot be 'many'"),
        ({"num_neighbours": {"low": 1, "high": 2}}, "did you mean 'model.num_neighbors'"),
        ({"num_neighbours": {"type": "int", "low": 1, "high": 2}}, "unknown key 'model.num_neighbours'"),
        ({"train.learning_rat": {"type": "float", "low": 1, "high": 2}}, "unknown setting 'train.learning_rat'"),
        ({"modle.num_neighbors": 3}, "unknown section 'modle'"),
        ({"split_seed": {"type": "int", "low": 0, "high": 9}}, "decides what is measured"),
        ({"layers": 3}, "layers"),
        ({"learning_rate": {"type": "float", "low": 0.1, "high": 2}}, "fitted in one pass, without an optimizer"),
        ({"num_neighbors": {"low": 2, "high": 4, "when": {"model.none": [1]}}}, "'model.none', which does not exist"),
        ({"num_neighbors": 3, "coreset_sampling_ratio": 0.1}, "nothing to tune"),
    ],
)  # fmt: skip
def test_an_impossible_search_is_refused_in_one_line(search, message):
    with pytest.raises(BadInput) as problem:
        read(search=search)
    assert message in str(problem.value) and "\n" not in str(problem.value)


def test_what_follows_from_a_setting_that_is_drawn_is_worked_out_for_every_trial():
    search = {"batch_size": {"type": "int", "low": 2, "high": 9}}
    drawn = {"data.batch_size": 3}
    assert builder.check(read("ganomaly", search).place(drawn)).model.settings["batch_size"] == 3
    given = read("ganomaly", search, "model.batch_size=7")
    assert builder.check(given.place(drawn)).model.settings["batch_size"] == 7
    search["model.batch_size"] = {"type": "int", "low": 1, "high": 9}
    own = read("ganomaly", search).place(drawn | {"model.batch_size": 4})
    assert builder.check(own).model.settings["batch_size"] == 4


def test_a_model_without_a_space_says_so(monkeypatch):
    with pytest.raises(BadInput, match="winclip has nothing to tune"):
        read("winclip")


def test_the_best_settings_as_a_condition_are_the_run_that_was_tried(tmp_path):
    """Flat and dotted keys, a fixed setting, an override and a setting that did not matter come together."""
    condition = {"name": "c", "config": {"learning_rate": 0.5, "image_size": [64, 64], "severity_weight": 0.3},
                 "search": {"score_combination": "maximum"}}  # fmt: skip
    found = space.read("draem_sevnet", condition, FLAGS, "data.batch_size=2")
    settings = {"train.learning_rate": 2e-4, "model.severity_head_mode": "none"}
    content = condition_file(found, condition, "data.batch_size=2", "best", "", settings)
    (tmp_path / "best.json").write_text(json.dumps(content))
    trained = run.configure("draem_sevnet", "best", str(tmp_path / "best.json"), FLAGS)
    expected = builder.check(found.place(settings))
    assert trained.data == expected.data and trained.train == expected.train and trained.model == expected.model
