"""Loops over arrays, compiled, on as many threads as torch has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import torch

FASTMATH = {"reassoc", "contract", "nsz"}


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays, whose `numba.prange` is shared out among torch's threads.

    numba would take one for every core and, where OpenMP is both libraries', leave torch with as many. Two runs that
    have a core each would then have two threads each, which wait for one another: up to six times as long.
    """
    of_arrays = numba.njit(parallel=True, fastmath=FASTMATH, cache=True)(loop)

    @functools.wraps(loop)
    def on_threads(*given: Any) -> Any:
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        try:
            return of_arrays(*given)
        finally:
            torch.set_num_threads(threads)

    return on_threads
