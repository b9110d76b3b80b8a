"""Processes by name, and how long one that is asked to end may take."""

from __future__ import annotations

import socket

import psutil

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
