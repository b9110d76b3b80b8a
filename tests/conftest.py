"""Small data that the tests make, and an MLflow store of their own."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from maps import write_domain
from workers import (  # noqa: F401 - hooks
    pytest_configure_node,
    pytest_handlecrashitem,
    pytest_report_teststatus,
    pytest_sessionstart,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_xdist_make_scheduler,
)

# A mutant is noticed by the first example that fails; looking for the smallest one takes seconds.
settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-snapshot", action="store_true", help="write tests/snapshot.json anew")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of xdist has one core: more threads would wait for each other
        for library in ("OMP", "NUMBA"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    gc.set_threshold(50_000)  # as the command line does


@pytest.fixture(autouse=True)
def _emptied(request: pytest.FixtureRequest) -> Iterator[None]:
    """A passed test's folder is emptied, for all of them hold gigabytes.

    It stays itself, unlike under pytest's own policy: MLflow keeps its connections by path, and no other test may get
    the same one.
    """
    failed = request.session.testsfailed
    yield
    folder = request.node.funcargs.get("tmp_path")
    if folder is not None and request.session.testsfailed == failed:
        for path in folder.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


@pytest.fixture(scope="session")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small domains that differ in gain; domain_C exceeds 1."""
    root = tmp_path_factory.mktemp("maps")
    for name, gain in (("domain_A", 1.0), ("domain_B", 1.5), ("domain_C", 4.0)):
        write_domain(root, name, gain=gain)
    return root


@pytest.fixture(scope="module")
def quick_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory, where there is room: a store's commit waits for no disk there, however busy that is."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2e9:
        yield tmp_path_factory.mktemp("disk")
        return
    with tempfile.TemporaryDirectory(prefix="hdmap_", dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def store(_own_store: None, tmp_path: Path):  # noqa: ANN201
    """The test's own store, ready."""
    from servers import new_store

    from hdmap_mlflow.tracking import Store

    return Store(new_store(tmp_path / "mlflow.db"), "hdmap")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    """A store for a module's tests that write runs of their own and count none."""
    from servers import new_store

    from hdmap_mlflow.tracking import Store

    return Store(new_store(tmp_path_factory.mktemp("shared") / "mlflow.db"), "hdmap")


@pytest.fixture
def record(shared):  # noqa: ANN001, ANN201
    """A run of the shared store that is being written."""
    from hdmap_mlflow.tracking import Record

    return Record(shared.client, shared.create("a run", {}, None), shared.uri)


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the folder it is started from, or into a store of the user's."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def exit_code(monkeypatch: pytest.MonkeyPatch):  # noqa: ANN201
    """Runs `hdmap ARGUMENTS` in this process, which has imported torch already; returns the exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hdmap", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            from hdmap_mlflow import __main__

            __main__.main()
        except SystemExit as end:
            return end.code or 0
        finally:
            for number, handler in before.items():  # a command that was interrupted leaves Ctrl-C to the system
                signal.signal(number, handler)
        return 0

    return call


@pytest.fixture
def refused(exit_code, capfd, tmp_path, monkeypatch):  # noqa: ANN001, ANN201
    """Bad input, given to `hdmap` in the test's own folder, which also holds the cache; see `chaos.Refused`."""
    from chaos import Refused

    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HDMAP_FORKS", "0")  # nothing is to run, so no server need begin its imports
    return Refused(exit_code, capfd, tmp_path)
