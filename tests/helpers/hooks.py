"""A hook that writes down the process it is called in."""

import gc
import json
import os
import time
from pathlib import Path


def note(file, **more):
    import torch

    facts = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "frozen": gc.get_freeze_count(),
        "looks": gc.isenabled() and gc.get_threshold()[0],
        "threads": torch.get_num_threads(),
        "stdin": os.readlink("/proc/self/fd/0"),
        "output": os.readlink("/proc/self/fd/1"),
        "environment": dict(os.environ),
    } | more
    with Path(file).open("a") as stream:
        print(json.dumps(facts), file=stream)
    return lambda values, epoch: None


def waits(file):
    note(file)
    time.sleep(120)


def exits(code):
    os._exit(code)


def dies(signal):
    os.kill(os.getpid(), signal)
