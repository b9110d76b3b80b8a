"""Settings: precedence, overrides, condition files, and one clear line for every mistake."""

import json
from pathlib import Path

import pytest

from hdmap_mlflow import errors
from hdmap_mlflow.config import (
    DataConfig,
    build_config,
    dotted_key,
    find_condition,
    fingerprint,
    load_conditions,
    packaged_conditions,
    parse_overrides,
    read_json,
    with_settings,
    with_values,
)
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
    ("text", "expected"),
    [
        ("", {}),
        (" , ,", {}),
        (",a=1, ,b=2,", {"a": 1, "b": 2}),
        ("a=", {"a": None}),
        ("a=x=y, b = 2 ", {"a": "x=y", "b": 2}),
        ("a=1],b=[2,3]", {"a": "1]", "b": [2, 3]}),
        ("a=[[0,1],[2,3]],b=[],c=(x,y)", {"a": [[0, 1], [2, 3]], "b": [], "c": "(x,y)"}),
        ("a={x: 1, y: [2,3]},b=[ [4] , 5 ],c=true", {"a": {"x": 1, "y": [2, 3]}, "b": [[4], 5], "c": True}),
    ],
)
def test_overrides_are_read_as_yaml_between_the_commas_outside_brackets(text, expected):
    assert parse_overrides(text) == expected


@pytest.mark.parametrize("text", ["=1", "a", "a=1,b", "a=[1,b=2", "a=1,b=3, a = 2"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadInput, match="^override '(=1|a|b|a=\\[1,b=2|a = 2)'"):
        parse_overrides(text)


@pytest.mark.parametrize(
    "layer",
    [
        {"config": {"learning_rate": 1, "train.learning_rate": 1}},
        {"overrides": "learning_rate=1,train.learning_rate=2"},
        {"defaults": {"train.learning_rate": 1, "learning_rate": 2}},
    ],
)
def test_a_setting_under_two_names_in_one_layer_is_refused_and_in_two_layers_the_later_wins(layer):
    with pytest.raises(BadInput, match="train.learning_rate stands twice"):
        build_config("m", {"name": "c", "config": {}} | layer, **{k: v for k, v in layer.items() if k != "config"})
    one = {"name": "c", "config": {"learning_rate": 1}}
    assert build_config("m", one, overrides="train.learning_rate=2").train.learning_rate == 2


@pytest.mark.parametrize("text", ['{"a": {"b": 1, "b": 1}}', "// json5\n{a: 1, 'a': 2,}", '[{"a": 1, "\\u0061": 2}]'])
def test_a_key_that_stands_twice_in_json_is_named(text):
    with pytest.raises(ValueError, match="key '[ab]' stands twice"):
        read_json(text)


@pytest.mark.parametrize(
    ("key", "dotted"),
    [
        ("learning_rate", "train.learning_rate"),
        ("image_size", "data.image_size"),
        ("heatmaps", "tracking.heatmaps"),
        ("num_neighbors", "model.num_neighbors"),
        ("name", "model.name"),
        ("weights", "model.weights"),
        ("model.learning_rate", "model.learning_rate"),
        ("data.a.b", "data.a.b"),
    ],
)
def test_a_flat_key_belongs_to_the_section_that_knows_it_and_to_the_model_otherwise(key, dotted):
    assert dotted_key(key) == dotted


def test_flags_that_are_not_given_and_keys_of_the_model_itself_change_nothing():
    built = build_config(
        "patchcore",
        {"name": "patchcore_x", "description": "words", "config": {"weights": "random"}},
        defaults={"data.batch_size": 5, "train.seed": 2},
        flags={"data.batch_size": None, "train.seed": 0},
    )
    assert (built.data.batch_size, built.train.seed) == (5, 0), "0 is given, None is not"
    assert (built.model.name, built.model.weights, built.model.settings) == ("patchcore", "random", {})
    assert (built.condition, built.description) == ("x", "words")
    bare = build_config("patchcore", {"name": "x", "config": {}})
    assert (bare.condition, bare.description, bare.model.weights) == ("x", "", "hub")
    assert build_config("m", {"name": "patchcore_x", "config": {}}).condition == "patchcore_x"


def test_target_domains_are_auto_a_comma_list_or_a_list():
    told = [DataConfig(target_domains=given).target_domains for given in ("auto", "b, c,,", ["b", "c"], [], "auto,b")]
    assert told == ["auto", ("b", "c"), ("b", "c"), (), ("auto", "b")]


def test_every_setting_is_there_by_its_dotted_name_and_as_a_word():
    built = build_config("patchcore", CONDITION, overrides="model.deep={y: 1, x: null},model.on=true,data.root=/ö")
    dotted, flat = built.dotted(), built.flat()
    assert dotted["model.deep"] == {"y": 1, "x": None} and dotted["data.image_size"] == [64, 96]
    assert dotted["model.name"] == "patchcore" and "model.settings" not in dotted and "condition" not in dotted
    assert flat["model.deep"] == '{"x": null, "y": 1}' and flat["model.on"] == "true" and flat["data.root"] == "/ö"
    assert flat["train.optimizer"] == "null" and flat["tracking.figures"] == "true" and flat["condition"] == "x"
    assert flat.keys() == dotted.keys() | {"condition"}


def test_settings_are_put_into_a_run_by_dotted_name_and_checked():
    base = build_config("patchcore", CONDITION)
    changed = with_values(
        base,
        {
            "train.learning_rate": 1,
            "model.num_neighbors": 7,
            "model.weights": "random",
            "model.a.b": 1,
            "data.image_size": [32, 32],
        },
    )
    assert changed.train.learning_rate == 1.0 and changed.data.image_size == (32, 32)
    assert changed.model.settings == {"num_neighbors": 7, "a.b": 1} and changed.model.weights == "random"
    assert changed.data.batch_size == 8 and base.model.settings == {"num_neighbors": 3}
    with pytest.raises(BadInput, match="^run.train.max_epochs: input should be greater .* 1, got 0$"):
        with_values(base, {"train.max_epochs": 0})
    again = with_settings(base, {"k": 1})
    assert again.model.settings == {"k": 1} and again.model.name == "patchcore" and again.data == base.data


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
        ("train.max_epoch=3", "unknown key 'train.max_epoch'"),
        ("train.max_epoch=3", "train has: seed, max_epochs, "),
        (
            "trian.x=3",
            "unknown section 'trian' in 'trian.x' (did you mean 'train'?); known: data, model, train, ",
        ),
        ("train.precision=8", "train.precision: input should be '32-true', '16-mixed' or 'bf16-mixed', got 8"),
        ("data.image_size=[64,0]", "data.image_size: input should be greater than or equal to 1, got 0"),
        ("data.target_domains=[a,/b]", "data.target_domains: "),
        ("model.pre_trained=1", "model.pre_trained: 1 is neither true"),
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
        ('{"c": {"name": "a", "config": {}}, "d": {"name": "a", "config": {}}}', "two conditions are named 'a'"),
        ('{"c": {"name": "a", "config": 3}}', "lacks its name or its config"),
        ('{"c": {"name": "", "config": {}}}', "lacks its name"),
        ('{"c": {"name": 3, "config": {}}}', "lacks its name"),
        ('{"c": {"name": "a"}}', "lacks its name or its config"),
        ('{"c": 3}', "lacks its name"),
        ("[]", "holds no conditions"),
        ("3", "holds no conditions"),
        ('{"experiment_conditions": {}}', 'expected {"condition_1": {"name": ..., "description": ..., "config":'),
    ],
)
def test_a_broken_condition_file_is_named(tmp_path, content, says):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(BadInput, match="mine.json") as caught:
        load_conditions(path)
    assert says in str(caught.value)


