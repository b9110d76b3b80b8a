"""The project's own promises: imports point one way, MLproject and the command line agree, help is quick."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hdmap_mlflow.__main__ import COMMANDS, app
from hdmap_mlflow.models.registry import REGISTRY

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hdmap_mlflow"
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
MODEL_PARAMETERS = {
    "data_root": "demo",
    "source_domain": "domain_A",
    "target_domains": "auto",
    "condition": "quickstart",
    "conditions": "",
    "validation": "source_holdout",
    "seed": 0,
    "split_seed": 0,
    "overrides": "",
}
MAIN_MODELS = ["patchcore", "padim", "reverse_distillation", "draem", "draem_sevnet", "dinomaly", "efficient_ad"]
MAIN_MODELS += ["fastflow", "cflow", "uninet", "supersimplenet", "stfpm"]
# Who may import whom. `run` alone joins the parts; everything may use these:
COMMON = {"config", "errors", "cache", "__init__"}
ALLOWED = {
    "config": {"errors"},
    "errors": set(),
    "cache": set(),
    "terminal": set(),
    "meter": set(),
    "data": {"data"},
    "models": {"models", "data.faults"},
    "train": set(),
    "evaluate": {"pixels"},
    "metrics": {"evaluate"},
    "statistics": set(),
    "pixels": set(),
    "shift": {"models.backbones", "models"},
    "figures": {"metrics"},
    "heatmaps": {"metrics"},
    "cards": {"evaluate", "metrics", "statistics"},
    "result": {"metrics", "terminal"},
    "tracking": set(),
    "history": {"tracking", "evaluate"},
    "rescore": {"history", "tracking", "evaluate", "metrics", "cards", "result"},
    "export": {"history", "tracking"},
    "report": {"report", "history", "metrics", "statistics", "tracking"},
    "gpus": set(),
    "process": {"gpus"},
    "executor": {"process", "tracking"},
    "board": {"process"},
    "space": {"models"},
    "study": {"process", "space"},
    "findings": {"space"},
    "plan": {"run", "data", "models", "process", "tracking"},
}
ONLY_IN = {
    "mlflow": {"tracking"},
    "optuna": {"study", "findings"},
    "ray": {"executor"},
    "anomalib": {"data", "models", "train"},
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _noun(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    noun, imports = _noun(path), _imports(path)
    ours = {name.removeprefix("hdmap_mlflow.") for name in imports if name.startswith("hdmap_mlflow.")}
    ours -= {"__version__"}
    if noun in ALLOWED:
        allowed = ALLOWED[noun] | (COMMON if noun not in ("config", "errors", "cache") else set())
        for name in ours:
            assert any(name == one or name.startswith(f"{one}.") for one in allowed), f"{path.name} imports {name}"
    for library, places in ONLY_IN.items():
        if any(name.split(".")[0] == library for name in imports):
            assert noun in places, f"{path.name} imports {library}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_under_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_declared_parameter_is_used_and_every_flag_exists(name):
    entry = ENTRY_POINTS[name]
    used = re.findall(r"{(\w+)}", entry["command"])
    assert sorted(used) == sorted(entry.get("parameters", {}))
    command = entry["command"].split()
    assert command[:3] == ["python", "-m", "hdmap_mlflow"]
    help_text = CliRunner().invoke(app, [command[3], "--help"], env={"COLUMNS": "200"}).output
    for flag in re.findall(r"--[\w-]+", entry["command"]):
        assert flag in help_text


@pytest.mark.parametrize("model", ["main", "train", *MAIN_MODELS])
def test_every_model_entry_point_has_the_same_parameters_and_defaults(model):
    parameters = {k: v["default"] for k, v in ENTRY_POINTS[model]["parameters"].items()}
    assert parameters.pop("model", "patchcore") == "patchcore"
    assert parameters == MODEL_PARAMETERS
    takes = ENTRY_POINTS[model]["command"].split()[4]
    assert takes == {"main": "patchcore", "train": "{model}"}.get(model, model)
    assert takes == "{model}" or takes in REGISTRY


def test_help_answers_in_under_a_second():
    best = min(_seconds([sys.executable, "-m", "hdmap_mlflow", "--help"]) for _ in range(3))
    assert best < 1.0


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in output for name in COMMANDS)
    return time.perf_counter() - started


def test_the_readme_opens_with_the_two_commands_that_ci_runs():
    fences = re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [fence.strip() for fence in fences[:2]]
    assert commands == ["pip install -e . && mlflow run . --env-manager local", "pip install -e '.[test]' && pytest"]
    ci = (ROOT / ".ci/run").read_text().replace("install -q", "install")
    assert all(command in ci for command in commands)


def test_conda_yaml_leaves_dependencies_to_pyproject():
    environment = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}
