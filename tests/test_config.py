"""Settings: precedence, overrides, condition files, and one clear line for every mistake."""

import json

import pytest

from hdmap_mlflow import config
from hdmap_mlflow.config import build_config, find_condition, fingerprint, load_conditions, parse_overrides
from hdmap_mlflow.errors import BadInput

CONDITION = {"name": "patchcore_x", "config": {"num_neighbors": 3, "batch_size": 8, "image_size": [64, 96]}}


def test_later_layers_win_defaults_condition_flags_overrides():
    built = build_config(
        "patchcore",
        CONDITION,
        defaults={"num_neighbors": 9, "batch_size": 32, "max_epochs": 7},
        flags={"data.source_domain": "domain_B", "train.seed": "5"},
        overrides="data.source_domain=domain_C,model.num_neighbors=1",
    )
    assert (built.train.max_epochs, built.data.batch_size, built.train.seed) == (7, 8, 5)
    assert built.data.source_domain == "domain_C"
    assert built.model.settings == {"num_neighbors": 1}
    assert built.name == "patchcore/x/domain_C/s5"


def test_overrides_keep_commas_inside_lists():
    text = "data.image_size=[64,96], model.layers=[layer1,layer2],train.learning_rate=1e-3"
    assert parse_overrides(text) == {
        "data.image_size": [64, 96],
        "model.layers": ["layer1", "layer2"],
        "train.learning_rate": "1e-3",  # YAML 1.1 reads a string; the type check makes it a float
    }
    assert build_config("m", {"name": "c", "config": {}}, overrides=text).train.learning_rate == 0.001


def test_flat_settings_are_canonical_strings():
    flat = build_config("patchcore", CONDITION, overrides="train.learning_rate=1e-3").flat()
    assert flat["train.learning_rate"] == "0.001"
    assert flat["data.image_size"] == "[64, 96]"
    assert flat["model.num_neighbors"] == "3"
    assert all(isinstance(value, str) for value in flat.values())


def test_pre_trained_of_the_guideline_means_weights():
    assert build_config("m", {"name": "c", "config": {"pre_trained": False}}).model.weights == "random"
    assert build_config("m", {"name": "c", "config": {"pre_trained": True}}).model.weights == "hub"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("train.max_epoch=3", "did you mean 'max_epochs'"),
        ("trian.max_epochs=3", "did you mean 'train'"),
        ("train.max_epochs=many", "train.max_epochs"),
        ("train.max_epochs=0", "greater than or equal to 1"),
        ("train.learning_rate=-1", "train.learning_rate"),
        ("data.validation=target_test", "source_holdout"),
        ("data.source_domain=../etc", "data.source_domain"),
        ("data.image_size=64", "data.image_size"),
        ("nonsense", "section.key=value"),
        ("data.image_size=[64", "cannot be read"),
        ("train.seed=-1", "train.seed"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(overrides, says):
    with pytest.raises(BadInput, match="(?s).*") as caught:
        build_config("patchcore", CONDITION, overrides=overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_both_forms_of_condition_files_load_with_comments(tmp_path):
    new = tmp_path / "new.json"
    new.write_text('{\n  // the guideline\'s form\n  "condition_1": {"name": "a", "config": {"x": 1,},},\n}')
    old = tmp_path / "old.json"
    old.write_text(json.dumps({"experiment_conditions": [{"name": "a", "description": "d", "config": {"x": 1}}]}))
    assert load_conditions(new)["a"]["config"] == load_conditions(old)["a"]["config"] == {"x": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot be read"),
        ("{}", "holds no conditions"),
        ('{"c": {"config": {}}}', "lacks its name"),
        ('{"c": {"name": "a", "config": {}, "extra": 1}}', "extra"),
        ('{"c": {"name": "a", "config": {}}, "d": {"name": "a", "config": {}}}', "two conditions"),
    ],
)
def test_a_broken_condition_file_is_named(tmp_path, content, says):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(BadInput, match="mine.json") as caught:
        load_conditions(path)
    assert says in str(caught.value)


def test_unknown_condition_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'quickstart'"):
        find_condition("patchcore", "quikstart")


def test_fingerprint_follows_what_changes_numbers_and_nothing_else():
    base = build_config("patchcore", CONDITION)
    same = build_config("patchcore", CONDITION, overrides="data.root=/x,data.workers=4,tracking.checkpoint=none")
    other = build_config("patchcore", CONDITION, overrides="train.seed=1")
    assert fingerprint(base, "d", "c") == fingerprint(same, "d", "c")
    assert len({fingerprint(base, "d", "c"), fingerprint(other, "d", "c"), fingerprint(base, "e", "c")}) == 3


def test_nearest_is_silent_when_nothing_is_near():
    assert config.nearest("zzz", ["patchcore", "padim"]) == ""


def test_lists_of_lists_are_one_value():
    found = config.parse_overrides("model.groups=[[0,1],[2, 3]],data.image_size=(4,5),model.n=2")
    assert found["model.groups"] == [[0, 1], [2, 3]] and found["model.n"] == 2
