"""The benchmarks: both sides of the comparison give the same scores, and what is bounded stays within its bounds."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import quickstarts
from benchmarks.coverage import MEASURES, Design
from hdmap_mlflow.models.registry import REGISTRY

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


@pytest.mark.slow
def test_the_calibration_shows_that_published_maps_are_easier_for_both_methods() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.calibrate", "--domains", "domain_A"]
    command += ["--train", "24", "--test", "24"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    head, _, published, hard = ([cell.strip() for cell in line.split("|")] for line in out.splitlines())
    assert published[2:3] + hard[2:3] == ["0.58/0.58", "0.26/0.26"]
    for method in ("patchcore", "padim"):
        column = head.index(method)
        assert float(published[column]) > float(hard[column]) + 0.05


def measured(source: float, *targets: float, weights: str = "embedded") -> quickstarts.Measured:
    trivial = {"image max": "0.700", "image mean": "0.600", "row ratio": "0.950"}
    domains = zip("ABCD", (source, *targets), strict=False)
    rows = [{"domain": name, "AUROC": f"{auroc:.3f}", "95 % interval": "0.1-0.9", **trivial} for name, auroc in domains]
    return {"rows": rows, "seconds": 61.4, "peak_mb": 1234.5, "weights": weights}


def test_the_page_of_models_is_sorted_by_targets_and_marks_what_the_trivial_scores_beat() -> None:
    text = quickstarts.page(
        {
            "padim": measured(0.8, 0.7, 0.7),
            "patchcore": measured(0.96, 0.9, 0.8),
            "dinomaly": measured(0.65, 0.99, 0.99, weights="random"),
            "toothwise": measured(0.95, 0.96, 0.96, weights="none"),
            "winclip": {"failed": "needs the hub"},
        }
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [
        "`dinomaly`",
        "**toothwise**",
        "*row ratio*",
        "**patchcore**",
        "*image maximum*",
        "`padim`",
        "*image mean*",
    ]
    below = {row[0].strip("`*"): row[1] for row in rows}
    assert below["dinomaly"] == "image max, row ratio" and below["padim"] == "row ratio" and not below["patchcore"]
    assert rows[3][2:9] == ["0.960 (0.1-0.9)", "0.900 (0.1-0.9)", "0.800 (0.1-0.9)", "0.850", "61", "1,234", "embedded"]
    first = next(line for line in text.splitlines() if line.startswith("On a CPU"))
    assert re.findall("`(.*?)`", first) == ["toothwise", "patchcore", "padim"], "none that the image maximum beats"
    assert f"- `dinomaly`: {REGISTRY['dinomaly'].random_why}" in text.splitlines()
    assert "- `winclip`: needs the hub" in text.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(("maps", "correlation"), [(10, 0.3), (50, 0.1)])
def test_over_recordings_intervals_cover_and_the_test_errs_as_claimed_and_over_maps_they_do_not(maps, correlation):
    """`python -m benchmarks.coverage` asks all of it, with more repetitions."""
    design = Design(recordings=10, maps=maps, correlation=correlation)
    for name, (measure, (low, high)) in MEASURES.items():
        aware, unaware = (
            measure(design, 0.8, sample, 300, np.random.default_rng(0)) for sample in ("recordings", "maps")
        )
        assert low - 0.02 <= aware <= high + 0.02, name
        assert unaware > 0.15 if "test" in name else unaware < 0.9, name
