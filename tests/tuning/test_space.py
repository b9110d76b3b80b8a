"""What a study may draw: the registry's ranges, narrowed or fixed by a condition, and never an impossible one."""

import inspect
import json

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.models.searchspace import DIMENSION
from hdmap_mlflow.runs import setup
from hdmap_mlflow.tuning import space
from hdmap_mlflow.tuning.findings import condition_file
from hdmap_mlflow.tuning.request import SearchRequest

FLAGS = {"data.source_domain": "domain_A"}


def read(model="patchcore", search=None, overrides="", **config):
    return space.read(model, {"name": "c", "config": config, "search": search or {}}, FLAGS, overrides)


LAWS = {
    "float": ({"type": "float", "low": 0, "high": 2}, FloatDistribution(0, 2)),
    "float log": ({"type": "float", "low": 0.01, "high": 1, "log": True}, FloatDistribution(0.01, 1, log=True)),
    "float step": ({"type": "float", "low": 0.1, "high": 0.7, "step": 0.2}, FloatDistribution(0.1, 0.7, step=0.2)),
    "int": ({"type": "int", "low": 2, "high": 9}, IntDistribution(2, 9)),
    "int step": ({"type": "int", "low": 1, "high": 9, "step": 4}, IntDistribution(1, 9, step=4)),
    "int log": ({"type": "int", "low": 1, "high": 64, "log": True, "step": 1}, IntDistribution(1, 64, log=True)),
    "one": ({"type": "int", "low": 3, "high": 3}, IntDistribution(3, 3)),
    "choices": ({"type": "categorical", "choices": [None, "a", 2]}, CategoricalDistribution((None, "a", 2))),
}


