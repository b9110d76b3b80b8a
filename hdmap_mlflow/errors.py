"""The exceptions of our own: the input is wrong, a run was ended on purpose, some runs of many failed."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

SECRETS = (
    (r"(://[^:/@\s]*):[^\s'\"]*@", r"\1:***@"),  # up to the last @: a password may hold one that nobody escaped
    (r"([?&](?:password|passwd|pwd|token|secret)=)[^&\s'\"]*", r"\1***"),
)


class _Said(Exception):
    """An error whose text the user reads: it holds no password."""

    def __str__(self) -> str:
        return masked(super().__str__())


class BadInput(_Said):
    """Wrong input from the user: one line that names the file, key or domain and the way out.

    The command line prints the line without a traceback and exits with code 2; a run that had already
    started is marked FAILED with the line as its reason.
    """

    def __init__(self, line: str) -> None:
        # torch raises what happened in a loader's process once more, with the traceback from there before the line.
        super().__init__(line.rpartition("errors.BadInput: ")[2].strip())


class BadSetting(BadInput):
    """A setting of a model that its class refuses: who recorded it is to blame, where a record is read."""


class Unreachable(BadInput):
    """The hub cannot be reached: the fault of no setting, and every run that wants it will meet it."""


class NoSpace(BadInput):
    """A folder of ours cannot be written: the fault of no map and no setting, and every later one will meet it."""


class OutOfMemory(BadInput):
    """The run did not fit the memory of the machine or of the GPU; the line says what to lower."""


class Stopped(_Said):
    """A run that was ended on purpose: it is recorded as KILLED with this reason."""


class Pruned(Stopped):
    """A trial that its study gave up early."""


class Incomplete(_Said):
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


PREAMBLE = r"^\(raised as a result of [^)]*\) "  # of SQLAlchemy, before what the database says


def one_line(error: BaseException, limit: int = 160) -> str:
    """What an error says, on one line of at most `limit` characters, no password in it; its type where it is silent."""
    text = re.sub(PREAMBLE, "", " ".join(str(error).split()))
    return masked(text)[:limit] or type(error).__name__


def masked(text: str) -> str:
    """A text in which `***` stands for the passwords of the addresses in it."""
    for secret, shown in SECRETS:
        text = re.sub(secret, shown, text)
    return text


def quoted(value: object, limit: int = 120) -> str:
    """A value as Python writes it, for a message; of a long one the middle is left out."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 2 :]}"
