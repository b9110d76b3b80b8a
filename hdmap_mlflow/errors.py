"""The exceptions of our own: the input is wrong, a run was ended on purpose, some runs of many failed."""

import difflib
from collections.abc import Iterable


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


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known word, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{match[0]}'?)" if match else ""


def one_line(error: BaseException, limit: int = 160) -> str:
    """What an error says, on one line of at most `limit` characters; its type where it says nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def quoted(value: object, limit: int = 120) -> str:
    """A value as Python writes it, for a message; of a long one the middle is left out."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 2 :]}"
