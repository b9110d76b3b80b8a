"""The server that shows a store in a browser, on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.tracking.client import read_store
from hdmap_mlflow.tracking.patience import FAILURES
from hdmap_mlflow.tracking.views import PORT, link, share

SECONDS = 60  # that a server may take to start; MLflow's takes about ten


@contextlib.contextmanager
def shown(uri: str, experiment: str, port: int = PORT) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """The address of an experiment's comparison, and the server that was started for it, None where one answers.

    Raises BadInput for a store or an experiment that is not there, and for a port where something else answers.
    """
    client, known = read_store(uri, experiment)
    with contextlib.suppress(*FAILURES):  # a store that takes no tags has no views, and is shown all the same
        share(client, known)
    server = uri if uri.startswith("http") else f"http://127.0.0.1:{port}"
    address, created = link(server, known), client.get_experiment(known).creation_time
    if uri.startswith("http") or _serves(server, experiment, created):
        yield address, None
        return
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    clean["MLFLOW_BACKEND_STORE_URI"] = uri  # not on a command line, which others read: it may hold a password
    clean["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes for evaluations of language models
    process = subprocess.Popen([*command, "--port", str(port), "--workers", "1"], env=clean, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while not _serves(server, experiment, created):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BadInput(f"the server did not start on port {port}; give --port another one, or see above")
            time.sleep(0.3)
        yield address, process
    finally:
        process.terminate()
        process.wait()


def _serves(server: str, experiment: str, created: int | None) -> bool:
    """Whether a server answers with this experiment. Raises BadInput if something else answers there."""
    try:
        requests.get(f"{server}/health", timeout=5)
    except requests.RequestException:
        return False
    try:
        found = MlflowClient(server).get_experiment_by_name(experiment)
    except MlflowException:
        found = None
    if found is None or found.creation_time != created:
        raise BadInput(f"{server} answers, but not with this store; end what runs there or give --port another one")
    return True
