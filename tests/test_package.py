"""The wheel, away from the checkout: everything that the commands read is in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _run(folder: Path, *words: str, path: str = "") -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_all_that_a_run_and_a_report_read(tmp_path):
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "hdmap_mlflow"):
        (source / name).symlink_to(ROOT / name)
    pip = (sys.executable, "-m", "pip")
    _run(tmp_path, *pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", ".", str(source))
    (wheel,) = tmp_path.glob("*.whl")
    _run(tmp_path, *pip, "install", "-q", "--no-deps", "--target", str(installed), str(wheel))
    assert (installed / "hdmap_mlflow" / "py.typed").exists()

    def hdmap(*words: str) -> str:
        return _run(tmp_path, sys.executable, "-m", "hdmap_mlflow", *words, path=str(installed))

    where = _run(tmp_path, sys.executable, "-c", "import hdmap_mlflow as h; print(h.__file__)", path=str(installed))
    assert Path(where.strip()).is_relative_to(installed)
    assert "reverse_distillation" in hdmap("models", "reverse_distillation")
    hdmap("simulate", "--out", "maps", "--train", "8", "--test", "8")
    assert "target mean AUROC" in hdmap("train", "toothwise", "--data-root", "maps", "--target-domains", "domain_B")
    hdmap("report")
    assert "toothwise" in (tmp_path / "report" / "report.html").read_text()
