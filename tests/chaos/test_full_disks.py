"""Disks that are full from some moment on: what was computed is recorded, what failed is one true line."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from chaos import at
from mlflow import MlflowClient
from servers import new_store

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full_disks")]
MB = 64  # of each disk
FULL = "the disk is full"
TRAIN = ("train", "{model}", "--condition", "quick", "--source-domain", "domain_A", "--condition-file", "quick.json")
QUICK = {"name": "quick", "config": {"image_size": [31, 95], "max_epochs": 2}}


class Disk:
    """A small file system of its own, which can be filled to the last byte and freed again."""

    def __init__(self, place: Path) -> None:
        self.place, self._ballast = place, place / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**20, 2**10, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """A tmpfs. Skips the test where this user may not mount one."""
    place = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={MB}m", "hdmap_test", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def disk(mounted):
    yield Disk(mounted)
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def train(exit_code, capfd, maps, tmp_path, monkeypatch):
    """Trains a toy with its store, results and cache in the places that are given; returns the code and the lines."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("HDMAP_PATIENCE", "0")
    Path("quick.json").write_text(json.dumps([QUICK]))

    def call(store=tmp_path, out=tmp_path, cache=tmp_path, model="toys:Trained", overrides=""):
        monkeypatch.setenv("HDMAP_CACHE", str(cache / "cache"))
        if not (store / "mlflow.db").exists():
            new_store(store / "mlflow.db")
        given = f"tracking.uri=sqlite:///{store}/mlflow.db,tracking.output_dir={out}/out,tracking.heatmaps=1{overrides}"
        words = [word.format(model=model) for word in TRAIN]
        code = exit_code(*words, "--data-root", str(maps), "--overrides", given)
        said = capfd.readouterr()
        return code, [line for line in said.err.splitlines() if line.startswith("hdmap: ")], said.out + said.err

    yield call
    assert not list(temporary.glob("*hdmap*")), "temporary files stay behind"


def recorded(store):
    (run,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["1"])
    return run


def test_results_that_cannot_be_written_while_a_model_trains_are_one_line_and_a_failed_run(
    train, disk, tmp_path, monkeypatch
):
    at(monkeypatch, "prepare", disk.fill)
    code, lines, said = train(out=disk.place)
    assert code == 1 and len(lines) == 1 and FULL in lines[0] and "free some space" in lines[0]
    assert "more:" not in said
    run = recorded(tmp_path)
    assert run.info.status == "FAILED" and "No space left" in run.data.tags["hdmap.reason"]


@pytest.mark.parametrize("step", ["score", "record_run", "record_pictures"])
def test_results_that_cannot_be_written_later_cost_pictures_and_no_number(train, disk, tmp_path, monkeypatch, step):
    at(monkeypatch, step, disk.fill)
    code, lines, said = train(out=disk.place)
    assert code == 0 and lines == [] and "left out: " in said
    run = recorded(tmp_path)
    assert run.info.status == "FINISHED" and "target_mean/image_AUROC" in run.data.metrics
    assert "No space left" in run.data.tags["hdmap.left_out"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(client.list_artifacts(run.info.run_id, "scores")) == 3


def test_a_cache_that_is_full_before_maps_are_packed_is_one_true_line(train, disk, monkeypatch):
    at(monkeypatch, "read", disk.fill)
    code, lines, said = train(cache=disk.place)
    assert code == 2 and len(lines) == 1 and FULL in lines[0] and "HDMAP_CACHE" in lines[0]
    assert "more" not in lines[0], "one disk is full, and not once for each map"
    left = [path for path in (disk.place / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_a_cache_that_is_full_when_features_are_kept_costs_them_alone(train, disk, tmp_path, monkeypatch):
    at(monkeypatch, "prepare", disk.fill)
    code, lines, _ = train(
        cache=disk.place,
        model="patchcore",
        overrides=",data.image_size=[64,64],model.weights=random,model.backbone=resnet18,model.layers=[layer1]",
    )
    assert code == 0 and lines == []
    assert recorded(tmp_path).info.status == "FINISHED"


def test_a_store_that_is_full_before_a_run_is_one_line_and_no_run(train, disk, monkeypatch):
    at(monkeypatch, "read", disk.fill)
    code, lines, _ = train(store=disk.place)
    assert code == 1 and len(lines) == 1 and "database or disk is full" in lines[0]
    assert MlflowClient(f"sqlite:///{disk.place}/mlflow.db").search_runs(["1"]) == []


@pytest.mark.parametrize("step", ["prepare", "score", "record_run"])
def test_a_store_that_is_full_from_some_step_on_loses_nothing(train, disk, tmp_path, monkeypatch, exit_code, step):
    store = disk.place / step
    store.mkdir()
    at(monkeypatch, step, disk.fill)
    code, lines, _ = train(store=store, overrides=",tracking.figures=false")
    assert code == 1 and len(lines) == 1 and "hdmap upload" in lines[0]
    disk.free()
    (folder,) = (tmp_path / "out").glob("*/*/record.jsonl")
    assert exit_code("upload", str(folder.parent), "--uri", f"sqlite:///{store}/mlflow.db") == 0
    runs = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["1"])
    (whole,) = [run for run in runs if run.info.status == "FINISHED"]
    assert "target_mean/image_AUROC" in whole.data.metrics
