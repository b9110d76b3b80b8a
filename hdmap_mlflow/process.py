"""Processes by name, and how long one that is asked to end may take."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from hdmap_mlflow.files import cache_dir

MARK = ".used-by-"  # begins the name of a file that says who uses its folder
GRACE_SECONDS = 20.0  # between SIGTERM and SIGKILL
CLOCK_SECONDS = 2.0  # by which a process seems to have started sooner or later when the clock is corrected


def process_name(pid: int | None = None) -> str:
    """`<host>:<pid>:<start>` of a process, this one by default: tells a living process from a reused number."""
    process = psutil.Process(pid)
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def is_gone(name: str) -> bool:
    """Whether a process of this host, as `process_name` named it, no longer runs. False for other hosts: unknown."""
    host, _, rest = name.partition(":")
    if host != socket.gethostname():
        return False
    try:
        pid, _, start = rest.partition(":")
        process = psutil.Process(int(pid))
        another = abs(process.create_time() - float(start)) > CLOCK_SECONDS
        return another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def using_cache() -> Iterator[None]:
    """While this process uses the cache, a file in it says so; none stands in one that cannot be written to."""
    mark = (folder := cache_dir()) / f"{MARK}{os.getpid()}-{secrets.token_hex(3)}"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(process_name(), encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()


def users(folder: Path) -> list[str]:
    """Names of the processes that use a folder: of this host those that live, of other hosts all that said so."""
    return sorted({name for mark in folder.glob(f"{MARK}*") if not is_gone(name := mark.read_text(encoding="utf-8"))})
