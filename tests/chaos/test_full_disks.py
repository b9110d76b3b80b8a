"""Disks that are full from some moment on: what was computed is recorded, what failed is one true line."""

import contextlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from servers import new_store

from hdmap_mlflow.runs import flow

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
    assert not list(temporary.iterdir()), "temporary files stay behind"


def at(monkeypatch, step, do):
    original = getattr(flow, step)

    def happens(*given, **more):
        do()
        return original(*given, **more)

    monkeypatch.setattr(flow, step, happens)


def recorded(store):
    (run,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["1"])
    return run


@pytest.mark.parametrize("step", ["prepare", "score", "record_run", "record_pictures"])
def test_results(train, disk, tmp_path, monkeypatch, step):
    at(monkeypatch, step, disk.fill)
    code, lines, said = train(out=disk.place)
    print(step, code, lines, said[-3000:])
    run = recorded(tmp_path)
    print(run.info.status, len(run.data.metrics), {k: v for k, v in run.data.tags.items() if "hdmap" in k})
    assert 0


@pytest.mark.parametrize("model", ["toys:Trained", "patchcore"])
def test_cache(train, disk, tmp_path, monkeypatch, model):
    at(monkeypatch, "read" if model != "patchcore" else "prepare", disk.fill)
    code, lines, said = train(cache=disk.place, model=model)
    print(model, code, lines, said[-3000:])
    print(subprocess.run(["find", disk.place], capture_output=True, text=True).stdout)
    assert 0


@pytest.mark.parametrize("step", ["read", "prepare", "score", "record_run", "record_pictures"])
def test_store(train, disk, tmp_path, monkeypatch, step):
    at(monkeypatch, step, disk.fill)
    code, lines, said = train(store=disk.place)
    print(step, code, lines, said[-3000:])
    assert 0
