"""Bad input as a user meets it: the command ends with code 2, one line, in time, and leaves the machine as it was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and its time of change; links are not followed."""
    paths = (Path(root) / name for root, folders, files in os.walk(folder) for name in [*folders, *files])
    states = {path: path.lstat() for path in paths}
    return {
        os.fsdecode(path.relative_to(folder)): (0, 0) if path.is_dir() else (state.st_size, state.st_mtime_ns)
        for path, state in states.items()
    }


def own_seconds() -> float:
    """A clock that stands still while this process waits for a core: others do not make it late."""
    waits = Path("/proc/self/schedstat")  # of Linux
    return time.perf_counter() - (int(waits.read_text().split()[1]) / 1e9 if waits.exists() else 0.0)


def at(monkeypatch: pytest.MonkeyPatch, step: str, do: Callable[[], object]) -> None:
    """Let something happen when a run comes to a step of `flow`."""
    from hdmap_mlflow.runs import flow

    original = getattr(flow, step)

    def happens(*given: object, **more: object) -> object:
        do()
        return original(*given, **more)

    monkeypatch.setattr(flow, step, happens)


class Refused:
    """`refused(*arguments, says=[...])` runs `hdmap` in this process and asserts that it refuses as it should."""

    def __init__(self, exit_code, capfd, folder: Path) -> None:  # noqa: ANN001
        self.exit_code, self.capfd, self.folder = exit_code, capfd, folder

    def __call__(self, *arguments: str, says: list[str], seconds: float = 20, leaves: tuple[str, ...] = ()) -> str:
        """The line. `says` are the facts it must hold: the culprit and the way out; `leaves` names what may be new."""
        before = tree(self.folder)
        self.capfd.readouterr()
        start = own_seconds()
        code = self.exit_code(*map(str, arguments))
        took = own_seconds() - start
        told = self.capfd.readouterr().err
        assert code == 2, (code, told)
        lines = told.strip().splitlines()
        assert len(lines) == 1, told
        assert lines[0].startswith("hdmap: "), told
        assert not [fact for fact in says if fact not in lines[0]], told
        assert len(lines[0]) < 600, f"one line that nobody reads: {told}"
        assert took < seconds, f"{took:.0f} s"
        after = tree(self.folder)
        new = {name for name in after.keys() - before.keys() if not name.startswith(leaves or "\0")}
        assert not new, f"left behind: {sorted(new)}"
        assert not [name for name in before if after.get(name) != before[name] and not name.startswith(leaves or "\0")]
        return lines[0]