def asked(found, number=0):
    """What is drawn by chance, and Optuna's own account of where from."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number)).ask()
    return found.draw(trial), trial.distributions


@pytest.mark.parametrize("law", LAWS)
def test_a_law_is_optunas_distribution_and_holds_what_is_drawn_from_it(law):
    one = DIMENSION.validate_python(LAWS[law][0])
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    values = [space.suggest(one, "x", trial), *(space.suggest(one, f"x{i}", trial) for i in range(20))]
    assert set(trial.distributions.values()) == {LAWS[law][1]} and all(map(one.holds, values))
    ends = (None, "a", 2) if law == "choices" else (LAWS[law][1].low, LAWS[law][1].high)
    assert one.ends() == ends and all(map(one.holds, ends))


@pytest.mark.parametrize(
    ("law", "values"),
    [
        ("float", [-0.1, 2.1, True, None, "1", (1,)]),
        ("float log", [0.009, 1.1]),
        ("float step", [0.2, 0.6, 0.9, 0.0]),
        ("int", [1, 10, 2.5, False]),
        ("int step", [2, 3, 13, -3]),
        ("int log", [0, 65, 1.5]),
        ("choices", ["b", 3, "None"]),
    ],
)
def test_a_law_does_not_hold_what_cannot_be_drawn(law, values):
    one = DIMENSION.validate_python(LAWS[law][0])
    assert [value for value in values if one.holds(value)] == []
    inside = {"float": 0.77, "float log": 0.3, "float step": 0.5, "int step": 5, "int log": 3}
    assert one.holds(inside.get(law, one.ends()[0]))


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({"type": "categorical", "choices": [1], "low": 1}, "categorical.low Extra inputs are not permitted"),
        ({"type": "categorical", "choices": [1], "step": 1}, "categorical.step Extra inputs are not permitted"),
        ({"type": "categorical", "choices": [1], "log": True}, "categorical.log Extra inputs are not permitted"),
        ({"type": "categorical"}, "categorical.choices Field required"),
        ({"type": "categorical", "choices": []}, "categorical.choices Tuple should have at least 1 item"),
        ({"type": "int", "low": 1, "high": 2, "choices": [1]}, "int.choices Extra inputs are not permitted"),
        ({"type": "int", "low": 1}, "int.high Field required"),
        ({"type": "float", "high": 1}, "float.low Field required"),
        ({"type": "float", "low": 1.5, "high": 1}, "low 1.5 is above high 1"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "log needs low above 0, it is 0"),
        ({"type": "float", "low": 1, "high": 9, "step": -1}, "step -1 must be above 0"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "step 2 must be above 0, and goes without log"),
        ({"type": "float", "low": 1, "high": 9, "log": True, "step": 1}, "step 1 must be above 0, and goes without"),
        ({"type": "int", "low": 1, "high": 9, "step": 1.5}, "int.step Input should be a valid integer"),
        ({"type": "int", "low": 1, "high": 9.5}, "int.high Input should be a valid integer"),
    ],
)
def test_a_law_from_which_nothing_could_be_drawn_is_none(law, message):
    with pytest.raises(ValueError) as problem:
        DIMENSION.validate_python(law)
    assert message in " ".join(str(problem.value).split())


def test_what_is_drawn_are_the_registrys_settings_from_the_registrys_ranges():
    drawn, distributions = asked(read())
    assert distributions == {
        "model.coreset_sampling_ratio": FloatDistribution(0.01, 0.25, log=True),
        "model.num_neighbors": IntDistribution(1, 15),
    }
    assert drawn.keys() == distributions.keys() and drawn != asked(read(), 1)[0]
    assert asked(read("padim"))[1] == {"model.n_features": IntDistribution(30, 120, step=10)}


@pytest.mark.parametrize("model", [name for name, entry in REGISTRY.items() if entry.space])
def test_every_space_of_the_registry_is_possible_and_asks_for_settings_that_are_there(model):
    dimensions = REGISTRY[model].space
    assert all(DIMENSION.validate_python(one.model_dump()) == one for one in dimensions.values())
    assert all("|" not in one.describe() for one in dimensions.values()), "a pipe breaks a Markdown table"
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
    ("when", "matters"),
    [
        ({"data.interpolation": ["bilinear"]}, True),
        ({"data.interpolation": ["nearest", "bilinear"], "data.batch_size": [32]}, True),
        ({"data.interpolation": ["nearest"]}, False),
        ({"data.interpolation": ["bilinear"], "data.batch_size": [8]}, False),
    ],
)
def test_a_setting_may_ask_for_several_others_that_are_not_searched(when, matters):
    found = read(search={"num_neighbors": {"low": 2, "high": 12, "when": when}})
    assert ("model.num_neighbors" in found.baseline()) == ("model.num_neighbors" in asked(found)[0]) == matters


def test_what_others_ask_for_is_drawn_before_them_wherever_it_stands():
    search = {
        "data.batch_size": {"type": "int", "low": 2, "high": 9, "when": {"data.interpolation": ["nearest"]}},
        "data.interpolation": {"type": "categorical", "choices": ["nearest", "bilinear"]},
    }
    found = read(search=search)
    published = found.baseline()
    assert "data.batch_size" not in published
    for value in ("nearest", "bilinear"):
        drawn = found.draw(FixedTrial(published | {"data.interpolation": value, "data.batch_size": 3}))
        assert ("data.batch_size" in drawn) == (value == "nearest")


def test_a_narrowed_range_keeps_the_rest_of_the_law_and_one_with_a_type_keeps_nothing():
    search = {
        "severity_weight": {"high": 1.0},
        "score_combination": {"choices": ["maximum"]},
        "severity_max": {"type": "float", "low": 0, "high": 99},
    }
    found = read("draem_sevnet", search).dimensions
    when = {"model.severity_head_mode": ("single_scale", "multi_scale")}
    weight, choice, whole = (found[f"model.{name}"] for name in search)
    assert (weight.low, weight.high, weight.log, weight.when) == (0.1, 1.0, True, when)
    assert (choice.choices, choice.when) == (("maximum",), when)
    assert (whole.low, whole.high, whole.log, whole.when) == (0, 99, False, {})


def test_fixed_settings_flags_and_words_reach_the_run_and_others_are_published():
    condition = {
        "name": "patchcore_mine",
        "description": "d",
        "config": {"num_neighbors": 3, "model.max_bank_mb": 20},
        "search": {"coreset_sampling_ratio": 0.2},
    }
    found = space.read("patchcore", condition, {"data.source_domain": "x"}, "data.batch_size=4")
    settings = found.config.model.settings
    assert (settings["num_neighbors"], settings["max_bank_mb"], settings["coreset_sampling_ratio"]) == (9, 20.0, 0.2)
    assert (found.config.condition, found.config.description) == ("mine", "d")
    assert (found.config.data.source_domain, found.config.data.batch_size) == ("x", 4)
    assert list(found.dimensions) == ["model.num_neighbors"]
    placed = found.place({"model.num_neighbors": 5}, model="none", heatmaps=0)
    assert (placed.model.settings["num_neighbors"], placed.tracking.model, placed.tracking.heatmaps) == (
        5,
        "none",
        0,
    )
    assert found.holds({"model.num_neighbors": 15}) and not found.holds({"model.num_neighbors": 16})
    fixed = space.read("patchcore", {"name": "c", "config": {}, "search": None}, {}, "num_neighbors=5")
    assert (
        list(fixed.dimensions) == ["model.coreset_sampling_ratio"] and fixed.config.model.settings["num_neighbors"] == 5
    )


@pytest.mark.parametrize(
    "name",
    [
        "data.root",
        "data.source_domain",
        "data.target_domains",
        "data.validation",
        "data.val_fraction",
        "data.split_seed",
        "train.seed",
        "train.device",
        "model.name",
        "adapt.draws",
        "adapt.from",
        "tracking.figures",
    ],
)
@pytest.mark.parametrize("law", [1, {"type": "categorical", "choices": [1]}])
def test_what_decides_what_is_measured_is_not_searched(name, law):
    with pytest.raises(BadInput, match=f"search: {name} decides what is measured"):
        read(search={name: law})


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ({"type": "float", "low": 0.001, "high": 100, "log": True}, "0.001 to 100, log"),
        ({"type": "int", "low": 1, "high": 9}, "1 to 9"),
        ({"type": "int", "low": 1, "high": 9, "step": 1}, "1 to 9"),
        ({"type": "int", "low": 30, "high": 120, "step": 10}, "30 to 120, step 10"),
        (
            {"type": "float", "low": 0, "high": 1, "step": 0.25, "when": {"a.b": [1, "x"]}},
            "0 to 1, step 0.25 (when a.b = 1 or x)",
        ),
        (
            {"type": "categorical", "choices": [True, None, "x"], "when": {"a": [1], "b": [2]}},
            "True or None or x (when a = 1 and b = 2)",
        ),
    ],
)
def test_a_range_in_words(law, words):
    assert DIMENSION.validate_python(law).describe() == words


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"num_neighbors": {"low": 9, "high": 2}}, "low 9 is above high 2"),
        ({"num_neighbors": {"low": 1, "high": 99}}, "does not lie within 1 to 15"),
        ({"num_neighbors": {"type": "integer", "low": 1, "high": 9}}, "type"),
        ({"num_neighbors": {"type": "int", "low": 1.5, "high": 9}}, "int.low Input should be a valid integer"),
        ({"num_neighbors": {"type": "int", "low": 0, "high": 9, "log": True}}, "log needs low above 0"),
        ({"num_neighbors": {"type": "int", "low": 1, "high": 9, "step": 0}}, "step 0"),
        ({"num_neighbors": {"low": 1, "high": 9, "hihg": 3}}, "hihg"),
        ({"num_neighbors": {"type": "categorical", "choices": []}}, "choices Tuple should have at least 1 item"),
        ({"num_neighbors": {"type": "categorical", "choices": ["many"]}}, "cannot be 'many': model.num_neighbors"),
        ({"data.batch_size": {"type": "int", "low": 0, "high": 8}}, "data.batch_size cannot be 0: run.data.batch_size"),
        ({"data.batch_size": {"type": "categorical", "choices": [8, -1]}}, "data.batch_size cannot be -1: "),
        ({"num_neighbors": {"low": 0, "high": 9}}, "{'low': 0, 'high': 9} does not lie within 1 to 15; give a type"),
        ({"num_neighbors": {"low": 1.5, "high": 9}}, "impossible: int.low Input should be a valid integer, got {'low'"),
        ({"num_neighbors": {"low": "x", "high": 9}}, "num_neighbors is impossible: int.low Input should be a"),
        ({"layer": {"low": 1, "high": 2}}, "give its type (float, int or categorical) as well; known: model.coreset_"),
        ({"num_neighbors": {"low": 2, "high": 4, "when": {"model.layrs": [1]}}}, "(did you mean 'model.layers'?)"),
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
)
def test_an_impossible_search_is_refused_in_one_line(search, message):
    with pytest.raises(BadInput) as problem:
        read(search=search)
    assert message in str(problem.value) and "\n" not in str(problem.value)


def test_a_study_takes_the_condition_that_everything_takes():
    assert (
        SearchRequest().condition == "quickstart" == inspect.signature(setup.configure).parameters["condition"].default
    )


def test_the_layers_of_a_backbone_that_is_drawn_are_its_own():
    search = {"backbone": {"type": "categorical", "choices": ["resnet18", "convnext_atto"]}}
    condition = {"name": "c", "config": {"weights": "random"}, "search": search}
    found = space.read("patchcore", condition, FLAGS, "")
    for backbone, layers in (("resnet18", ["layer2", "layer3"]), ("convnext_atto", ["stages.1", "stages.2"])):
        assert builder.check(found.place({"model.backbone": backbone})).model.settings["layers"] == layers
    with pytest.raises(BadInput, match="backbone cannot be 'convnext_atto'.*no layer 'layer1'"):
        space.read("patchcore", condition, FLAGS, "model.layers=[layer1]")


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
    condition = {
        "name": "c",
        "config": {"learning_rate": 0.5, "image_size": [64, 64], "severity_weight": 0.3},
        "search": {"score_combination": "maximum"},
    }
    found = space.read("draem_sevnet", condition, FLAGS, "data.batch_size=2")
    settings = {"train.learning_rate": 2e-4, "model.severity_head_mode": "none"}
    content = condition_file(found, condition, "data.batch_size=2", "best", "", settings)
    (tmp_path / "best.json").write_text(json.dumps(content))
    trained = setup.configure("draem_sevnet", "best", str(tmp_path / "best.json"), FLAGS)
    expected = builder.check(found.place(settings))
    assert trained.data == expected.data and trained.train == expected.train and trained.model == expected.model
