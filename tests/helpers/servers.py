"""Servers that tests start and end: PostgreSQL of Debian's package, and MLflow on it; and a store that is just made."""

import contextlib
import functools
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


@functools.cache  # and so made once for all the mutants that are forked from a process
def _fresh() -> bytes:
    from hdmap_mlflow.tracking import Store

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        Store(f"sqlite:///{file}", "hdmap").client._tracking_client.store.engine.dispose()
        return file.read_bytes()


def new_store(file: Path) -> str:
    """URI of a new SQLite store with the experiment hdmap, whose artifacts lie beside it.

    Making one takes MLflow seconds, copying it none.
    """
    file.write_bytes(_fresh())
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        place = (file.parent / "mlartifacts").as_uri()
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'hdmap'", [place])
    return f"sqlite:///{file}"


def back(record):  # noqa: ANN001, ANN201
    """The run of a `tracking.Record` as its store has it."""
    return record.client.get_run(record.run_id)


def text(record, path):  # noqa: ANN001, ANN201
    """An artifact of the run of a `tracking.Record`."""
    from hdmap_mlflow import tracking

    return tracking.artifacts(record.uri, record.run_id, path).read_text()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """URI of an empty database on a server of its own. Skips the test where PostgreSQL is not installed."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    initdb = shutil.which("initdb", path=os.pathsep.join([*places, os.environ["PATH"]]))
    if not initdb:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to be root
    folder, port = Path(tempfile.mkdtemp(prefix="hdmap_pg_")), free_port()
    if as_user:
        shutil.chown(folder, "postgres")
    pg_ctl = [*as_user, str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w"]
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        subprocess.run(
            [*as_user, initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        subprocess.run(
            [*pg_ctl, "-l", str(folder / "log"), "-o", options, "start"],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        try:
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*pg_ctl, "-m", "immediate", "stop"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def mlflow_server(backend: str, artifacts: Path, port: int = 0, command: bool = False) -> Iterator[str]:
    """URI of an MLflow server on a backend store, which takes the artifacts of its clients.

    It is what `mlflow server` starts, or with `command` that itself, which takes seconds to import.
    """
    import starts

    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    server = starts.server(artifacts.parent, backend, artifacts, port, command)
    try:
        deadline = time.time() + 120
        while time.time() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=5)
                break
            assert server.is_alive(), (artifacts.parent / "start99.log").read_text()[-2000:]
            time.sleep(0.1)
        yield uri
    finally:
        os.killpg(server.pid, 9)  # asked kindly, it waits for clients that keep a connection
        server.join(30)
