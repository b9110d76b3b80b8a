"""Settings, options and files of settings that cannot be: refused before anything starts."""

import importlib.util
import json

import pytest

pytestmark = pytest.mark.slow

DEEP = "[" * 2000 + "]" * 2000
LAUGHS = "\n".join(["a0: &a0 [lol, lol]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
TRAIN = [
    # what is known by name
    (["pachcore"], ["pachcore", "did you mean 'patchcore'"]),
    (["--condition", "quikstart"], ["quikstart", "did you mean 'quickstart'"]),
    (["--validation", "source_holdot"], ["data.validation", "source_holdot", "source_holdout"]),
    (["--overrides", "trian.seed=1"], ["trian", "did you mean 'train'"]),
    (["--overrides", "model.num_neighbours=3"], ["num_neighbours", "did you mean 'num_neighbors'"]),
    # whole numbers
    (["--seed", "x"], ["train.seed", "x"]),
    (["--seed", "²"], ["train.seed", "²"]),
    (["--seed", "٣"], ["train.seed", "٣"]),
    (["--seed", "-1"], ["train.seed", "-1"]),
    (["--seed", "4294967296"], ["train.seed", "4294967296"]),
    (["--seed", "1.5"], ["train.seed", "1.5"]),
    (["--seed", "1_0"], ["train.seed", "1_0"]),
    (["--seed", "9" * 5000], ["train.seed", "999"]),
    (["--split-seed", "99999999999"], ["data.split_seed", "99999999999"]),
    (["--overrides", "data.batch_size=true"], ["data.batch_size", "True"]),
    (["--overrides", "data.image_size=[true,64]"], ["data.image_size", "True"]),
    (["--overrides", "data.batch_size=1:30"], ["data.batch_size", "1:30"]),
    (["--overrides", "data.workers=.inf"], ["data.workers", "inf"]),
    (["--overrides", "model.num_neighbors=true"], ["model.num_neighbors", "True"]),
    (["--overrides", "model.num_neighbors=1_0"], ["model.num_neighbors", "1_0"]),
    (["--overrides", "train.max_epochs=0"], ["train.max_epochs", "0"]),
    # numbers
    (["reverse_distillation", "--overrides", "train.learning_rate=.inf"], ["train.learning_rate", "inf"]),
    (["reverse_distillation", "--overrides", "train.learning_rate=.nan"], ["train.learning_rate", "nan"]),
    (["reverse_distillation", "--overrides", "train.learning_rate=1e999"], ["train.learning_rate", "1e999"]),
    (["reverse_distillation", "--overrides", "train.weight_decay=infinity"], ["train.weight_decay", "infinity"]),
    (["--overrides", "tracking.max_checkpoint_mb=nan"], ["tracking.max_checkpoint_mb", "nan"]),
    (["--overrides", "data.feature_cache_mb=yes"], ["data.feature_cache_mb", "True"]),
    (["--overrides", "data.val_fraction=.nan"], ["data.val_fraction", "nan"]),
    (["--overrides", "model.coreset_sampling_ratio=.inf"], ["model.coreset_sampling_ratio", "inf"]),
    (["--overrides", "model.coreset_sampling_ratio=true"], ["model.coreset_sampling_ratio", "True"]),
    # numbers of a model that its class takes, and then fails on or computes nonsense with
    (["--overrides", "model.coreset_sampling_ratio=2"], ["model.coreset_sampling_ratio=2", "0 to 1"]),
    (["--overrides", "model.num_neighbors=0"], ["model.num_neighbors=0", "1 or more"]),
    (["--overrides", "model.num_neighbors=-1"], ["model.num_neighbors=-1", "1 or more"]),
    (["padim", "--overrides", "model.n_features=0"], ["model.n_features=0", "1 or more"]),
    (["dfm", "--overrides", "model.pca_level=-1"], ["model.pca_level=-1", "0 to 1"]),
    (["dfm", "--overrides", "model.pca_level=2"], ["model.pca_level=2", "0 to 1"]),
    (["dfkde", "--overrides", "model.n_pca_components=0"], ["model.n_pca_components=0", "1 or more"]),
    (["cfa", "--overrides", "model.num_nearest_neighbors=0"], ["model.num_nearest_neighbors=0", "1 or more"]),
    (["--overrides", "model.name=padim"], ["model.name='padim'", "patchcore"]),
    # what does not go together
    (["padim", "--overrides", "data.max_train=1"], ["data.max_train", "1", "2"]),
    (["--overrides", "data.eval_batch_size=many"], ["data.eval_batch_size", "integer or 'auto'", "many"]),
    (["padim", "--overrides", "train.limit_train_batches=1,data.batch_size=1"], ["train.limit_train_batches"]),
    (
        ["reverse_distillation", "--overrides", "train.limit_val_batches=1,data.eval_batch_size=1"],
        ["train.limit_val_batches", "eval_batch"],
    ),
    (["--overrides", "train.precision=16-mixed,train.device=cpu"], ["train.precision", "16-mixed", "32-true"]),
    (["--overrides", "train.device=cuda"], ["train.device", "cuda", "auto"]),
    (["--overrides", "train.engine=tensorrt"], ["train.engine", "tensorrt", "openvino"]),
    (["--overrides", "train.frozen_precision=fp8"], ["train.frozen_precision", "fp8", "bf16-true"]),
    (["draem", "--overrides", "train.engine=openvino"], ["draem", "train.engine=openvino", "no frozen backbone"]),
    (["--overrides", "train.engine=openvino,train.device=cuda"], ["train.engine=openvino", "train.device=cuda"]),
    (["--overrides", "train.learning_rate=0.1"], ["patchcore", "train.learning_rate"]),
    (["--target-domains", "domain_B,domain_B"], ["target_domains", "twice"]),
    (["--target-domains", "domain_A"], ["domain_A"]),
    # texts
    (["--overrides", f"data.image_size={DEEP}"], ["data.image_size", "nested"]),
    (["--overrides", f"model.layers={DEEP}"], ["model.layers", "nested"]),
    (["--overrides", "model.layers=[&a [*a]]"], ["model.layers"]),
    (["--overrides", "data.batch_size=" + "x" * 5000], ["data.batch_size", "xxx"]),
    (["--overrides", "data.batch_size"], ["data.batch_size", "section.key=value"]),
    (["--source-domain", "../domain_A"], ["data.source_domain", "../domain_A"]),
    (["--source-domain", "domain_A\n"], ["data.source_domain"]),
    (["--overrides", "tracking.heatmaps=-1"], ["tracking.heatmaps", "-1"]),
    # what is said twice
    (["--overrides", "train.seed=1,train.seed=1"], ["train.seed", "twice", "give it once"]),
    (["--overrides", "batch_size=4, data.batch_size=8"], ["data.batch_size", "twice", "'data.batch_size'"]),
    (["--overrides", "pre_trained=false,model.weights=random"], ["model.weights", "twice"]),
]


@pytest.mark.parametrize(("arguments", "says"), TRAIN, ids=lambda one: " ".join(one)[:60])
def test_a_run_is_refused(refused, maps, arguments, says):
    refused("train", *arguments, "--data-root", maps, says=says)


@pytest.mark.parametrize("asked", ["train.engine=openvino", "train.frozen_precision=bf16-true"])
def test_an_engine_that_is_not_installed_is_refused(asked, refused, maps, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "openvino" else find(name))
    refused("train", "--overrides", asked, "--data-root", maps, says=[asked, "pip install", "leave it out"])


TUNE = [
    (["--refit-seeds", "99999999999"], ["--refit-seeds", "99999999999"]),
    (["--refit-seeds", "²"], ["--refit-seeds", "²"]),
    (["--refit-seeds", "0,-1"], ["--refit-seeds", "-1"]),
    (["--refit-seeds", "0,x"], ["--refit-seeds", "x"]),
    (["--refit-seeds", "1,1"], ["--refit-seeds", "1"]),
    (["--refit-seeds", ",".join(map(str, range(2000)))], ["--refit-seeds", "2,000"]),
    (["--timeout", "nan"], ["--timeout", "nan"]),
    (["--timeout", "inf"], ["--timeout", "inf"]),
    (["--timeout", "1e999"], ["--timeout", "1e999"]),
    (["--trials", "٣"], ["--trials", "٣"]),
    (["--trials", "1_0"], ["--trials", "1_0"]),
    (["--trials", "0"], ["--trials", "1 or more"]),
    (["--objective", "val_aurok"], ["val_aurok", "did you mean 'val_auroc'"]),
    (["--sampler", "tpi"], ["tpi", "did you mean 'tpe'"]),
    (["--pruner", "medium"], ["medium", "did you mean 'median'"]),
    (["--objective", "val_auroc,seconds", "--sampler", "cmaes"], ["cmaes"]),
    (["--study", ".."], ["--study", ".."]),
    (["--study", "a\nb"], ["--study"]),
    (["--study", "x" * 600], ["--study", "xxx"]),
    (["--storage", "sqlite:///mlflow.db"], ["--storage", "mlflow.db"]),
    (["--no-ray", "--ray-address", "auto"], ["--no-ray", "--ray-address"]),
    (["--ray-address", "127.0.0.1:1"], ["--ray-address 127.0.0.1:1", "ray start --head"]),
    (["--gpus-per-run", "nan"], ["--gpus-per-run", "nan"]),
    (["--overrides", "data.max_train=1"], ["data.max_train", "1"]),
    (["--overrides", "train.precision=16-mixed,train.device=cpu"], ["train.precision", "16-mixed", "32-true"]),
]


@pytest.mark.parametrize(("arguments", "says"), TUNE, ids=lambda one: " ".join(one)[:60])
def test_a_search_is_refused(refused, maps, arguments, says):
    refused("tune", "padim", "--condition", "quickstart", "--data-root", maps, *arguments, says=says)


SPACES = [
    ({"low": 1, "high": "inf"}, ["inf"]),
    ({"type": "float", "low": 0.1, "high": float("inf")}, ["inf"]),
    ({"type": "float", "low": float("nan"), "high": 1}, ["nan"]),
    ({"type": "int", "low": 10, "high": 100, "step": 7}, ["step 7", "100"]),
    ({"type": "int", "low": 10, "high": 12, "step": 5}, ["step 5", "12"]),
    ({"type": "float", "low": 0.1, "high": 1, "step": 0.4}, ["step 0.4", "1"]),
    ({"type": "float", "low": 0.1, "high": 1, "step": float("inf")}, ["inf"]),
    ({"type": "int", "low": 20, "high": 10}, ["low 20 is above high 10"]),
    ({"type": "float", "low": 0, "high": 1, "log": True}, ["log needs low above 0"]),
    ({"type": "int", "low": True, "high": 3}, ["True"]),
    ({"type": "float", "low": True, "high": 3}, ["True"]),
    ({"type": "categorical", "choices": []}, ["choices"]),
    ({"type": "categorical", "choices": [1, 1]}, ["choices", "1"]),
    ({"type": "categorical", "choices": [1, float("nan")]}, ["choices", "nan"]),
    ({"type": "categorical", "choices": "abc"}, ["choices", "abc"]),
    ({"type": "flot", "low": 1, "high": 2}, ["flot"]),
    ({"type": "int", "low": 1, "high": 2, "stepp": 1}, ["stepp"]),
    ({"type": "int", "low": 1, "high": 2, "when": {"model.nothing": [1]}}, ["model.nothing"]),
]


@pytest.mark.parametrize(("law", "says"), SPACES, ids=lambda one: str(one)[:60])
def test_a_space_to_search_is_refused(refused, maps, tmp_path, law, says):
    content = {"name": "mine", "config": {}, "search": {"model.n_features": law}}
    (tmp_path / "mine.json").write_text(json.dumps({"condition_1": content}))
    files = ("--condition-file", "mine.json", "--condition", "mine", "--data-root", maps)
    refused("tune", "padim", *files, says=["n_features", *says])


NOT_SPACES = [
    ([1], "search"),
    ("all", "search"),
    (3, "search"),
    ({"model.n_features": {"low": {"low": 1}}}, "search"),
    ({"": {"low": 1}}, "search"),
    ({"n_features": {"low": 40}, "model.n_features": {"low": 50}}, "model.n_features stands twice"),
]


@pytest.mark.parametrize(("search", "says"), NOT_SPACES)
def test_what_is_no_space_at_all_is_refused(refused, maps, tmp_path, search, says):
    content = {"name": "mine", "config": {}, "search": search}
    (tmp_path / "mine.json").write_text(json.dumps({"condition_1": content}))
    files = ("--condition-file", "mine.json", "--condition", "mine", "--data-root", maps)
    refused("tune", "padim", *files, says=[says])


GRID = [
    (["--seeds", "0,²"], ["train.seed", "²"]),
    (["--seeds", "0,99999999999"], ["train.seed", "99999999999"]),
    (["--seeds", ","], ["--seeds"]),
    (["--seeds", ",".join(map(str, range(100_000)))], ["100,000", "seeds"]),
    (["--repeat", "1000000"], ["1,000,000", "--repeat"]),
    (["--models", "patchcore,pachcore"], ["pachcore", "did you mean 'patchcore'"]),
    (["--sources", "domain_A,domain_Z"], ["domain_Z"]),
    (["--conditions", "../../../x"], ["../../../x"]),
    (["--split-seed", "²"], ["split_seed", "²"]),
    (["--split-seed", "99999999999"], ["split_seed", "99999999999"]),
    (["--validation", "nothing"], ["data.validation", "nothing"]),
    (["--retry", "faild"], ["--retry", "faild"]),
    (["--jobs", "²"], ["--jobs", "²"]),
    (["--stagger", "inf"], ["--stagger", "inf"]),
    (["--run-timeout", "nan"], ["--run-timeout", "nan"]),
    (["--memory-per-run", "1e999"], ["--memory-per-run", "1e999"]),
    (["--cpus-per-run", "nan"], ["--cpus-per-run", "nan"]),
    (["--gpus-per-run", "1.5"], ["--gpus-per-run", "1.5"]),
    (["--no-ray", "--ray-address", "auto"], ["--no-ray", "--ray-address"]),
    (["--ray-address", "127.0.0.1:1"], ["--ray-address 127.0.0.1:1", "ray start --head"]),
    (["--ray-address", "nohost.invalid:6379"], ["--ray-address nohost.invalid:6379", "ray start --head"]),
    (["--ray-address", "127.0.0.1:99999"], ["--ray-address 127.0.0.1:99999"]),
    (["--ray-address", "127.0.0.1:x"], ["--ray-address 127.0.0.1:x"]),
    (["--max-wait", "5"], ["--max-wait", "--wait-idle"]),
    (["--idle-memory", "5"], ["--idle-memory", "--wait-idle"]),
    (["--wait-idle", "--idle-utilisation", "101"], ["--idle-utilisation", "101"]),
    (["--overrides", "data.max_train=1", "--models", "padim"], ["data.max_train"]),
    (["--overrides", "train.precision=16-mixed,train.device=cpu"], ["train.precision", "16-mixed", "32-true"]),
]


@pytest.mark.parametrize(("arguments", "says"), GRID, ids=lambda one: " ".join(one)[:60])
def test_a_grid_is_refused(refused, maps, arguments, says):
    refused("grid", "--data-root", maps, *arguments, says=says)


FILES = [
    (LAUGHS, ["grid.yaml", "aliases"]),
    ("a: &a [*a]", ["grid.yaml"]),
    ("models: &a [*a]", ["grid.yaml"]),
    (f"models: {DEEP}", ["grid.yaml", "nested"]),
    ("seeds: [0, true]", ["seeds", "True"]),
    ("seeds: [[0]]", ["seeds", "[0]"]),
    ("seeds: {a: 1}", ["seeds"]),
    ("seeds: .nan", ["seeds", "nan"]),
    ("conditions: [quickstart, 1]", ["condition '1'"]),
    ("conditions: [[a]]", ["conditions", "['a']"]),
    ("models: true", ["models", "True"]),
    ("models: patchcore\nmodels: padim", ["models", "twice"]),
    ("modls: patchcore", ["modls", "did you mean 'models'"]),
    ("- patchcore", ["grid.yaml"]),
    ("{", ["grid.yaml"]),
    ("", ["grid.yaml"]),
    ("split_seed: true", ["split_seed", "True"]),
    ("!!python/object/apply:os.system [ls]", ["grid.yaml"]),
    ("\x00", ["grid.yaml"]),
    ('{"seeds": [0], "models": "padim", "seeds": [1]}', ["grid.yaml", "'seeds'", "twice"]),
    ("overrides: data.workers=0,data.workers=1", ["data.workers", "twice"]),
]


@pytest.mark.parametrize(("text", "says"), FILES, ids=lambda one: str(one)[:60])
def test_a_grid_file_is_refused(refused, maps, tmp_path, text, says):
    (tmp_path / "grid.yaml").write_text(text)
    refused("grid", "--data-root", maps, "--grid", "grid.yaml", says=says)


def one(**entry):
    return json.dumps({"condition_1": {"name": "mine", "config": {}} | entry})


CONDITIONS = [
    ('{"a":' * 2000 + "1" + "}" * 2000, ["mine.json", "nested"]),
    ("// json5\n" + DEEP, ["mine.json", "nested"]),
    (one(config={"layers": json.loads("[" * 400 + "]" * 400)}), ["nested"]),
    (one(name=5), ["mine.json", "name", "5"]),
    (one(name=["mine"]), ["mine.json", "name"]),
    (one(name=True), ["mine.json", "name"]),
    (one(name=""), ["mine.json", "lacks its name"]),
    (one(name="../../../x"), ["mine.json", "../../../x"]),
    (one(name=".."), ["mine.json", ".."]),
    (one(name="a\\b"), ["mine.json", "name"]),
    (one(name="a\nb"), ["mine.json", "name"]),
    (one(name="x" * 300), ["mine.json", "xxx"]),
    (one(description=5), ["mine.json", "description", "5"]),
    (one(config=[1]), ["mine.json", "config"]),
    (one(config={"batch_size": True}), ["data.batch_size", "True"]),
    (one(config={"batch_size": {"a": 1}}), ["data.batch_size"]),
    (one(config={"batch_size": float("inf")}), ["data.batch_size", "inf"]),
    (one(config={"learning_rate": "NaN"}), ["train.learning_rate", "NaN"]),
    (one(config={"max_train": 10**400}), ["data.max_train"]),
    (one(config={"num_neighbors": 1e308}), ["model.num_neighbors"]),
    (one(config={"": 1}), ["unknown key 'model.'"]),
    (one(confg={}), ["confg"]),
    ("[]", ["mine.json"]),
    ("5", ["mine.json"]),
    ("", ["mine.json"]),
    ("{}", ["mine.json"]),
    ("\ufeff{", ["mine.json"]),
    ('{"c": {"name": "mine", "name": "other", "config": {}}}', ["mine.json", "'name'", "twice"]),
    ('{"c": {"name": "mine", "config": {}}, "c": {"name": "b", "config": {}}}', ["mine.json", "'c'", "twice"]),
    ("// json5\n{c: {name: 'mine', config: {seed: 1, seed: 2,}}}", ["mine.json", "'seed'", "twice"]),
    (one(config={"seed": 1, "train.seed": 2}), ["train.seed", "twice"]),
]


@pytest.mark.parametrize(("text", "says"), CONDITIONS, ids=lambda one: str(one)[:60])
def test_a_condition_file_is_refused(refused, maps, tmp_path, text, says):
    (tmp_path / "mine.json").write_text(text)
    refused("train", "--data-root", maps, "--condition-file", "mine.json", "--condition", "mine", says=says)


MODULES = {
    "exits": ("import sys; sys.exit(0)", ["exits:M", "SystemExit"]),
    "raises": ("1 / 0", ["raises:M", "ZeroDivisionError", "division by zero"]),
    "asserts": ("assert False", ["asserts:M", "AssertionError"]),
    "prints": ("import sys; print('a'); print('b', file=sys.stderr); 1 / 0", ["prints:M", "ZeroDivisionError"]),
    "warns": ("import warnings; warnings.warn('a'); s = '\\d'; 1 / 0", ["warns:M", "ZeroDivisionError"]),
    "syntax": ("def", ["syntax:M", "syntax"]),
    "binary": ("\x00", ["binary:M"]),
    "empty": ("", ["empty:M"]),
    "module": ("import os as M", ["module:M", "AnomalibModule"]),
    "function": ("def M(): pass", ["function:M", "AnomalibModule"]),
    "number": ("M = 5", ["number:M", "AnomalibModule"]),
    "wrong": ("class M: pass", ["wrong:M", "AnomalibModule"]),
    "torch_only": ("import torch\nclass M(torch.nn.Module): pass", ["torch_only:M", "AnomalibModule"]),
    "lazy": ("def __getattr__(name): raise RuntimeError('no')", ["lazy:M", "no"]),
    "abstract": ("from anomalib.models.components import AnomalibModule as M", ["abstract:M", "abstract"]),
    "long": (f"raise RuntimeError('{'x' * 5000}')", ["long:M", "xxx"]),
    "hint": (
        "from anomalib.models.components import AnomalibModule\n"
        "class M(AnomalibModule):\n    def __init__(self, a: 'undefined()' = 3, **k): pass",
        ["hint:M"],
    ),
}


WAYS = [("train", name) for name in MODULES]  # one way in is enough for most
WAYS += [(command, name) for command in ("tune", "grid", "models") for name in ("exits", "raises", "wrong")]


@pytest.mark.parametrize(("command", "name"), WAYS)
def test_a_model_of_ones_own_that_is_none_is_refused(refused, maps, tmp_path, command, name):
    text, says = MODULES[name]
    (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "mine.json").write_text(one())
    model = ["--models", f"{name}:M", "--conditions", "mine"] if command == "grid" else [f"{name}:M"]
    files = [*(["--condition", "mine"] if command != "grid" else []), "--condition-file", "mine.json"]
    if command != "models":
        model += [*files, "--data-root", maps]
    refused(command, *model, says=says, leaves=("__pycache__",))


@pytest.mark.parametrize("model", [":", "a:", ":A", ".a:A", "a b:C", "a/../b:C", "os:", "a:b:c", "a\t:b", "../x:M"])
def test_a_name_that_is_no_class_is_refused(refused, maps, tmp_path, model):
    (tmp_path / "mine.json").write_text(one())
    refused(
        "train",
        model,
        "--condition-file",
        "mine.json",
        "--condition",
        "mine",
        "--data-root",
        maps,
        says=[model.replace("\t", " ")],
    )


OTHERS = [
    (["simulate", "--out", "new", "--train", "²"], ["--train", "²"]),
    (["simulate", "--out", "new", "--train", "1_000"], ["--train", "1_000"]),
    (["simulate", "--out", "new", "--train", "0"], ["train"]),
    (["simulate", "--out", "new", "--test", "0"], ["test"]),
    (["simulate", "--out", "new", "--train", "99999999999"], ["train"]),
    (["simulate", "--out", "new", "--seed", "-1"], ["--seed", "-1"]),
    (["simulate", "--out", "new", "--gain-confound", "maybe"], ["maybe"]),
    (["gpus", "--idle-utilisation", "nan"], ["--idle-utilisation", "nan"]),
    (["gpus", "--idle-utilisation", "101"], ["--idle-utilisation", "101"]),
    (["models", "pachcore"], ["pachcore", "did you mean 'patchcore'"]),
    (["verify", "x", "--maps", "²"], ["--maps", "²"]),
    (["rescore", "--run", "x", "--experiment", "y"], ["--run", "--experiment"]),
    (["check-data", "/no/such"], ["/no/such"]),
    (["report", "--uri", "sqlite:///none.db"], ["none.db"]),
    (["trian"], ["trian", "train"]),
    (["train", "--experiment", " "], ["tracking.experiment", "' '"]),
    (["train", "--experiment", "x" * 501], ["tracking.experiment", "500"]),
    (["report", "--uri", "sqlite:///none.db", "--experiment", "x"], ["none.db"]),
]


@pytest.mark.parametrize("command", ["train", "grid", "tune", "report", "rescore", "ui"])
def test_a_name_that_mlflow_takes_for_no_experiment_is_refused_by_its_variable(refused, maps, monkeypatch, command):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "x" * 501)
    data = ["--data-root", maps] if command in ("train", "grid", "tune") else []
    refused(command, *data, says=["MLFLOW_EXPERIMENT_NAME", "501 characters", "500"])


@pytest.mark.parametrize(("arguments", "says"), OTHERS, ids=lambda one: " ".join(one)[:60])
def test_options_of_the_other_commands_are_refused(refused, arguments, says):
    refused(*arguments, says=says)


NOBODY = "~nobody-of-this-name/x"
PATHS = [
    ["check-data", NOBODY],
    ["simulate", "--out", NOBODY],
    ["report", "--out", NOBODY],
    ["export", "run", "--out", NOBODY],
    ["upload", NOBODY],
    ["weights", "import", NOBODY],
    ["weights", "fetch", "resnet18", "--out", NOBODY],
    ["import-mat", NOBODY, "--source", ".", "--out", "new"],
    ["import-mat", "spec.yaml", "--source", NOBODY, "--out", "new"],
    ["build-maps", NOBODY, "--out", "new"],
    ["build-maps", "spec.yaml", "--source", NOBODY, "--out", "new"],
    ["build-maps", "spec.yaml", "--out", NOBODY],
    ["train", "--condition-file", NOBODY],
    ["train", "--data-root", NOBODY],
    ["train", "--overrides", f"tracking.output_dir={NOBODY}"],
    ["train", "--overrides", f"model.weights={NOBODY}"],
    ["train", "--overrides", f"tracking.uri=sqlite:///{NOBODY}"],
    ["grid", "--grid", NOBODY],
    ["tune", "--storage", f"sqlite:///{NOBODY}"],
    ["tune", "--storage", f"journal://{NOBODY}"],
]


@pytest.mark.parametrize("arguments", PATHS, ids=" ".join)
def test_the_home_of_a_user_that_is_none_is_refused_by_every_option_that_takes_a_path(refused, maps, arguments):
    """A folder of that name, below this one, would be a surprise."""
    needs = arguments[0] in ("train", "grid", "tune") and "--data-root" not in arguments
    refused(
        *arguments, *(["--data-root", maps] if needs else []), says=["~nobody-of-this-name"], leaves=("cache/maps",)
    )


def test_the_home_of_the_user_is_meant_by_every_option_that_takes_a_path(exit_code, maps, tmp_path, monkeypatch):
    from hdmap_mlflow.grid import plan
    from hdmap_mlflow.runs import setup

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/c.json").write_text(one())
    (tmp_path / "home/g.yaml").write_text("conditions: mine\ncondition_file: ~/c.json\n")
    config = setup.configure("padim", "mine", "~/c.json", {"data.root": str(maps)}, "tracking.output_dir=~/o")
    assert config.condition == "mine" and config.tracking.output_dir == str(tmp_path / "home/o")
    assert plan.read_blocks({}, "~/g.yaml")[0].condition_file == "~/c.json"
    assert exit_code("simulate", "--out", "~/new", "--train", "1", "--test", "1") == 0
    assert exit_code("check-data", "~/new") in (0, 1)
    assert (tmp_path / "home/new/SIMULATED.json").is_file() and not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--overrides", "tracking.experiment=\udcff"],
        ["tune", "--study", "a\udcff"],
        ["report", "--out", "r\udcff"],
        ["check-data", "d\udcff"],
    ],
    ids=ascii,
)
def test_a_word_that_is_not_utf8_is_refused(refused, arguments):
    refused(*arguments, says=["\\udcff is not UTF-8", "rename it"])


@pytest.mark.parametrize(
    "content", ["[", "[]", '{"architecture": 3}', '{"architecture": "resnet18", "pretrained_cfg": {"mean": "x"}}']
)
def test_a_folder_of_weights_with_a_damaged_configuration_is_refused(refused, maps, tmp_path, content):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text(content)
    given = "model.weights=folder,model.backbone=resnet18,model.layers=[layer1]"
    refused("train", "--overrides", given, "--data-root", maps, says=["folder"])
