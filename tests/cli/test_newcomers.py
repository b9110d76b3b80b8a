"""What somebody new to it reads in a wide terminal, line by line: figures and ids are the only thing left out."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("newcomers.golden.txt")
RIG = """variable: Xdata
scaling: minmax
domains:
  rig: {train: healthy.mat, good: test_healthy.mat, fault: test_fault.mat}
  second: {train: second_train.mat, good: second_healthy.mat, fault: second_fault.mat}
"""
JOURNEYS = {
    "from a clone to the link that compares": [f"mlflow run {ROOT} --env-manager local -e toothwise"],
    "from .mat files to a report": [
        "hdmap import-mat rig.yaml --source mat --out maps",
        "hdmap train toothwise --data-root maps --source-domain rig",
        "hdmap report",
    ],
}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty")]


def _screen(command: str, folder: Path) -> list[str]:
    """What a terminal shows when a command has ended, without a prompt."""
    import pexpect
    import pyte

    commands = Path(sys.executable).parent
    environment = os.environ | {"TERM": "xterm", "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment.pop("COLUMNS", None)
    child = pexpect.spawn(command, cwd=folder, env=environment, timeout=240, dimensions=(400, 400), encoding="utf-8")
    child.expect(pexpect.EOF)
    child.close()
    screen = pyte.Screen(400, 400)
    pyte.Stream(screen).feed("\r\n".join(line for line in child.before.split("\r\n") if " INFO mlflow." not in line))
    lines = [line.rstrip() for line in screen.display]
    assert child.exitstatus == 0, "\n".join(line for line in lines if line)
    return "\n".join(lines).rstrip().split("\n")


def _plain(lines: list[str]) -> str:
    """Without what differs from launch to launch."""
    text = re.sub(r"\b[0-9a-f]{32}\b", "ID", "\n".join(lines).replace(str(ROOT), "CLONE"))
    text = re.sub(r"(?m)^Epoch .*$", "Epoch ...", text)  # a bar, and how long is left: as quick as the machine
    text = re.sub(r"\d+(?:[.,]\d+)*", "#", text)
    return re.sub(r" {2,}", "  ", text)


@pytest.mark.parametrize("journey", JOURNEYS)
def test_every_line_that_a_newcomer_reads_is_one_that_was_read_before(journey, tmp_path, request):
    rng = np.random.default_rng(0)
    (tmp_path / "mat").mkdir()
    (tmp_path / "rig.yaml").write_text(RIG)
    for name, maps, tooth in (
        ("healthy", 24, 1),
        ("test_healthy", 16, 1),
        ("test_fault", 16, 1.4),
        ("second_train", 16, 1),
        ("second_healthy", 16, 1),
        ("second_fault", 16, 1.2),
    ):
        pixels = rng.gamma(4, 0.1, (31, 95, 1, maps)).astype(np.float32)
        pixels[7] *= tooth
        savemat(tmp_path / "mat" / f"{name}.mat", {"Xdata": pixels})
    shown = []
    for command in JOURNEYS[journey]:
        shown += [f"$ {command}", *_screen(command, tmp_path), ""]
    text = f"# {journey}\n\n{_plain(shown)}\n"
    golden = GOLDEN.read_text() if GOLDEN.exists() else ""
    if request.config.getoption("--renew-snapshot"):
        others = [part for part in re.split(r"(?m)^(?=# )", golden) if part and not part.startswith(f"# {journey}\n")]
        GOLDEN.write_text("".join(sorted([*others, text])))
    else:
        assert text in golden
