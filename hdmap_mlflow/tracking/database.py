"""A store that is a database: looked at before MLflow opens it, and made whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sqlalchemy
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from hdmap_mlflow import sqlite
from hdmap_mlflow.errors import BadInput, masked

ANSWER_SECONDS = 4  # for each address of a server's name
DATABASES = ("postgresql", "mysql", "mssql")
LOCK = 0x6864_6D61_70  # "hdmap"
DRIVERS = {  # which package brings a module that a database is reached with, where it has another name
    "psycopg": "'hdmap_mlflow[postgresql]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
TIMEOUTS = {"mssql": "timeout"}  # by which name the drivers know it


def is_database(uri: str) -> bool:
    return uri.partition("://")[0].partition("+")[0] in (*DATABASES, "sqlite")


def missing_driver(uri: str) -> str:
    """How to install the driver that an address asks for; empty where it is there, and for what is no database."""
    try:
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        return f"its driver {error.name} is not installed: pip install {DRIVERS.get(error.name or '', error.name)}"
    except (sqlalchemy.exc.ArgumentError, ValueError):  # no address, or no port: said where it is opened
        return ""
    return ""


def check(uri: str, way_out: str, write: bool = True) -> bool:
    """Whether a database holds a store already. Raises BadInput for what is neither a store nor empty."""
    file = sqlite.file_of(uri)
    if file:
        names = sqlite.tables(file, way_out, write)
    else:
        with _answering(uri).connect() as connection:
            names = set(sqlalchemy.inspect(connection).get_table_names())
    if not names - {"alembic_version"}:
        return False
    if flaw := _flaw(uri, names):
        raise BadInput(f"{file or masked(uri)} {flaw} or {way_out}")
    return True


def _answering(uri: str) -> sqlalchemy.Engine:
    """Connections to a server that is asked once and not for long."""
    kind = uri.partition("://")[0].partition("+")[0]
    waits = {TIMEOUTS.get(kind, "connect_timeout"): ANSWER_SECONDS}
    return sqlalchemy.create_engine(uri, connect_args=waits, poolclass=sqlalchemy.NullPool)


def engine(uri: str) -> sqlalchemy.Engine:
    """MLflow's own engine, without the folder that it would make of an escaped path, and its tries for minutes."""
    return SqlAlchemyStore._engine_map.setdefault(uri, create_sqlalchemy_engine(uri))


@cache
def _versions() -> tuple[str | None, frozenset[str]]:
    """The schema of this MLflow, and it with all before it: files that take longer to read than a store to open."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_get_alembic_config(""))
    return scripts.get_current_head(), frozenset(one.revision for one in scripts.walk_revisions())


def _flaw(uri: str, names: set[str]) -> str:
    """Why tables are no store of this MLflow, and what to do; empty if they are one."""
    from alembic.migration import MigrationContext
    from mlflow.store.db.base_sql_model import Base

    if "experiments" not in names:
        return f"is a database of something else, with tables {', '.join(sorted(names)[:3])};"
    head, versions = _versions()
    with engine(uri).connect() as connection:
        version = MigrationContext.configure(connection).get_current_revision()
        used = "runs" in names and connection.execute(sqlalchemy.text("SELECT 1 FROM runs LIMIT 1")).first()
    current, missing = version == head, sorted(set(Base.metadata.tables) - names)
    if current and not missing:
        return ""
    if version and version not in versions:
        return f"is the store of a newer MLflow (schema {version}); pip install -U mlflow,"
    if not used:
        return "was half made, or by an older MLflow, and holds no run; remove it and start again,"
    if current:
        return f"lacks the tables {', '.join(missing[:3])}; put a copy in its place"
    return f"is the store of an older MLflow (schema {version}); copy it, then `mlflow db upgrade {masked(uri)}`,"


@contextlib.contextmanager
def turn(uri: str) -> Iterator[None]:
    """One process at a time, for what must not be done twice in a store; those of a tracking server take no turns."""
    if file := sqlite.file_of(uri):
        with sqlite.turn(file):
            yield
    elif uri.startswith("postgresql"):
        with _answering(uri).connect() as connection:
            connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{sqlite.TURN_SECONDS}s'"))
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            yield
    else:
        yield


def artifacts(file: Path) -> str:
    """Artifacts of a SQLite store lie beside its file, wherever the command is run from."""
    return (file.parent / "mlartifacts").as_uri()


def make(file: Path) -> None:
    """Make a SQLite store beside its place, so that nobody sees half of it. Call it within the store's turn."""
    with sqlite.new(file) as part:
        uri = sqlite.url(part)
        hasty = "PRAGMA synchronous = OFF"  # nothing is lost with a file that nobody has seen; each wait costs seconds
        sqlalchemy.event.listen(engine(uri), "connect", lambda connection, _: connection.execute(hasty))
        SqlAlchemyStore(uri, artifacts(file))  # by name: MLflow's own, below the working folder, chokes on its quotes
        SqlAlchemyStore._engine_map.pop(uri).dispose()
