"""What pytest-xdist 3.8 does about a lost worker, mended: its work goes to another one, and how it ended is told.

The lost worker's finished tests are handed out again as units of nothing, for which the others wait for ever
(pytest-xdist issue 1323), and its successor gets one test, which it holds until there is a second (issue 1327). Both
are mended in its repository, and in no release. Work that is sent to a worker that is gone already ends the whole run.
The test that a worker is lost in runs once more, where the worker did not end by a fault of its own, and the run says
so at its end; the second worker that is lost is a failure. Where each thread was at a fault stands in that test's
failure, as CI shows the end of a run and little of what is before it.
"""

import contextlib
import faulthandler
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadGroupScheduling

ENDED = pytest.StashKey[list[tuple[str, int | None]]]()
FAULT = pytest.StashKey[str]()
FAULTS = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}
LOST = "lost"  # an outcome, beside passed and failed
STACKS = "stacks"  # of a worker's input: the file that Python writes at a fault
LINES = 60  # of it


class Scheduler(LoadGroupScheduling):
    def remove_node(self, node):
        work = self.assigned_work[node]
        for group in [group for group, tests in work.items() if all(tests.values())]:
            del work[group]
        return super().remove_node(node)

    def _assign_work_unit(self, node):
        with contextlib.suppress(OSError):  # it is gone already: what it was to get goes back when its end is told
            super()._assign_work_unit(node)

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
        line = f"worker {node.gateway.id} was lost: {error}, exit code {process.returncode}"
        node.config.stash.setdefault(ENDED, []).append((line, process.returncode))
        node.config.stash[FAULT] = "\n".join(stacks.read_text(errors="replace").splitlines()[:LINES])
    stacks.unlink()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, report, sched):
    (line, code), *others = reversed(sched.config.stash[ENDED])
    sched.config.stash[ENDED][-1] = f"{line}, in {crashitem}", code
    report.longrepr = f"{report.longrepr}: exit code {code}\n{sched.config.stash[FAULT]}"
    if not others and code not in FAULTS:
        report.outcome = LOST


def pytest_report_teststatus(report):
    return (LOST, "L", "LOST") if report.outcome == LOST else None


def pytest_terminal_summary(terminalreporter, config):
    for line, _ in config.stash.get(ENDED, []):
        terminalreporter.write_line(line, yellow=True)
