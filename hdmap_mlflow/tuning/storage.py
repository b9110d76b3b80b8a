"""Where studies are kept."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from sqlalchemy.exc import SQLAlchemyError

from hdmap_mlflow.errors import BadInput, nearest, one_line

ANSWER_SECONDS = 10


@dataclass(frozen=True)
class StudyStorage:
    """Where a study is kept: `sqlite:///FILE`, `journal://FILE` (for shared disks), `postgresql://...`, `mysql://...`."""

    url: str

    @classmethod
    def of(cls, url: str) -> StudyStorage:
        """The place with an absolute path. Raises BadInput for what is none."""
        kind, found, rest = url.partition("://")
        if kind in ("sqlite", "journal") and found and rest.strip("/"):
            path = Path(rest.removeprefix("/") if kind == "sqlite" else rest).absolute()
            return cls(f"sqlite:///{path}" if kind == "sqlite" else f"journal://{path}")
        if found and kind.partition("+")[0] in ("postgresql", "mysql"):
            return cls(url)
        raise BadInput(f"--storage {url}: give sqlite:///FILE, journal://FILE, postgresql://... or mysql://...")

    @property
    def file(self) -> Path | None:
        """The file of a SQLite or journal storage."""
        kind, _, rest = self.url.partition("://")
        return Path(rest.removeprefix("/") if kind == "sqlite" else rest) if kind in ("sqlite", "journal") else None

    @property
    def is_journal(self) -> bool:
        """Whether it may lie on a shared disk: there the locks of fcntl, and so those of SQLite, often fail."""
        return self.url.startswith("journal")

    @property
    def shown(self) -> str:
        """The URL without its password."""
        if self.file:
            return self.url
        return sqlalchemy.make_url(self.url).render_as_string(hide_password=True)

    @property
    def dashboard(self) -> str:
        """The command that shows the storage's studies in a browser."""
        return f"optuna-dashboard {self.file if self.is_journal else self.shown}"

    def open(self) -> BaseStorage:
        """The storage, made where it is a file that is missing. Raises BadInput if it does not answer in seconds."""
        try:
            if self.is_journal:
                return JournalStorage(JournalFileBackend(str(self.file), JournalFileSymlinkLock(str(self.file))))
            # Several drivers may make one SQLite file at once.
            with FileLock(f"{self.file}.opening.lock") if self.file else contextlib.nullcontext():
                waits = {"timeout": 60} if self.file else {"connect_timeout": ANSWER_SECONDS}
                return RDBStorage(self.url, engine_kwargs={"connect_args": waits, "pool_pre_ping": not self.file})
        except (SQLAlchemyError, OptunaError, ImportError, OSError, ValueError) as error:
            raise BadInput(
                f"study storage {self.shown} does not answer ({one_line(error)}); start it or change --storage"
            ) from None


def look(place: StudyStorage, name: str) -> optuna.Study:
    """A study to read. Raises BadInput that names those there are."""
    if place.file and not place.file.exists():
        raise BadInput(f"there is no study storage {place.shown}; give --storage")
    storage = place.open()
    known = [one.study_name for one in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if name not in known:
        raise BadInput(
            f"no study '{name}' in {place.shown}{nearest(name, known)}; there are: {', '.join(known) or 'none'}"
        )
    return optuna.load_study(study_name=name, storage=storage)
