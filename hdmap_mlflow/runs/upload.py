"""Runs that were computed while the store was away, recorded from their own folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hdmap_mlflow.errors import BadInput, Incomplete
from hdmap_mlflow.files import expanded

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Kept


@dataclass(frozen=True)
class Uploaded:
    """A run that is recorded now: its id and store, and whether this was done `before`."""

    name: str
    run_id: str
    uri: str
    status: str
    before: bool


def upload(folders: list[Path], uri: str | None = None) -> list[Uploaded]:
    """Record what runs left in their folders, in the stores that they name or in the one that is given.

    All folders are looked at before anything is recorded. Raises BadInput for one that no run wrote, that misses a
    file, or whose run is under way, and for a store that does not answer; NotRecorded for a store that fails later.
    """
    from hdmap_mlflow import tracking

    kept = [tracking.Kept(expanded(folder)) for folder in folders]
    for one in kept:
        one.check()
    return [record(one, uri) for one in kept]


def record(kept: Kept, uri: str | None = None) -> Uploaded:
    """Record one folder, as the run that it was where its store still has it, else as a new one like it."""
    from hdmap_mlflow import tracking

    store = tracking.absolute_uri(uri or (kept.head.uri if "***" not in kept.head.uri else None))
    run_id, before = tracking.send(kept, store)
    ended = kept.last.end if kept.last else None
    return Uploaded(kept.head.name, run_id, store, (ended or "KILLED").lower(), before)


def recover(output_dir: str, wanted: Callable[[Mapping[str, str]], bool], say: Callable[[str], None] = print) -> int:
    """Record the finished runs below `tracking.output_dir` that a store has not, and whose tags are `wanted`.

    Returns how many. What cannot be recorded is said, and stays where it is.
    """
    from hdmap_mlflow import tracking

    count = 0
    for kept in tracking.unrecorded(Path(output_dir)):
        if kept.last and kept.last.end == "FINISHED" and wanted(kept.tags):
            try:
                done = record(kept)
            except (BadInput, Incomplete) as problem:
                say(f"not recorded: {problem}")
                continue
            say(f"recorded {done.name} ({done.run_id[:8]}) from {kept.folder}")
            count += 1
    return count
