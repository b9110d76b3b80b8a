"""How many runs machines hold at once, and what each of them gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.execution.task import Share

RUN_MB = 3000  # assumed of a run where nothing is said: as many at once as the memory holds


def this_machine() -> dict[str, float]:
    """The CPUs that this process may use and the memory in bytes that is free, as Ray says them of a node."""
    import joblib
    import psutil

    return {"CPU": float(joblib.cpu_count()), "memory": float(psutil.virtual_memory().available)}


def fit(share: Share, jobs: int | None, nodes: Sequence[Mapping[str, float]]) -> tuple[Share, int]:
    """A run's share with what was left open filled in, and how many such runs the nodes hold at once.

    GPUs: one per run where there are any. CPUs: all, divided by the runs at once, which `jobs`, the GPUs or the memory
    (3 GB a run) decide. Raises BadInput if not one run fits.
    """
    gpus = share.gpus if share.gpus is not None else float(any(node.get("GPU") for node in nodes))
    mb = share.memory_mb or RUN_MB
    slots = [
        node.get("GPU", 0) // gpus if gpus else min(node.get("CPU", 0), node.get("memory", 0) // (mb * 1e6))
        for node in nodes
    ]
    most = max(1, sum(slots))
    wanted = min(jobs or most, most) if gpus else jobs or most
    fair = (
        min((node.get("CPU", 0) / n for node, n in zip(nodes, slots, strict=True) if n), default=1.0)
        * sum(slots)
        / wanted
    )
    cpus = share.cpus or (float(math.floor(fair)) if fair >= 1 else fair)
    share = share.model_copy(update={"cpus": cpus, "gpus": gpus})
    needs = {"CPU": cpus, "GPU": gpus, "memory": (share.memory_mb or 0) * 1e6}
    held = sum(min(math.floor(node.get(name, 0) / n + 1e-6) for name, n in needs.items() if n) for node in nodes)
    if not held:
        have = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
        memory = share.memory_mb or 0
        raise BadInput(
            f"no node holds a run of {cpus:g} CPUs, {gpus:g} GPUs and {memory:g} MB; all nodes together "
            f"have {have['CPU']:g} CPUs and {have['GPU']:g} GPUs; ask for less per run"
        )
    return share, int(min(held, wanted))
