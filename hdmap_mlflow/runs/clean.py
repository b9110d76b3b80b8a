"""Disk space given back: copies of what a store has, runs that came to nothing, the cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.files import SUMS, cache_dir, remove, size_of
from hdmap_mlflow.names import Tag
from hdmap_mlflow.process import is_gone, users

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Kept
    from hdmap_mlflow.tracking.client import Run

ENDS = ("failed", "killed")  # of runs that may be removed
KINDS = ("run", "watch")  # those of a study, pruned trials among them, are its result
# What is removed from the cache, where a user may keep more: all that is made again, so not the imported weights.
OURS = re.compile(
    r"(maps/[0-9a-f]{12}-[0-9a-f]{24}|(features|engines)/[0-9a-f]{16}-[^/]+|checked/[0-9a-f]{32}\.json|demo-simulated-g[^/]+"
    r"|textures|weights/tf_efficientnet_lite\d)(\.lock)?"
)


@dataclass(frozen=True)
class Waste:
    """Something that can go: what it is, why it may, its size in bytes, and how it is removed."""

    what: str
    why: str
    size: int
    remove: Callable[[], None]


def find(
    results: Path, uri: str, experiment: str, ends: tuple[str, ...] = (), cache: bool = False
) -> tuple[list[Waste], list[str]]:
    """What can be removed, and a line for each thing that could not be looked at. Nothing is removed here.

    In `results`: the files that a store has whole, but for runs that asked for `tracking.keep_local`. With `ends`: the
    runs of an experiment that ended so, with their folders and artifacts. With `cache`: what it holds, but for imported
    weights; all of that is made again when it is needed. Raises BadInput for other `ends`, a store that is not there,
    and a cache that a living process uses.
    """
    if strange := sorted(set(ends) - set(ENDS)):
        raise BadInput(f"--runs {strange[0]}: only {' and '.join(ENDS)} runs are removed; give --runs {','.join(ENDS)}")
    if cache and (busy := [*users(cache_dir()), *_held(cache_dir())]):
        raise BadInput(f"the cache {cache_dir()} is in use by {busy[0]}; wait for its end, or leave --cache out")
    kept, left = _folders(results), list[str]()
    waste = list(_ended(kept, uri, experiment, ends)) if ends else []
    gone = {one.what for one in waste}
    waste += [one for one in _copies(kept, left) if one.what not in gone]
    return waste + (list(_cached(cache_dir())) if cache else []), left


def _folders(results: Path) -> list[Kept]:
    """The folders below `tracking.output_dir` that runs wrote; what is damaged is nothing that is removed."""
    from hdmap_mlflow import tracking

    found = []
    for path in sorted(results.glob(f"*/*/{tracking.RECORD}")):
        try:
            found.append(tracking.Kept(path.parent))
        except BadInput:
            continue
    return found


def _copies(folders: list[Kept], left: list[str]) -> Iterator[Waste]:
    """The files of recorded runs that their stores have, too; a store that is away is asked once."""
    from hdmap_mlflow import tracking

    away: dict[str, BadInput] = {}
    for kept in folders:
        if not kept.recorded or kept.params.get("tracking.keep_local") == "true":
            continue
        store = kept.head.uri
        try:
            if store in away:
                raise away[store]
            files = tracking.kept_copies(kept, tracking.absolute_uri(store))
        except (BadInput, *tracking.FAILURES) as problem:
            if "does not answer" in str(problem):
                away[store] = BadInput(str(problem))
            left.append(f"{kept.folder}: {one_line(problem)}")
            continue
        if files:
            yield Waste(
                str(kept.folder),
                f"run {kept.recorded[:8]} of {store} has it",
                sum(path.stat().st_size for path in files),
                partial(_locked, kept, partial(tracking.remove_below, kept.folder, files)),
            )


def _ended(folders: list[Kept], uri: str, experiment: str, ends: tuple[str, ...]) -> Iterator[Waste]:
    """Runs that ended early, unless a grid that they are part of is under way."""
    from hdmap_mlflow import tracking

    runs = tracking.find_runs(uri, experiment)
    status = {run.info.run_id: _status(run) for run in runs}
    by_run = {kept.head.run_id: kept for kept in folders}
    for run in runs:
        run_id, tags = run.info.run_id, run.data.tags
        if status[run_id] not in ends or tags.get(Tag.KIND) not in KINDS:
            continue
        if status.get(tags.get(tracking.PARENT, "")) == "running":
            continue
        kept, size = by_run.get(run_id), tracking.artifact_bytes(uri, run)
        reason = f": {one_line(ValueError(tags[Tag.REASON]), 80)}" if tags.get(Tag.REASON) else ""
        what = str(kept.folder) if kept else f"run {run_id}"
        size += size_of(kept.folder) if kept else 0
        yield Waste(
            what, f"{run.info.run_name} ({run_id[:8]}) {status[run_id]}{reason}", size, partial(_forget, uri, run, kept)
        )


def _status(run: Run) -> str:
    """How a run ended; one whose process is gone was killed."""
    word = run.info.status.lower()
    return "killed" if word == "running" and is_gone(run.data.tags.get(Tag.PROCESS, "")) else word


def _forget(uri: str, run: Run, kept: Kept | None) -> None:
    from hdmap_mlflow import tracking

    if kept:
        _locked(kept, partial(shutil.rmtree, kept.folder))
    tracking.discard(uri, run)


def _locked(kept: Kept, do: Callable[[], None]) -> None:
    """Do something to a folder that no run and no upload writes. Raises BadInput where one does."""
    from hdmap_mlflow.tracking.journal import Journal

    with Journal(kept.folder):
        do()


def _cached(cache: Path) -> Iterator[Waste]:
    """What the cache holds, by its folders."""
    folders: dict[str, list[Path]] = {}
    for path in _ours(cache):
        folders.setdefault(path.relative_to(cache).parts[0].removesuffix(".lock"), []).append(path)
    for name, parts in sorted(folders.items()):
        yield Waste(str(cache / name), "made again when it is needed", sum(map(size_of, parts)), partial(_all, parts))


def _ours(cache: Path) -> list[Path]:
    """The files and folders that this package makes in the cache."""
    here = (path for pattern in ("*", "*/*") for path in cache.glob(pattern))
    names = ((path, path.relative_to(cache).as_posix()) for path in here)
    return [p for p, name in names if OURS.fullmatch(name) and (name != "textures" or (p / SUMS).is_file())]


def _all(paths: list[Path]) -> None:
    for path in paths:
        remove(path)


def _held(cache: Path) -> Iterator[str]:
    """Folders of the cache that are being made, each by a process that holds its lock."""
    for path in (one for one in _ours(cache) if one.suffix == ".lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            yield f"the process that makes {path.with_suffix('').name}"
