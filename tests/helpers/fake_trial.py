"""A trial that costs a second: its AUROC follows from its settings. `fake_trial.py ORDERS TASK.json`.

What a trial does stands in ORDERS/<number>, nothing by default; that it began and ended is added to ORDERS/log.
"""

import json
import os
import sys
import time
from pathlib import Path

from hdmap_mlflow import tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.execution import child


def flow(task):
    orders, number = Path(sys.argv[1]), task.tags.get("hdmap.trial", "refit")
    verb, _, value = (orders / number).read_text().partition(" ") if (orders / number).exists() else ("", "", "")
    config = task.config
    neighbours = config.model.settings.get("num_neighbors", 9)
    note = {"trial": number, "pid": os.getpid(), "neighbours": neighbours, "targets": config.data.target_domains}

    def write(what):
        with (orders / "log").open("a") as stream:
            stream.write(json.dumps(note | {"what": what}) + "\n")

    write("begin")
    if verb == "sleep":
        time.sleep(float(value))
    if verb == "bug":
        raise ZeroDivisionError(value)
    name, tags = config.name, {**task.tags, "hdmap.kind": task.kind}
    with tracking.start(config.tracking.uri, config.tracking.experiment, name, tags) as record:
        if verb == "fail":
            raise BadInput(value)
        if task.hook:
            on_epoch = child.load_hook(task.hook)(**task.arguments)
            for epoch in range(config.train.max_epochs):
                on_epoch({"val_image_AUROC": float(value) if verb == "reaches" else 0.8}, epoch)
        auroc = 1 - abs(neighbours - 4) / 20 + config.train.seed / 1000
        metrics = {f"{scope}/image_AUROC": auroc for scope in ("val", "source", "target_mean", "target_worst")}
        costs = {
            f"cost/{phase}_{what}": float(neighbours)
            for phase in ("fit", "evaluate")
            for what in ("seconds", "peak_MB")
        }
        record.metrics({k: v for k, v in (metrics | costs).items() if verb != "without" or k != value})
    write("end")
    return {}


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[2], flow))
