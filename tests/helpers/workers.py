"""What pytest-xdist 3.8 does about a lost worker, mended: its work goes to another one, and how it ended is told.

The lost worker's finished tests are handed out again as units of nothing, for which the others wait for ever
(pytest-xdist issue 1323), and its successor gets one test, which it holds until there is a second (issue 1327). Both
are mended in its repository, and in no release. The test that a worker is lost in runs once more; the run says so at
its end, with the exit code and, of a fault, where each thread was. A test that loses two workers is a failure.
"""

import contextlib
import faulthandler
import subprocess
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadGroupScheduling

ENDED = pytest.StashKey[dict[str, str]]()  # by worker: how it was lost
LOST_IN = pytest.StashKey[dict[str, str]]()  # by test: how it lost a worker
LOST = "lost"  # an outcome, beside passed and failed
STACKS = "stacks"  # of a worker's input: the file that Python writes at a fault
LINES = 60  # of it


class Scheduler(LoadGroupScheduling):
    def remove_node(self, node):
        work = self.assigned_work[node]
        lost_in = next((test for tests in work.values() for test, done in tests.items() if not done), None)
        for group, tests in [*work.items()]:
            if lost_in in tests and lost_in in self.config.stash.get(LOST_IN, {}):
                tests[lost_in] = True  # not a third time
            if all(tests.values()):
                del work[group]
        super().remove_node(node)
        return lost_in

    def schedule(self):
        super().schedule()
        super().schedule()  # the second test of a worker that has none but its first


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    with tempfile.NamedTemporaryFile("w", prefix="hdmap_fault_", delete=False) as file:
        node.workerinput[STACKS] = file.name


@pytest.hookimpl(trylast=True)  # pytest's own writes to the standard error
def pytest_sessionstart(session):
    if STACKS in (given := getattr(session.config, "workerinput", {})):
        faulthandler.enable(open(given[STACKS], "a"))  # noqa: SIM115 - for as long as the process lives


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    stacks = Path(node.workerinput[STACKS])
    if error:
        process = node.gateway._io.popen
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        where = "\n".join(stacks.read_text(errors="replace").splitlines()[:LINES])
        line = f"worker {node.gateway.id} was lost: {error}, exit code {process.returncode}"
        node.config.stash.setdefault(ENDED, {})[node.gateway.id] = f"{line}\n{where}".strip()
    stacks.unlink()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    how, known = sched.config.stash[ENDED][report.node.gateway.id], sched.config.stash.setdefault(LOST_IN, {})
    report.longrepr = f"{report.longrepr}: {how}"
    if crashitem not in known:
        report.outcome = LOST
    known[crashitem] = how


def pytest_report_teststatus(report):
    return (LOST, "L", "LOST") if report.outcome == LOST else None


def pytest_terminal_summary(terminalreporter, config):
    for test, how in config.stash.get(LOST_IN, {}).items():
        terminalreporter.write_line(f"in {test} {how}", yellow=True)
