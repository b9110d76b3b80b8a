"""Wrong input on the command line: one line on standard error, exit code 2, nothing half-written."""

import gc
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import starts
import yaml
from maps import write_domain

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.execution.gpus import Idle
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.task import Share
from hdmap_mlflow.tuning.request import SearchRequest

SMALL = (
    "data.image_size=[32,96],data.batch_size=4,model.weights=random,model.backbone=resnet18,"
    "model.layers=[layer1],tracking.output_dir=out"
)


def hdmap(*arguments, **environment):
    command = [sys.executable, "-m", "hdmap_mlflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "pachcore"], "did you mean 'patchcore'"),
        (["train", "--data-root", "/no/such/root"], "/no/such/root"),
        (["train", "--condition", "quikstart"], "did you mean 'quickstart'"),
        (["train", "--seed", "x"], "train.seed"),
        (["train", "--unknown", "1"], "--unknown"),
        (["train", "--overrides", "tracking.uri=http://127.0.0.1:9"], "does not answer"),
        (["train", "--overrides", "tracking.uri=ftp://x"], "tracking.uri=ftp://x"),
        (["check-data", "/no/such/root"], "/no/such/root"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(maps, tmp_path, monkeypatch, capfd, exit_code, arguments, says):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    if arguments[0] == "train" and "--data-root" not in arguments:
        arguments = [*arguments, "--data-root", str(maps)]
    assert exit_code(*arguments) == 2
    told = capfd.readouterr().err
    assert says in told
    assert "Traceback" not in told
    assert [line for line in told.splitlines() if line.startswith("hdmap:")][1:] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("train --data-rot x", "Unknown option: --data-rot. Did you mean --data-root?"),
        ("grid --condition x", "Did you mean --conditions?"),
        ("trian", 'Did you mean "train"?'),
        ("train padim draem", "draem"),
        ("train --seed", "--seed requires an argument"),
        ("grid --jobs 1.5", "Invalid value for --jobs"),
        ("grid --jobs -1", "--jobs. Must be >= 0"),
        ("grid --gpus-per-run -2", "--gpus-per-run. Must be >= 0"),
        ("tune --run-timeout x", "Invalid value for --run-timeout"),
        ("gpus --idle-memory -1", "Must be >= 0"),
        ("grid --repeat 0", "Must be > 0"),
        ("verify x --maps 0", "Must be > 0"),
        ("simulate", "--out"),
        ("grid --no-plan", "--no-plan"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line_and_exit_code_2(capfd, exit_code, words, says):
    assert exit_code(*words.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("hdmap: ") and says in line


@pytest.fixture
def asked(monkeypatch):
    """What the commands hand on, call by call, in place of the work."""
    from hdmap_mlflow.grid import driver
    from hdmap_mlflow.runs import setup
    from hdmap_mlflow.tuning import driver as study

    calls = []

    def take(*arguments, **more):
        calls.append((arguments, more))
        raise BadInput("that will do")

    for module, name in ((driver, "run"), (setup, "configure"), (study, "status")):
        monkeypatch.setattr(module, name, take)
    return calls


NOTHING = {
    "grid": "--models= --conditions= --sources= --targets= --seeds= --data-root= --validation= --split-seed= "
    "--overrides= --condition-file= --experiment= --grid= --retry= --ray-address= --jobs 0 --gpus-per-run -1 "
    "--cpus-per-run 0 --memory-per-run 0 --run-timeout 0",
    "tune --status": "--timeout 0 --pruner= --study= --data-root= --validation= --split-seed= --condition-file= "
    "--overrides= --conditions= --experiment=",
    "train": "--data-root= --condition-file= --conditions= --validation= --split-seed= --overrides= --experiment=",
}


@pytest.mark.parametrize("command", NOTHING)
def test_an_empty_value_and_the_number_for_no_limit_are_options_not_given(asked, exit_code, command):
    """MLflow passes an empty text for a parameter without a value; in Python all of these are None."""
    words = command.split()
    exit_code(*words)
    exit_code(*words, *NOTHING[command].split())
    exit_code(*words, *(word for one in NOTHING[command].split() for word in one.split("=")))
    bare, short, long = asked
    assert _without_resume(bare) == _without_resume(short) == _without_resume(long)
    if command == "grid":
        (flags, file, launch), more = bare
        assert set(flags.values()) == {None} and file is None and more == {"plan_only": False}
        assert launch.jobs is launch.ray_address is launch.share.gpus is launch.share.cpus is None
        assert launch.share.memory_mb is launch.share.timeout is launch.share.idle is None


def _without_resume(call):
    return [replace(one, resume="") if isinstance(one, Launch) else one for one in call[0]], call[1]


def test_every_option_of_a_grid_reaches_it(asked, exit_code):
    words = (
        "--models padim --conditions baseline --sources a --targets b --seeds 1 --data-root r --validation v "
        "--split-seed 2 --overrides x=1 --condition-file f --experiment e --budget maps=9 --grid g --plan "
        "--adapters z,merge+z --k 4,16 "
        "--retry failed,running --force --repeat 3 --jobs 4 --gpus-per-run 0.5 --cpus-per-run 2 --memory-per-run 5 "
        "--run-timeout 6 --stagger 0 --no-ray"
    )
    exit_code("grid", *words.split())
    ((flags, file, launch), more) = asked.pop(0)
    assert flags == {
        "models": "padim",
        "conditions": "baseline",
        "sources": "a",
        "targets": "b",
        "seeds": "1",
        "data_root": "r",
        "validation": "v",
        "split_seed": "2",
        "overrides": "x=1",
        "condition_file": "f",
        "experiment": "e",
        "budget": "maps=9",
        "adapters": "z,merge+z",
        "k": "4,16",
    }
    assert (file, more) == ("g", {"plan_only": True, "repeat": 3})
    share = Share(gpus=0.5, cpus=2, memory_mb=5, timeout=6)
    assert replace(launch, resume="") == Launch(
        share, 4, False, None, stagger=0, force=True, resume="", retry=frozenset({"failed", "running"})
    )
    exit_code("grid", "--ray-address", "h:1")
    assert (asked[0][0][2].through_ray, asked.pop(0)[0][2].ray_address) == (True, "h:1")
    exit_code("grid", "--wait-idle", "--idle-utilisation", "3", "--idle-memory", "4", "--max-wait", "5")
    assert asked[0][0][2].share.idle == Idle(utilisation=3, memory_mb=4, max_wait=5)


def test_every_option_of_a_search_reaches_it(asked, exit_code):
    words = (
        "padim --status --condition c --condition-file f --data-root r --source-domain s --target-domains t "
        "--validation v --split-seed 2 --seed 3 --overrides x=1 --experiment e --objective o --trials 4 --timeout 5 "
        "--sampler tpe --pruner none --storage u --study n --refit-seeds"
    )
    exit_code("tune", *words.split(), "")
    flags = {
        "data.root": "r",
        "data.source_domain": "s",
        "data.target_domains": "t",
        "data.validation": "v",
        "data.split_seed": "2",
        "train.seed": "3",
        "tracking.experiment": "e",
    }
    wanted = SearchRequest("padim", "c", "f", flags, "x=1", "o", 4, 5, "tpe", "none", "u", "n", "")
    assert asked == [((wanted,), {})], "no refit is an empty list of seeds, and not the default"


@pytest.mark.parametrize(
    ("variable", "words", "name"),
    [
        ("", "", "hdmap"),
        (" ", "", "hdmap"),
        ("ours", "", "ours"),
        ("ours", "--experiment mine", "mine"),
        ("ours", "--overrides tracking.experiment=theirs", "theirs"),
    ],
)
def test_the_experiment_is_a_flag_or_mlflows_own_variable(maps, monkeypatch, exit_code, variable, words, name):
    """Of runs, of each of a grid and of a study's, and of what is read back."""
    from hdmap_mlflow.grid import driver
    from hdmap_mlflow.report import write
    from hdmap_mlflow.runs import flow
    from hdmap_mlflow.tuning import driver as study

    places = []

    def end(place):
        places.append(place)
        raise BadInput("that will do")

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", variable)
    monkeypatch.setattr(flow, "execute", lambda config: end(config.tracking.experiment))
    monkeypatch.setattr(driver, "open_store", lambda cells: end(cells[0].config.tracking.experiment))
    monkeypatch.setattr(study, "tune", lambda search, launch: end(search.config.tracking.experiment))
    monkeypatch.setattr(write, "write_report", lambda uri, experiment, *_: end(experiment))
    train = ["train", "padim", *"--data-root x --source-domain domain_A".replace("x", str(maps)).split()]
    for command in (train, ["grid", "--data-root", str(maps)], ["tune", *train[1:], "--condition", "quickstart"]):
        assert exit_code(*command, *words.split()) == 2
    if "overrides" not in words:
        assert exit_code("report", *words.split()) == 2
    assert set(places) == {name} and len(places) >= 3


def test_a_command_looks_for_garbage_rarely(exit_code):
    """Among the objects of torch, anomalib and MLflow it took a fifth of the time of their import."""
    before = gc.get_threshold()
    gc.set_threshold(700)
    try:
        assert exit_code("--version") == 0 and gc.get_threshold()[0] >= 50_000
    finally:
        gc.set_threshold(*before)


def test_the_version_names_the_libraries_that_make_the_numbers(exit_code, capfd):
    import torch

    import hdmap_mlflow

    assert exit_code("--version") == 0
    assert f"hdmap_mlflow {hdmap_mlflow.__version__} (" in (said := capfd.readouterr().out)
    assert f"torch {torch.__version__.partition('+')[0]}" in said and f"mlflow {mlflow.__version__}" in said


@pytest.mark.parametrize("command", ["train", "tune --status"])
def test_a_condition_file_by_its_old_flag_is_taken_with_a_line(asked, exit_code, capfd, command):
    exit_code(*command.split(), "--condition-file", "mine.json")
    assert "--conditions" not in capfd.readouterr().err
    exit_code(*command.split(), "--conditions", "mine.json")
    assert capfd.readouterr().err.splitlines()[0] == "hdmap: --conditions FILE is now --condition-file FILE"
    assert asked[0] == asked[1] and "mine.json" in repr(asked[0])


@pytest.mark.slow
def test_wrong_input_ends_a_process_with_one_line_and_exit_code_2(maps, tmp_path):
    done = hdmap("train", "--data-root", str(maps), "--seed", "x", HDMAP_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if "train.seed" in line] == done.stderr.splitlines()


def test_an_unwritable_output_folder_is_named(maps, tmp_path, capfd, exit_code):
    (tmp_path / "file").write_text("")
    overrides = SMALL.replace("=out", f"={tmp_path}/file/out")
    assert exit_code("train", "--data-root", str(maps), "--overrides", overrides) == 2
    assert "tracking.output_dir" in capfd.readouterr().err


def test_check_data_exits_1_when_there_is_a_problem(tmp_path, capfd, exit_code):
    folder = write_domain(tmp_path / "maps", "domain_A")
    assert exit_code("check-data", str(tmp_path / "maps")) == 0
    (folder / "test/good/000001.tiff").write_bytes(b"II*")
    assert exit_code("check-data", str(tmp_path / "maps")) == 1
    told = capfd.readouterr().out
    assert "000001.tiff" in told and "1 problem found" in told


def test_a_project_run_is_marked_failed_with_the_reason(store, monkeypatch, exit_code):
    """`mlflow run` has started a run before our code sees the bad input."""
    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert exit_code("train", "pachcore") == 2
    found = client.get_run(run_id)
    assert found.info.status == "FAILED"
    assert "did you mean 'patchcore'" in found.data.tags["hdmap.reason"]


PROJECT = yaml.safe_load((Path(__file__).parents[2] / "MLproject").read_text(encoding="utf-8"))["entry_points"]
PARAMETERS = [(entry, name) for entry in PROJECT for name in PROJECT[entry].get("parameters", {})]


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "name"), PARAMETERS)
def test_help_in_place_of_a_parameters_value_fails_the_project_run_in_one_line(
    shared, monkeypatch, exit_code, capfd, entry, name
):
    """`-P model=--help` would print the help and leave a FINISHED run of nothing."""
    run_id = shared.client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shared.uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    declared = PROJECT[entry]["parameters"]  # a type alone, or a mapping with a default
    given = {key: of.get("default", "x") if isinstance(of, dict) else "x" for key, of in declared.items()}
    given[name] = "--help"
    words = shlex.split(PROJECT[entry]["command"].format(**{key: shlex.quote(str(of)) for key, of in given.items()}))
    assert exit_code(*words[3:]) == 2
    lines = capfd.readouterr()
    assert lines.out == "" and lines.err.count("\n") == 1 and "--help stands in place of a value" in lines.err
    assert shared.client.get_run(run_id).info.status == "FAILED"


@pytest.mark.slow
def test_a_terminated_process_leaves_a_killed_run(maps, store):
    overrides = SMALL.replace("model.layers=[layer1],", "") + ",train.max_epochs=500,train.early_stopping_patience=500"
    words = ("train", "reverse_distillation", "--data-root", str(maps), "--overrides", overrides)
    process = starts.Command(Path.cwd(), *words)
    client = store.client
    deadline = time.time() + 120
    while time.time() < deadline:
        time.sleep(1)
        experiment = client.get_experiment_by_name("hdmap")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        if runs and "epoch/train_loss" in runs[0].data.metrics:
            break
    process.send(signal.SIGTERM)
    assert process.wait(60) == 130, process.log.read_text()[-3000:]
    assert client.get_run(runs[0].info.run_id).info.status == "KILLED"
