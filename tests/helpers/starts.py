"""What several processes do at the same moment; each is forked from a server that has imported MLflow."""

import multiprocessing
import os
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ("tuning.driver", "grid.driver", "execution.preload", "cli.commands", "cli.finished")
SERVER.set_forkserver_preload([f"hdmap_mlflow.{name}" for name in PRELOADED])


def _process(work, number, arguments, ready=None, folder=None, environment=None):
    given = (work, number, arguments, ready, folder or Path.cwd(), dict(environment or os.environ))
    process = SERVER.Process(target=_run, args=(*given, _server_address()))
    process.start()
    return process


def _server_address():
    """Where a process that is forked, and starts runs of its own, finds the server that is warm already."""
    forkserver.ensure_running()
    return forkserver._forkserver._forkserver_address


class Command:
    """`hdmap WORDS` in a folder: a process of its own that imports nothing, nor do its runs; `log` is what it says."""

    def __init__(self, folder, *words, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HDMAP_"))}
        clean |= {"HDMAP_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"} | environment
        self.log = folder / "start0.log"
        self._process = _process(_command, 0, words, folder=folder, environment=clean)
        self.pid = self._process.pid

    def wait(self, seconds=None):
        """The exit code; None where it goes on after so many seconds."""
        self._process.join(seconds)
        return self._process.exitcode

    def send(self, signal):
        os.kill(self.pid, signal)

    def kill(self):
        self._process.kill()
        self._process.join()


def _command(number, *words):
    from hdmap_mlflow import __main__

    sys.argv = ["hdmap", *words]
    __main__.main()


def at_once(work, *arguments, count=8, seconds=120):
    """Exit codes of `count` processes that run `work(number, *arguments)` at the same moment."""
    ready = SERVER.Barrier(count)
    processes = [_process(work, number, arguments, ready) for number in range(count)]
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def killed(work, *arguments, when, after=0.0):
    """Run `work(0, *arguments)` in a process that is killed `after` seconds from when something holds."""
    process, deadline = _process(work, 0, arguments), time.monotonic() + 60
    while process.is_alive() and not when():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)
    time.sleep(after)
    cut = process.is_alive()
    process.kill()
    process.join()
    return cut


def _run(work, number, arguments, ready, folder, environment, address):
    forkserver._forkserver.ensure_running, forkserver._forkserver._forkserver_address = lambda: None, address
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(f"start{number}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if ready:
            ready.wait()
        try:
            work(number, *arguments)
        except SystemExit as end:
            sys.exit(end.code)


def record(number, uri):
    """A start on a store that may be fresh: a run of two values."""
    from hdmap_mlflow import tracking

    with tracking.start(tracking.absolute_uri(uri), "hdmap", f"run {number}", {"hdmap.kind": "run"}) as run:
        run.params({"number": str(number)})


def open_study(number, url):
    """A driver's first step on a storage that may be fresh."""
    from studies import DIMENSIONS, SPACE  # noqa: F401

    from hdmap_mlflow.tuning.storage import StudyStorage
    from hdmap_mlflow.tuning.study import Study

    Study(StudyStorage.of(url), "s", SPACE, {"data_digest": "d"}, ["maximize"])


def grid(number, count):
    """A driver of a grid of fake runs, two at once."""
    from fakes import cells, command

    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.grid import driver, plan

    found = cells(count)
    store = driver.open_store(found)
    launch = Launch(jobs=2, ray=False, stagger=0, child=command(), resume="hdmap grid --again")
    driver.carry_out(plan.look_up(found, store), store, launch)


def tune(number, search):
    """A driver of a study of fake trials."""
    from fakes import trial_command

    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.tuning import driver

    driver.tune(search, Launch(jobs=1, ray=False, stagger=0, child=trial_command(), resume="hdmap tune --again"))
