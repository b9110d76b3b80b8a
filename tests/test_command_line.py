"""Wrong input on the command line: one line on standard error, exit code 2, nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest
from conftest import write_domain

SMALL = ("data.image_size=[32,96],data.batch_size=4,model.weights=random,model.backbone=resnet18,"
         "model.layers=[layer1],tracking.output_dir=out")  # fmt: skip


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
@pytest.mark.slow
def test_wrong_input_is_one_line_and_exit_code_2(maps, tmp_path, arguments, says):
    if arguments[0] == "train" and "--data-root" not in arguments:
        arguments = [*arguments, "--data-root", str(maps)]
    done = hdmap(*arguments, HDMAP_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("hdmap:")][1:] == []


@pytest.mark.slow
def test_an_unwritable_output_folder_is_named(maps, tmp_path):
    (tmp_path / "file").write_text("")
    done = hdmap("train", "--data-root", str(maps), "--overrides", SMALL.replace("=out", f"={tmp_path}/file/out"))
    assert done.returncode == 2
    assert "tracking.output_dir" in done.stderr


def test_check_data_exits_1_when_there_is_a_problem(tmp_path):
    folder = write_domain(tmp_path / "maps", "domain_A")
    assert hdmap("check-data", str(tmp_path / "maps")).returncode == 0
    (folder / "test/good/000001.tiff").write_bytes(b"II*")
    done = hdmap("check-data", str(tmp_path / "maps"))
    assert done.returncode == 1
    assert "000001.tiff" in done.stdout and "1 problem found" in done.stdout


@pytest.mark.slow
def test_a_project_run_is_marked_failed_with_the_reason(tmp_path):
    """`mlflow run` has started a run before our code sees the bad input."""
    client = mlflow.MlflowClient()
    run_id = client.create_run("0").info.run_id
    done = hdmap("train", "pachcore", MLFLOW_RUN_ID=run_id)
    assert done.returncode == 2
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
