"""Wrong input on the command line: one line on standard error, exit code 2, nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest
from maps import write_domain

from hdmap_mlflow import __main__

SMALL = ("data.image_size=[32,96],data.batch_size=4,model.weights=random,model.backbone=resnet18,"
         "model.layers=[layer1],tracking.output_dir=out")  # fmt: skip


def hdmap(*arguments, **environment):
    command = [sys.executable, "-m", "hdmap_mlflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture
def exit_code(monkeypatch):
    """Runs `hdmap ARGUMENTS` in this process, which has imported torch already; returns the exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hdmap", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        before = signal.getsignal(signal.SIGTERM)
        try:
            __main__.main()
        except SystemExit as end:
            return end.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
        return 0

    return call


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


@pytest.mark.slow
def test_a_terminated_process_leaves_a_killed_run(maps):
    overrides = SMALL.replace("model.layers=[layer1],", "") + ",train.max_epochs=500,train.early_stopping_patience=500"
    process = subprocess.Popen([sys.executable, "-m", "hdmap_mlflow", "train", "reverse_distillation", "--data-root",
                                str(maps), "--overrides", overrides], stderr=subprocess.DEVNULL)  # fmt: skip
    client = mlflow.MlflowClient()
    deadline = time.time() + 120
    while time.time() < deadline:
        time.sleep(1)
        experiment = client.get_experiment_by_name("hdmap")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        if runs and "epoch/train_loss_epoch" in runs[0].data.metrics:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert client.get_run(runs[0].info.run_id).info.status == "KILLED"