def test_a_condition_is_found_by_its_whole_name_before_that_behind_the_models(tmp_path):
    path = tmp_path / "mine.json"
    names = ("m_x", "x", "m_y", "z")
    path.write_text(
        json.dumps([{"name": name, "config": {}, "search": {}, "description": "ö"} for name in names]), encoding="utf-8"
    )
    assert [find_condition("m", name, path)["name"] for name in ("x", "y", "m_x", "z")] == ["x", "m_y", "m_x", "z"]
    assert list(load_conditions(path)) == list(names) and load_conditions(path)["z"]["description"] == "ö"
    with pytest.raises(BadInput, match=r"^unknown condition 'yy' in mine.json \(did .* 'y'\?\); known: x, x, y, z$"):
        find_condition("m", "yy", path)
    with pytest.raises(BadInput, match="condition file none.json does not exist"):
        find_condition("m", "x", Path("none.json"))
    path.write_bytes(b'{"c": {"name": "\xff", "config": {}}}')
    with pytest.raises(BadInput, match="mine.json cannot be read: .*utf-8"):
        load_conditions(path)


def test_unknown_condition_names_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'quickstart'"):
        find_condition("patchcore", "quikstart")
    with pytest.raises(BadInput, match="model 'mine:M' has no packaged conditions; give -P conditions=FILE.json"):
        find_condition("mine:M", "quickstart")


def test_packaged_conditions_go_without_their_models_name():
    found = packaged_conditions("patchcore")
    assert {"quickstart", "baseline"} <= set(found) and found["quickstart"]["name"] == "patchcore_quickstart"
    assert find_condition("patchcore", "quickstart") == find_condition("patchcore", "patchcore_quickstart")
    assert found["quickstart"] == find_condition("patchcore", "quickstart")
    assert packaged_conditions("mine:M") == {}


def test_fingerprint_follows_what_changes_numbers_and_nothing_else():
    base = build_config("patchcore", CONDITION)
    same = build_config("patchcore", CONDITION, overrides="data.root=/x,data.workers=4,tracking.checkpoint=none")
    other = build_config("patchcore", CONDITION, overrides="train.seed=1")
    assert fingerprint(base, "d", "c") == fingerprint(same, "d", "c")
    assert len({fingerprint(base, "d", "c"), fingerprint(other, "d", "c"), fingerprint(base, "e", "c")}) == 3


def test_the_nearest_known_word_is_named_and_nothing_where_nothing_is_near():
    assert errors.nearest("zzz", ["patchcore", "padim"]) == ""
    assert errors.nearest("padme", ["patchcore", "padim", "fre"]) == " (did you mean 'padim'?)"
    assert errors.nearest("abcd", ["abxx"]) == " (did you mean 'abxx'?)", "half of the letters is near enough"
    assert errors.nearest("abcde", ["abxxx"]) == ""
    assert errors.nearest("ab", iter(["ac", "ab"])) == " (did you mean 'ab'?)"
