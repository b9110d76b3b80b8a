"""The exceptions of our own: the input is wrong, a run was ended on purpose, some runs of many failed."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class BadInput(Exception):
    """Wrong input from the user: one line that names the file, key or domain and the way out.

    The command line prints the line without a traceback and exits with code 2; a run that had already
    started is marked FAILED with the line as its reason.
    """


class OutOfMemory(BadInput):
    """The run did not fit the memory of the machine or of the GPU; the line says what to lower."""


class Stopped(Exception):
    """A run that was ended on purpose: it is recorded as KILLED with this reason."""


class Pruned(Stopped):
    """A trial that its study gave up early."""


class Incomplete(Exception):
    """Some of many runs failed: one line that says how many and how to go on. Exit code 1."""


class NotRecorded(Incomplete):
    """What was computed could not be recorded: one line that says where it lies, and the command that records it."""

    def __init__(self, line: str, folder: Path | None = None) -> None:
        super().__init__(line)
        self.folder = folder


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def one_line(error: BaseException, limit: int = 160) -> str:
    """What an error says, on one line of at most `limit` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
