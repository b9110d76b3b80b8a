"""SQLite files: as an address and back, and what a file is before a library opens it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock

from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.files import part_of, sweep, try_to_write

SCHEME = "sqlite:///"
LOCKED_SECONDS = 6  # how long a database may be busy with another process
TURN_SECONDS = 90  # how long others may take to open a store
CHECKED_BYTES = 50_000_000  # a larger database is not read through to see whether it is whole


def url(file: Path) -> str:
    """The address of a file, whatever its path holds."""
    return SCHEME + str(file.absolute()).replace("%", "%25").replace("?", "%3F")


def file_of(address: str) -> Path | None:
    """The file that `sqlite:///FILE` names, absolute; None for an address of another kind.

    A folder that is there as it is written is meant so; else `%20` and the like are read as in any address. Raises
    BadInput for what names no file.
    """
    if not address.startswith(SCHEME):
        return None
    name = address.removeprefix(SCHEME)
    if not name.strip("/") or name == ":memory:":
        raise BadInput(f"{address} names no file; give {SCHEME}FILE")
    if options := re.search(r"\?\w+=[^/]*$", name):
        raise BadInput(f"{address}: options ({options[0]}) are not read; give {SCHEME}FILE, a ? in its name as %3F")
    path = Path(name)
    if "%" in name:
        path = (path.parent if path.parent.is_dir() else Path(unquote(str(path.parent)))) / unquote(path.name)
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise BadInput(f"{address}: there is no such user; give {SCHEME}FILE") from None


def turn(file: Path) -> FileLock:
    """The lock under which a file is made, and what must not be done twice in it."""
    return FileLock(f"{file}.lock", timeout=TURN_SECONDS)


@contextlib.contextmanager
def new(file: Path) -> Iterator[Path]:
    """A file beside another that becomes it: nobody sees half of it. Use it within the file's turn."""
    sweep(file)
    part = part_of(file)
    try:
        yield part
        with part.open("rb+") as content:
            os.fsync(content.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def is_there(file: Path, way_out: str, write: bool = True) -> bool:
    """Whether a file is there and not empty. Raises BadInput for what is no file, or cannot be read or written."""
    try:
        state = file.stat() if file.exists() or file.is_symlink() else None
        if state and not stat.S_ISREG(state.st_mode):
            raise BadInput(f"{file} is {'a folder' if file.is_dir() else 'no file'}; name a file, or {way_out}")
        folder = next(path for path in file.parents if path.exists())
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder; {way_out}")
        if write:
            try_to_write(folder)
        for path in (folder, *([file] if state else [])):
            if not os.access(path, os.W_OK if write else os.R_OK):
                deed = "written" if write else "read"
                raise BadInput(f"{file} cannot be {deed}: this user may not, at {path}; mend that or {way_out}")
        return bool(state and state.st_size)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise BadInput(f"{file} cannot be opened ({reason}); mend that or {way_out}") from None


def tables(file: Path, way_out: str, write: bool = True) -> set[str]:
    """The tables of a database, none where it is yet to be made; nothing is made here.

    Raises BadInput, in seconds, that says why the file cannot be used. One that others write, each for a moment, is
    waited for: SQLite serves them in no order.
    """
    if not is_there(file, way_out, write):
        return set()
    deadline = time.monotonic() + TURN_SECONDS
    while True:
        before = _writes(file)
        try:
            return _tables(file, write)
        except sqlite3.Error as error:
            if "locked" in str(error):
                if _writes(file) != before and time.monotonic() < deadline:
                    continue
                state = f"has been locked by another process for {LOCKED_SECONDS} s; end that one"
            elif "not a database" in str(error):
                state = "is no SQLite database; move it away"
            else:
                state = f"is a damaged SQLite database ({one_line(error)}); put a copy in its place, move it away"
            raise BadInput(f"{file} {state} or {way_out}") from None


def _tables(file: Path, write: bool) -> set[str]:
    place = f"file:{quote(str(file))}?mode={'rw' if os.access(file, os.W_OK) else 'ro'}"
    with contextlib.closing(sqlite3.connect(place, LOCKED_SECONDS, uri=True)) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if (
            file.stat().st_size < CHECKED_BYTES
            and (flaw := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok"
        ):
            raise sqlite3.DatabaseError(flaw)
        if write:
            database.execute("BEGIN IMMEDIATE").connection.rollback()
        return names


def _writes(file: Path) -> dict[str, int]:
    """What is another after somebody has written to a database: when its files were last changed."""
    times = {}
    for suffix in ("", "-journal", "-wal"):
        with contextlib.suppress(FileNotFoundError):
            times[suffix] = os.stat(f"{file}{suffix}").st_mtime_ns
    return times
