"""The benchmarks: both sides of the comparison give the same scores, and what is bounded stays within its bounds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Feeds 150 batches of 32 maps, 300 MB of embeddings in all, under a limit of 200 MB of data beyond what is loaded.
BOUNDED = """
import resource, sys
import torch
from hdmap_mlflow.models.parts.coreset import StreamingCoreset, greedy
from hdmap_mlflow.models.own.padim import Moments

greedy(torch.rand(50, 20), 5, 0)  # compiled before the limit is set
status = open("/proc/self/status").read()
data = int(status.split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 200_000_000, resource.RLIM_INFINITY))
kind = sys.argv[1]
kept, moments, stream = [], None, StreamingCoreset(100, 10_000)
for batch in range(150):
    if kind == "all":
        kept.append(torch.rand(32, 50, 320))
    elif kind == "padim":
        embedding = torch.rand(32, 50, 320)
        moments = moments or Moments(embedding)
        moments.add(embedding)
    else:
        stream.add(torch.rand(32 * 64, 64))
print("done", len(stream.result()) if kind == "patchcore" else moments.covariance().shape)
"""


def bounded(kind: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", BOUNDED, kind]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_fitting_from_a_stream_stays_within_a_limit_that_keeping_everything_breaks() -> None:
    assert "done" not in bounded("all").stdout  # the limit limits
    for kind in ("padim", "patchcore"):
        done = bounded(kind)
        assert "done" in done.stdout, done.stderr[-500:]


@pytest.mark.slow
def test_the_comparison_with_plain_anomalib_compares_equal_results() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.compare", "--model", "padim", "--train", "12"]
    command += ["--test", "4", "--size", "64", "--repeats", "1"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert float(re.search(r"largest relative difference (\S+),", out)[1]) < 1e-4  # type: ignore[index]
    assert "raw scores of 32 maps" in out
