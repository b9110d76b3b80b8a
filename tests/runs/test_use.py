"""A newcomer's path on real processes and a real server: train, predict, promote, serve, ask."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import requests
import starts
import tifffile
from maps import write_domain
from servers import mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("put to use")]  # trained and served once
README = Path(__file__).parents[2] / "README.md"


def documented(start):
    """The README's one line that begins so, as words, without its comment."""
    (line,) = re.findall(rf"^{start}.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line, comments=True)


@contextlib.contextmanager
def served(folder, environment):
    """The documented `mlflow models serve`, once it answers."""
    command = documented("mlflow models serve")
    port = command[command.index("--port") + 1]
    log = folder / "serve.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            deadline = time.time() + 240
            while time.time() < deadline:
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok:
                        break
                assert server.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A run that was trained, has scored maps, was promoted and is served, each by a process of its own."""
    folder = tmp_path_factory.mktemp("use")
    for name, gain in (("domain_A", 1.0), ("domain_B", 1.5)):
        write_domain(folder / "maps", name, gain=gain)

    here = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    with mlflow_server(f"sqlite:///{folder / 'server.db'}", folder / "proxied") as uri:
        scratch = folder / "scratch"
        scratch.mkdir()
        environment = os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": here}
        hdmap = partial(starts.hdmap, folder, MLFLOW_TRACKING_URI=uri, TMPDIR=str(scratch))
        quiet = ("--overrides", "tracking.figures=false,tracking.heatmaps=0")
        said = hdmap("train", "toothwise", "--condition", "quickstart", "--data-root", str(folder / "maps"), *quiet)
        run_id = said.rpartition("\nrun ")[2].partition(";")[0]
        hdmap("predict", run_id, str(folder / "maps/domain_B/test/fault"), "--out", "scores.csv")
        promoted = hdmap("promote", run_id, "--name", "gearbox", "--anyway")
        listed = hdmap("models", "--registered")
        left = [path.name for path in scratch.iterdir() if not path.name.startswith("torchinductor")]  # torch's own
        with served(folder, environment) as server:
            table = pd.read_csv(folder / "scores.csv")
            yield SimpleNamespace(
                folder=folder,
                environment=environment,
                run_id=run_id,
                promoted=promoted,
                listed=listed,
                left=left,
                server=server,
                table=table,
            )


def test_what_was_fetched_from_a_server_is_gone_with_the_process(used):
    assert used.left == []


def test_from_a_run_to_an_answer_on_a_port(used):
    assert "models:/gearbox@champion, version 1" in used.promoted
    assert used.run_id in used.listed.replace("\n", "")
    assert len(list((used.folder / "proxied").rglob("*.ckpt"))) == 1, "stored once"
    assert not list((used.folder / "results").rglob("*.ckpt")), "and not here, too"
    maps = [tifffile.imread(path).tolist() for path in used.table["path"]]
    answer = requests.post(f"{used.server}/invocations", json={"inputs": maps}, timeout=60)
    assert answer.ok, answer.text
    predictions = answer.json()["predictions"]
    assert [one["score"] for one in predictions] == used.table["score"].tolist()
    assert [one["alarm"] for one in predictions] == used.table["alarm"].tolist()


def test_the_documented_curl_line_is_answered(used):
    for start in ("mlflow artifacts download", "curl"):
        command = documented(start)
        done = subprocess.run(
            command, cwd=used.folder, env=used.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    predictions = json.loads(done.stdout)["predictions"]
    maps = json.loads((used.folder / "serving_input_example.json").read_text())["inputs"]
    assert len(predictions) == len(maps) >= 1 and predictions[0].keys() == {"score", "alarm"}
