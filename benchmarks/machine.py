"""The machine that figures were measured on, in words."""

import datetime
import os
import platform
from pathlib import Path

GIBI = 2**30


def described() -> str:
    """Its cores, processor and memory, and the day; of a machine without a GPU, as those of these benchmarks are."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = names[0].partition(": ")[2] if names else platform.processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIBI
    return f"{os.cpu_count()} cores {cpu}, {memory:.0f} GB, no GPU, {datetime.date.today()}"
