"""Compiled loops are shared out among torch's threads, and leave torch as many as it had."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from hdmap_mlflow.models.parts.kernel import compiled

LOOPS = """
import torch
torch.set_num_threads(1)
from hdmap_mlflow.models.parts import coreset, nearest
points = torch.rand(200, 8)
coreset.greedy(points, 20, 0)
nearest.Nearest(points)(points)
print(torch.get_num_threads())
"""


@compiled
def threads(out: np.ndarray) -> None:
    for i in numba.prange(len(out)):
        out[i] = numba.get_thread_id()


@pytest.mark.slow  # numba starts its threads once in the life of a process: it has to be a new one
def test_two_runs_with_a_core_each_do_not_take_two_each() -> None:
    ended = subprocess.run([sys.executable, "-c", LOOPS], capture_output=True, text=True, check=False)
    assert ended.stdout == "1\n", ended.stderr[-2000:]


def test_a_loop_takes_no_more_threads_than_torch_has() -> None:
    had, out = torch.get_num_threads(), np.full(1000, -1)
    try:
        torch.set_num_threads(1)
        threads(out)
        assert set(out) == {0} and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(had)
