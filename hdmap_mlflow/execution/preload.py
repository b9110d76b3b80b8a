"""What a run imports, imported once by the server from which runs are forked, without the libraries' own warnings.

What is imported stays: Python looks for no garbage meanwhile, and never again among these objects, whose memory the
runs so share; in the runs it looks rarely (see `__main__`).
"""

import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator

DRIVER = os.getppid()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A Ctrl-C is sent to all processes of a terminal: it is the driver's to obey, and this one ends with that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_alone() -> None:
    """End here where the driver is gone, which may have refused its command meanwhile."""
    if os.getppid() != DRIVER:
        sys.exit()


gc.disable()
with undisturbed(), warnings.catch_warnings(action="ignore"):
    import torch  # noqa: F401

    end_alone()
    from hdmap_mlflow import tracking  # noqa: F401

    end_alone()
    from hdmap_mlflow.data import datamodule  # noqa: F401 - and with it Lightning

    end_alone()
    from hdmap_mlflow.evaluation import cards, figures  # noqa: F401
    from hdmap_mlflow.execution import child  # noqa: F401
    from hdmap_mlflow.models.own import patchcore  # noqa: F401 - and with it all of anomalib
    from hdmap_mlflow.runs import flow, train  # noqa: F401
gc.freeze()
gc.set_threshold(50_000)
gc.enable()
