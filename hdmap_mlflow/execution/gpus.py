"""The NVIDIA GPUs of this machine, seen through NVML: what they do now, and waiting until they are idle."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from hdmap_mlflow.errors import BadInput

POLL_SECONDS = 10.0


class Idle(BaseModel):
    """When a GPU counts as idle (utilisation in percent, used memory in MB), and seconds to wait (None: no limit)."""

    model_config = ConfigDict(frozen=True)
    utilisation: Annotated[float, Field(ge=0, le=100)] = 10
    memory_mb: Annotated[float, Field(ge=0)] = 2000
    max_wait: Annotated[float, Field(ge=0)] | None = None

    def holds(self, gpu: Gpu) -> bool:
        return gpu.utilisation <= self.utilisation and gpu.used_mb <= self.memory_mb


@dataclass(frozen=True)
class Gpu:
    """One GPU now: utilisation in percent, memory in MB."""

    index: int
    uuid: str
    name: str
    utilisation: float
    used_mb: float
    total_mb: float
    processes: int


def present() -> bool:
    """Whether there is a GPU to share out that `CUDA_VISIBLE_DEVICES` does not hide; it is asked nothing.

    Parts of a GPU (MIG) cannot say what they do now; of AMD's the driver is all that is looked for.
    """
    import pynvml

    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Path("/dev/kfd").exists()
    try:
        return pynvml.nvmlDeviceGetCount() > 0
    finally:
        pynvml.nvmlShutdown()


def inspect() -> list[Gpu]:
    """Every GPU of this machine; none where there is no NVIDIA driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(i) for i in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu:
    import pynvml as nvml

    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index,
        nvml.nvmlDeviceGetUUID(handle),
        nvml.nvmlDeviceGetName(handle),
        nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        memory.used / 1e6,
        memory.total / 1e6,
        len(nvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    )


def visible() -> list[Gpu]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` names by number or UUID; all where it is not set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()]
    return [
        gpu for gpu in inspect() if names is None or str(gpu.index) in names or any(map(gpu.uuid.startswith, names))
    ]


def wait_until_idle(
    idle: Idle, stopped: Callable[[], bool] = lambda: False, say: Callable[[str], object] = lambda line: None
) -> None:
    """Wait until every visible GPU is idle, saying which are not. Raises BadInput after `idle.max_wait` seconds."""
    deadline, waited_for = time.monotonic() + (math.inf if idle.max_wait is None else idle.max_wait), None
    while not stopped():
        busy = [gpu for gpu in visible() if not idle.holds(gpu)]
        if not busy:
            return
        names = ", ".join(f"{gpu.index} ({gpu.utilisation:g} %, {gpu.used_mb:,.0f} MB)" for gpu in busy)
        if waited_for != (waited_for := [gpu.index for gpu in busy]):
            say(f"waiting until GPU {names} is idle")
        if time.monotonic() >= deadline:
            raise BadInput(
                f"GPU {names} not idle after {idle.max_wait:g} s; wait longer (--max-wait) or choose "
                "others with CUDA_VISIBLE_DEVICES"
            )
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))
