"""A lost worker of pytest-xdist neither hangs the run nor hides a fault."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = """
import os
import pytest
from pathlib import Path

@pytest.mark.parametrize("i", range(12))
def test(i):
    if i == 5 and (AGAIN or not Path("lost").exists()):
        Path("lost").touch()
        fail()

def fail():
    os.kill(os.getpid(), SIGNAL)
"""


@pytest.mark.parametrize(
    ("number", "again", "code", "says"),
    [
        (9, False, 0, ["12 passed, 1 lost", "exit code -9, in test_own.py::test[5]"]),
        (9, True, 1, ["1 failed", "1 lost"]),
        (11, False, 1, ["1 failed", "exit code -11", "in fail"]),
    ],
    ids=["killed once", "killed twice", "a fault"],
)
def test_the_test_that_a_worker_is_lost_in_runs_once_more(tmp_path, number, again, code, says):
    hooks = Path(__file__).parent / "helpers"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {hooks}\n")
    (tmp_path / "conftest.py").write_text("from workers import *\n")
    (tmp_path / "test_own.py").write_text(f"SIGNAL, AGAIN = {number}, {again}\n{TESTS}")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "--max-worker-restart", "1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code, ended.stdout
    assert not [words for words in says if words not in ended.stdout], ended.stdout
