"""Where studies are kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from hdmap_mlflow import sqlite
from hdmap_mlflow.errors import BadInput, masked, nearest, one_line
from hdmap_mlflow.files import expanded
from hdmap_mlflow.tracking.database import missing_driver

WAITS = {"connect_timeout": 4}  # seconds for each address of a server's name
WAY_OUT = "change --storage"


@dataclass(frozen=True)
class StudyStorage:
    """Where a study is kept: `sqlite:///FILE`, `journal://FILE` (for shared disks), `postgresql://...`, `mysql://...`."""

    url: str

    @classmethod
    def of(cls, url: str) -> StudyStorage:
        """The place with an absolute path. Raises BadInput for what is none."""
        kind, found, rest = url.partition("://")
        if file := sqlite.file_of(url):
            return cls(sqlite.url(file))
        if kind == "journal" and rest.strip("/"):
            return cls(f"journal://{expanded(rest).absolute()}")
        if found and kind.partition("+")[0] in ("postgresql", "mysql"):
            try:
                sqlalchemy.make_url(url).get_dialect()
            except (SQLAlchemyError, ValueError) as error:
                raise BadInput(f"--storage {masked(url)} is no address ({one_line(error)}); mend it") from None
            return cls(url)
        raise BadInput(f"--storage {masked(url)}: give sqlite:///FILE, journal://FILE, postgresql://... or mysql://...")

    @property
    def file(self) -> Path | None:
        """The file of a SQLite or journal storage."""
        return Path(self.url.removeprefix("journal://")) if self.is_journal else sqlite.file_of(self.url)

    @property
    def is_journal(self) -> bool:
        """Whether it may lie on a shared disk: there the locks of fcntl, and so those of SQLite, often fail."""
        return self.url.startswith("journal")

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return masked(self.url)

    @property
    def dashboard(self) -> str:
        """The command that shows the storage's studies in a browser."""
        return f"optuna-dashboard {self.file if self.is_journal else self.shown}"

    def check(self, write: bool = True) -> bool:
        """Whether the file of a storage holds studies already. Raises BadInput for one that holds something else."""
        if self.is_journal:
            return self._check_journal()
        if not self.file:
            with (
                self._answering(),
                sqlalchemy.create_engine(self.url, connect_args=WAITS, poolclass=NullPool).connect(),
            ):
                return True
        names = sqlite.tables(self.file, WAY_OUT, write)
        if names and "studies" not in names:
            some = ", ".join(sorted(names)[:3])
            raise BadInput(f"{self.file} is a database of something else, with tables {some}; {WAY_OUT}")
        if names and not names >= {"version_info", "alembic_version", "trials"}:
            raise BadInput(f"{self.file} holds studies, but was half made; remove it and start again, or {WAY_OUT}")
        return bool(names)

    def _check_journal(self) -> bool:
        assert self.file
        if not sqlite.is_there(self.file, WAY_OUT):
            return False
        with self.file.open("rb") as lines:
            first = lines.readline(1_000_000)
        try:
            if not isinstance(json.loads(first), dict) or b'"op_code"' not in first:
                raise ValueError
        except ValueError:
            raise BadInput(f"{self.file} is no journal of a study; move it away or {WAY_OUT}") from None
        return True

    def open(self) -> BaseStorage:
        """The storage, made where it is a file that is missing. Raises BadInput if it does not answer in seconds."""
        there = self.check()
        with self._answering():
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.is_journal:
                return JournalStorage(JournalFileBackend(str(self.file), JournalFileSymlinkLock(str(self.file))))
            if not self.file:
                return RDBStorage(self.url, engine_kwargs={"connect_args": WAITS, "pool_pre_ping": True})
            if not there:
                with sqlite.turn(self.file):
                    if not self.check():
                        self._make(self.file)
            return RDBStorage(self.url, engine_kwargs={"connect_args": {"timeout": 60}})

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OptunaError, ImportError, OSError, RuntimeError, ValueError) as error:
            why = missing_driver(self.url) or one_line(error)
            raise BadInput(f"study storage {self.shown} does not answer ({why}); start it or {WAY_OUT}") from None

    @staticmethod
    def _make(file: Path) -> None:
        """Make the tables beside their place, so that nobody sees half of them."""
        with sqlite.new(file) as part:
            RDBStorage(sqlite.url(part)).engine.dispose()


def look(place: StudyStorage, name: str) -> optuna.Study:
    """A study to read. Raises BadInput that names those there are."""
    if place.file and not place.check(write=False):
        raise BadInput(f"there is no study storage {place.shown}; give --storage")
    storage = place.open()
    known = [one.study_name for one in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if name not in known:
        raise BadInput(
            f"no study '{name}' in {place.shown}{nearest(name, known)}; there are: {', '.join(known) or 'none'}"
        )
    return optuna.load_study(study_name=name, storage=storage)
