"""What several processes do at the same moment; each is forked from a server that has imported MLflow."""

import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ("tuning.driver", "grid.driver", "execution.preload", "cli.commands", "cli.finished")
SERVER.set_forkserver_preload(["lasting", *(f"hdmap_mlflow.{name}" for name in PRELOADED)])
SERVES = {"SERVE_ARTIFACTS": "true", "ARTIFACT_ROOT": "mlflow-artifacts:/"}  # as `mlflow server` says by default


def _process(work, number, arguments, ready=None, folder=None, environment=None):
    given = (work, number, arguments, ready, folder or Path.cwd(), dict(environment or os.environ))
    process = SERVER.Process(target=_run, args=(*given, _server_address()))
    process.start()
    return process


def _server_address():
    """Where a process that is forked, and starts runs of its own, finds the server that is warm already."""
    forkserver.ensure_running()
    return forkserver._forkserver._forkserver_address


class Work:
    """`work(number, *arguments)` in a process of its own that imports nothing, nor do its runs; `log` is its output."""

    def __init__(self, work, *arguments, number=0, folder=None, environment=None):
        self.log = (folder or Path.cwd()) / f"start{number}.log"
        self._process = _process(work, number, arguments, folder=folder, environment=environment)
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


class Command(Work):
    """`hdmap WORDS` in a folder, which has the cache as well."""

    def __init__(self, folder, *words, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HDMAP_"))}
        clean |= {"HDMAP_CACHE": str(folder / "cache"), "TQDM_DISABLE": "1"} | environment
        super().__init__(_command, *words, folder=folder, environment=clean)


def hdmap(folder, *words, **environment):
    """What `hdmap WORDS` says, which ends well: in a process of its own that imports nothing."""
    process = Command(folder, *map(str, words), **environment)
    code, said = process.wait(300), process.log.read_text()
    assert code == 0, said[-3000:]
    return said


def _command(number, *words):
    from hdmap_mlflow import __main__

    sys.argv = ["hdmap", *words]
    tempfile.tempdir = None  # $TMPDIR is this command's, not that of the server that it is forked from
    __main__.main()


def server(folder, backend, artifacts, port, command):
    """An MLflow server, the head of a group of processes; `command`: all of `mlflow server`, not what it starts."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes that no test needs
    clean |= {f"_MLFLOW_SERVER_{name}": value for name, value in SERVES.items()}
    clean |= {"_MLFLOW_SERVER_FILE_STORE": backend, "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(artifacts)}
    words = ["--backend-store-uri", backend, "--artifacts-destination", str(artifacts), "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    return _process(_serve, 99, (port, words if command else []), folder=folder, environment=clean)


def _serve(number, port, words):
    os.setsid()
    if words:
        import mlflow.cli

        mlflow.cli.cli(["server", *words])
    else:
        import uvicorn
        from mlflow.server import handlers

        handlers.initialize_backend_stores(os.environ["_MLFLOW_SERVER_FILE_STORE"], None, SERVES["ARTIFACT_ROOT"])
        uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=port, log_level="warning")


def at_once(work, *arguments, count=8, seconds=300):
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
    process, deadline = _process(work, 0, arguments), time.monotonic() + 300
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
    forkserver.ensure_running = forkserver._forkserver.ensure_running  # bound to the server's own when it was imported
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


def notebook(number, path, without):
    """The cells of a notebook in their order; `without`: text of theirs -> what stands in its place."""
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    sys.path.insert(0, "")
    shell = InteractiveShell.instance()
    for cell in nbformat.read(path, as_version=4).cells:
        for text, other in without.items():
            cell.source = cell.source.replace(text, other)
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()


def bounded(number, kind):
    """Feeds 150 batches of 32 maps, 150 MB of embeddings in all, within 100 MB of data beyond what is loaded."""
    import resource

    import torch

    from hdmap_mlflow.models.own.padim import Moments
    from hdmap_mlflow.models.parts.coreset import StreamingCoreset, greedy

    greedy(torch.rand(50, 20), 5, 0)  # compiled before the limit is set
    data = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (data + 100_000_000, resource.RLIM_INFINITY))
    kept, moments, stream = [], None, StreamingCoreset(100, 10_000)
    for _ in range(150):
        if kind == "all":
            kept.append(torch.rand(32, 50, 160))
        elif kind == "padim":
            embedding = torch.rand(32, 50, 160)
            moments = moments or Moments(embedding)
            moments.add(embedding)
        else:
            stream.add(torch.rand(32 * 64, 64))
    print("done", len(stream.result()) if kind == "patchcore" else moments.covariance().shape, flush=True)


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


def grid(number, count, drivers=1):
    """A driver of a grid of fake runs, two at once; it begins when so many `drivers` know what there is to do."""
    from fakes import cells, forked

    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.grid import driver, plan

    found = cells(count)
    store = driver.open_store(found)
    launch = Launch(jobs=2, ray=False, stagger=0, child=forked(), resume="hdmap grid --again")
    planned = plan.look_up(found, store)
    Path(f"planned{number}").touch()
    while len(list(Path().glob("planned*"))) < drivers:
        time.sleep(0.005)
    driver.carry_out(planned, store, launch)


def tune(number, search, jobs=1):
    """`hdmap tune`, with fake trials."""
    from fakes import trial_command

    from hdmap_mlflow import __main__
    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.tuning import driver

    launch = Launch(jobs=jobs, ray=False, stagger=0, child=trial_command(), resume="hdmap tune --again")
    __main__.app = lambda _words: driver.tune(search, launch)
    __main__.main()
