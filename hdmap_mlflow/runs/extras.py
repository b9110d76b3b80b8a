"""What a run stands without: its pictures, what is kept for a next run, a card that needs weights of its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from hdmap_mlflow import interrupt
from hdmap_mlflow.errors import one_line


class Extras:
    """`with extras(name)`: where that fails, the run goes on without it; `left_out` has a line for each that did."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.left_out: list[str] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        try:
            with interrupt.recognised():
                yield
        except Exception as error:
            logging.getLogger(__name__).warning("%s left out", name, exc_info=True)
            self.left_out.append(f"{name}: {one_line(error)}")
            self.say(f"left out: {self.left_out[-1]}")
