"""Seconds and peak memory of each phase of a run."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import psutil


class Meter:
    """Measures named phases: wall seconds, and the process's peak resident memory in MB, sampled every 50 ms.

    `results` maps `<phase>_seconds`, `<phase>_peak_MB` and, with CUDA, `<phase>_peak_cuda_MB` to values.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.results: dict[str, float] = {}
        self.say = say

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.say(f"{name} ...")
        process, done = psutil.Process(), threading.Event()
        peak = process.memory_info().rss

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, process.memory_info().rss)

        cuda = _cuda()
        if cuda:
            cuda.reset_peak_memory_stats()
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            seconds = time.perf_counter() - started
            self.results |= {f"{name}_seconds": seconds, f"{name}_peak_MB": peak / 1e6}
            if cuda:
                self.results[f"{name}_peak_cuda_MB"] = cuda.max_memory_allocated() / 1e6
        self.say(f"{name} took {seconds:.1f} s, peak memory {peak / 1e6:,.0f} MB")


def _cuda() -> ModuleType | None:
    """`torch.cuda` where torch is already loaded and has a device."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_available() else None
