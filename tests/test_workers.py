"""A lost worker of pytest-xdist neither hangs the run, nor ends it, nor hides a fault."""

import re
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

GONE = """
from pathlib import Path

def pytest_configure_node(node):
    def send(indices, sent=iter(range(12)), to_worker=node.send_runtest_some):
        if next(sent) == 3 and not Path("lost").exists():
            Path("lost").touch()
            node.gateway._io.popen.kill()
            node.gateway._io.popen.wait()
        to_worker(indices)

    node.send_runtest_some = send
"""


def run_with_workers(folder, tests, hooks=""):
    helpers = Path(__file__).parent / "helpers"
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {helpers}\naddopts = -p workers\n")
    (folder / "conftest.py").write_text(hooks)
    (folder / "test_own.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "--max-worker-restart", "1"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


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
    ended = run_with_workers(tmp_path, f"SIGNAL, AGAIN = {number}, {again}\n{TESTS}")
    assert ended.returncode == code, ended.stdout
    assert not [words for words in says if words not in ended.stdout], ended.stdout


def test_what_a_worker_that_is_gone_was_to_get_runs_in_another(tmp_path):
    tests = 'import pytest\n\n@pytest.mark.parametrize("i", range(12))\ndef test(i): pass\n'
    ended = run_with_workers(tmp_path, tests, hooks=GONE)
    assert ended.returncode == 0, ended.stdout
    # 13 where it was gone after a test's report and before the word that the test is over
    assert re.search("1[23] passed, 1 lost", ended.stdout) and "exit code -9" in ended.stdout, ended.stdout
