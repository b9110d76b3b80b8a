"""What a run records, line by line in the run's own folder before anything of it goes to the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict, ValidationError

from hdmap_mlflow import interrupt
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.tracking import model

FILE, LOCK = "record.jsonl", ".recording"
Status = Literal["FINISHED", "FAILED", "KILLED"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # of old: NaN


class Input(_Line):
    """A data set that a run read, as `mlflow.log_input` writes it."""

    name: str
    digest: str
    source: str
    profile: str
    context: str


class Entry(_Line):
    """Something that a run records; `time` is in milliseconds since 1970. Sending it twice is sending it once."""

    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    step: int = 0
    time: int = 0
    dataset: Input | None = None
    file: str = ""  # or a folder, relative to the run's own where it lies there
    content: Document | None = None  # of a JSON file
    to: str = ""  # the folder of the artifact; of `content` its name
    extra: bool = False  # the run stands without it
    model: bool = False  # `file` is the folder of its model
    begin: str = ""  # the run's name: it is written from here on
    end: Status | None = None

    def files(self, folder: Path) -> dict[str, Path]:
        """The files that it sends, by the names of the artifacts that they become."""
        path, below = folder / self.file, f"{self.to}/" if self.to else ""
        if not self.file:
            return {}
        files = {one.relative_to(path).as_posix(): one for one in path.rglob("*") if one.is_file()}  # none, of a file
        return {f"{below}{name}": one for name, one in (files or {path.name: path}).items()}

    def names(self, folder: Path) -> list[str]:
        """The artifacts that it makes."""
        return [self.to] if self.content is not None else list(self.files(folder))

    def send(self, client: MlflowClient, run_id: str, folder: Path) -> None:
        """Record it."""
        with contextlib.nullcontext() if self.file else interrupt.held():  # an upload may take its time
            self._send(client, run_id, folder)

    def _send(self, client: MlflowClient, run_id: str, folder: Path) -> None:
        if self.begin:
            client.update_run(run_id, status="RUNNING", name=self.begin)
        if self.params or self.metrics or self.tags:
            client.log_batch(
                run_id,
                [Metric(name, value, self.time, self.step) for name, value in self.metrics.items()],
                [Param(name, value) for name, value in self.params.items()],
                [RunTag(name, value) for name, value in self.tags.items()],
            )
        if self.dataset:
            data = self.dataset
            entity = Dataset(data.name, data.digest, "local", data.source, profile=data.profile)
            client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", data.context)])])
        if self.model:
            model.send(client, run_id, folder / self.file)
        elif self.file:
            path = folder / self.file
            (client.log_artifacts if path.is_dir() else client.log_artifact)(run_id, str(path), self.to or None)
        if self.content is not None:
            client.log_dict(run_id, self.content, self.to)
        if self.end:
            client.set_terminated(run_id, self.end, self.time)


class Head(_Line):
    """The first line: which run it is, where its record goes, and what a new one like it would be made with."""

    version: Literal[1] = 1
    run_id: str
    name: str
    uri: str
    experiment: str
    started: int
    links: dict[str, str] = {}  # tags of MLflow's own: the user, the source, the parent


class Recorded(_Line):
    """The last line: all of it is in a store."""

    recorded: str  # the id of the run


class Journal:
    """The file of a run that is being written. While it is, a lock says so, which ends with the process."""

    def __init__(self, folder: Path, head: Head | None = None) -> None:
        self.folder = folder.absolute()
        self._unwritten: list[str] = []
        self._lock = FileLock(self.folder / LOCK)
        if head:
            self._lock.acquire()
            self.append(head)

    def append(self, line: _Line) -> None:
        """Write a line. Where the disk is full it waits for the next: the store may still take what it says."""
        self._unwritten.append(line.model_dump_json(exclude_unset=True) + "\n")
        try:
            with (self.folder / FILE).open("a", encoding="utf-8") as file:
                file.write("".join(self._unwritten))
            self._unwritten.clear()
        except OSError:
            self._unwritten[0] = "\n" + self._unwritten[0].lstrip("\n")  # half of it may stand there

    def close(self) -> None:
        """The run is under way no longer."""
        self._lock.release()

    def __enter__(self) -> Journal:
        """Take the file over. Raises BadInput where a run, or another upload, writes it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(f"{self.folder} is being written by a run that is under way; wait for its end") from None
        except OSError:  # a folder that cannot be written to: it can still be read
            pass
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class Kept:
    """What lies in a folder that a run wrote; `recorded` is the id of the run that holds all of it, or empty."""

    def __init__(self, folder: Path) -> None:
        """Raises BadInput, which names the folder, for one that no run wrote, and for a file that it misses."""
        self.folder = folder.absolute()
        path, what = self.folder / FILE, f"{folder} is no folder of a run"
        if not path.is_file():
            raise BadInput(f"{what}: there is no {FILE}; give the folder that the run named, below tracking.output_dir")
        try:
            first, *lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            self.head = Head.model_validate_json(first)
            self.entries = list(_entries(lines))
        except (OSError, ValueError, ValidationError) as error:
            reason = "it is empty" if not path.stat().st_size else str(error).splitlines()[0]
            raise BadInput(f"{what}: its {FILE} cannot be read ({reason[:120]}); give another") from None
        self.recorded = _recorded(lines[-1]) if lines else ""

    @property
    def tags(self) -> dict[str, str]:
        return {name: value for entry in self.entries for name, value in entry.tags.items()}

    @property
    def params(self) -> dict[str, str]:
        return {name: value for entry in self.entries for name, value in entry.params.items()}

    @property
    def metrics(self) -> dict[str, float]:
        """The last value of each."""
        return {name: value for entry in self.entries for name, value in entry.metrics.items()}

    @property
    def last(self) -> Entry | None:
        """How the run ended; None where its process did not come to say so."""
        return next((entry for entry in self.entries[::-1] if entry.end), None)

    def check(self, whole: bool = False) -> None:
        """Raises BadInput for a file that is missing, or that lies outside: no run sends what it did not make.

        Of one that is recorded files may be missing, unless it must be `whole`: its store has them.
        """
        way_out = f"run {self.recorded} has it; fetch it from there" if self.recorded else "put it back"
        for entry in self.entries:
            path = self.folder / entry.file
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise BadInput(f"{self.folder / FILE} names {entry.file}, which lies outside; take it out of the file")
            if not path.exists() and not entry.extra and (whole or not self.recorded):
                raise BadInput(f"{self.folder} misses {entry.file}, which the run wrote; {way_out}")


def _entries(lines: list[str]) -> Iterator[Entry]:
    """The entries. A line that was cut off, by a full disk or a kill, is none: it stands there once more, or never."""
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            continue
        if not _recorded(line):
            yield Entry.model_validate_json(line)


def _recorded(line: str) -> str:
    try:
        return Recorded.model_validate_json(line).recorded
    except ValidationError:
        return ""


def unrecorded(base: Path) -> Iterator[Kept]:
    """What runs left below `tracking.output_dir` that ended and are not recorded; what is not whole is passed over."""
    for path in sorted(base.glob(f"*/*/{FILE}")):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            if b'{"recorded":' in file.read():
                continue
        try:
            kept = Kept(path.parent)
            kept.check()
        except BadInput:
            continue
        if kept.last:
            yield kept
