"""A child that costs a second and does as it is told: `fake_child.py ORDERS TASK.json`.

ORDERS is a folder. The order of a run stands in `<seed>`, default "sleep 0.5"; what happened is added to `<seed>.log`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from hdmap_mlflow.errors import OutOfMemory
from hdmap_mlflow.execution import child

VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")


def flow(task):
    orders, seed = Path(sys.argv[1]), str(task.config.train.seed)
    verb, _, value = (orders / seed).read_text().partition(" ") if (orders / seed).exists() else ("sleep", "", "0.5")
    note = {"pid": os.getpid(), "watcher": os.getppid(), "begin": time.time(), "batch": task.config.data.batch_size}
    note |= {name: os.environ.get(name) for name in VARIABLES}

    def write(**more):
        with (orders / f"{seed}.log").open("a") as stream:
            print(json.dumps(note | more), file=stream, flush=True)

    print("line of the log", flush=True)
    write()
    if verb == "sleep":
        time.sleep(float(value))
    elif verb == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    elif verb == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "raise":
        raise ValueError(value)
    elif verb == "eat" and task.config.data.batch_size > int(value):
        hoard = [bytearray(b"x" * 50_000_000) for _ in range(40)]
        time.sleep(60)
        del hoard
    elif verb == "cuda" and task.config.data.batch_size > int(value):
        raise OutOfMemory("ran out of GPU memory")
    elif verb == "record":
        record(task)
    write(end=time.time())
    return {"metrics": {"target_mean/image_AUROC": 0.5}, "result": {"seed": seed, "status": "success"}}


def record(task):
    """Write to MLflow what a run writes, in many small calls."""
    from hdmap_mlflow import tracking

    config = task.config
    with tracking.start(config.tracking.uri, config.tracking.experiment, config.name, {"hdmap.test": "yes"}) as record:
        record.params(config.flat())
        for step in range(20):
            record.metrics({f"epoch/{name}": float(step) for name in "abcde"}, step)
        record.json({"seed": config.train.seed}, "result.json")


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[2], flow))
