"""Stores and storages that cannot be used: one line, in seconds, that names the way out; nothing is left behind."""

import contextlib
import http.server
import os
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from chaos import own_seconds
from servers import free_port, new_store

from hdmap_mlflow import sqlite
from hdmap_mlflow.tracking import client, database

pytestmark = pytest.mark.slow
SECONDS = 12


def damaged(file):
    content = bytearray(Path(new_store(file).removeprefix("sqlite:///")).read_bytes())
    content[20_000:90_000] = os.urandom(70_000)
    file.write_bytes(content)


def cut(file):
    new_store(file)
    os.truncate(file, 100_000)


def sql(*lines):
    def change(file):
        new_store(file)
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            for line in lines:
                database.execute(line)

    return change


def foreign(file):
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE books (title TEXT)")


def half_study(file):
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        database.execute("CREATE TABLE studies (study_id INTEGER)")


def used(version):
    run = "INSERT INTO runs (run_uuid, experiment_id, status) VALUES ('r', 0, 'RUNNING')"
    return sql(run, f"UPDATE alembic_version SET version_num = '{version}'")


FILES = {  # what stands in the way: how it comes to be, and what is said of a tracking store; {} is its path
    "folder": (lambda file: file.mkdir(), ["{} is a folder"]),
    "fifo": (os.mkfifo, ["{} is no file"]),
    "text": (lambda file: file.write_text("no database\n"), ["{} is no SQLite database", "move it away"]),
    "cut": (cut, ["{} is a damaged SQLite database", "put a copy in its place"]),
    "damaged": (damaged, ["{} is a damaged SQLite database", "put a copy in its place"]),
    "foreign": (foreign, ["{} is a database of something else", "books"]),
    "dangling": (lambda file: file.symlink_to("nowhere/x.db"), ["{} cannot be opened", "No such file"]),
    "looping": (lambda file: file.symlink_to(file), ["{} cannot be opened", "symbolic links"]),
}
STORES = FILES | {
    "half made": (sql("DELETE FROM alembic_version"), ["{} was half made", "remove it and start again"]),
    "older": (used("451aebb31d03"), ["{} is the store of an older MLflow", "mlflow db upgrade sqlite:///"]),
    "newer": (used("fffffffffff0"), ["{} is the store of a newer MLflow", "pip install -U mlflow"]),
    "lacking": (lambda file: [used_now(file)], ["{} lacks the tables", "params"]),
    "deleted": (
        sql("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE name = 'hdmap'"),
        ["'hdmap'", "was deleted", "mlflow experiments restore --experiment-id 1"],
    ),
}


def used_now(file):
    sql("INSERT INTO runs (run_uuid, experiment_id, status) VALUES ('r', 0, 'RUNNING')", "DROP TABLE params")(file)


ADDRESSES = [
    ("mlruns", ["mlruns is not a store", "give sqlite:///FILE"]),
    ("ftp://host/x", ["ftp://host/x is not a store"]),
    ("http://127.0.0.1:99999", ["http://127.0.0.1:99999 is not a store", "HOST:PORT"]),
    ("http://", ["http:// is not a store"]),
    ("sqlite:///", ["names no file", "sqlite:///FILE"]),
    ("sqlite:///x.db?timeout=3", ["options (?timeout=3) are not read"]),
    ("sqlite:////sys/mlflow.db", ["/sys/mlflow.db", "change tracking.uri"]),
    ("postgresql+nodriver://h/d", ["postgresql+nodriver://h/d does not answer", "nodriver"]),
    ("postgresql://u:secret@127.0.0.1:port/d", ["postgresql://u:***@127.0.0.1:port/d", "change tracking.uri"]),
]
COMMANDS = {
    "train": lambda uri, maps: ["train", "--data-root", maps, "--overrides", f"tracking.uri={uri}"],
    "grid": lambda uri, maps: ["grid", "--data-root", maps, "--overrides", f"tracking.uri={uri}", "--no-ray"],
    "tune": lambda uri, maps: ["tune", "padim", "--data-root", maps, "--overrides", f"tracking.uri={uri}"],
    "report": lambda uri, maps: ["report", "--uri", uri],
}


def ask(refused, command, uri, maps, says, **more):
    """A command on a bad store; `report` has a way out of its own."""
    says = [fact.replace("change tracking.uri", "--uri") if command == "report" else fact for fact in says]
    refused(*COMMANDS[command](uri, maps), says=says, seconds=SECONDS, **more)


@pytest.mark.parametrize("command", ["train", "report"])
@pytest.mark.parametrize("state", STORES)
def test_a_file_that_is_no_store(refused, maps, tmp_path, command, state):
    make, says = STORES[state]
    file = tmp_path / "bad.db"
    make(file)
    ask(refused, command, f"sqlite:///{file}", maps, [fact.replace("{}", str(file)) for fact in says])


@pytest.mark.parametrize("state", ["text", "half made", "deleted"])
def test_a_grid_on_a_file_that_is_no_store(refused, maps, tmp_path, state):
    make, says = STORES[state]
    make(tmp_path / "bad.db")
    says = [fact.replace("{}", f"{tmp_path}/bad.db") for fact in says]
    ask(refused, "grid", f"sqlite:///{tmp_path}/bad.db", maps, says, leaves=("cache/checked",))


@pytest.mark.parametrize("command", ["train", "report", "grid", "tune"])
@pytest.mark.parametrize(("uri", "says"), ADDRESSES)
def test_an_address_of_no_store(refused, maps, command, uri, says):
    if command == "report" and uri == "sqlite:////sys/mlflow.db":
        says = ["there is no store /sys/mlflow.db"]
    ask(refused, command, uri, maps, says, leaves=("cache/checked",))


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every request with the server's one page."""

    def do_GET(self):
        self.send_response(self.server.code)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>no store</html>" * 100)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    """Starts a server that answers with one code."""
    started = []

    def start(code):
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page))
        started[-1].code = code
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize("command", ["train", "report"])
@pytest.mark.parametrize("code", [200, 401, 404, 500, 503])
def test_a_server_that_is_no_store(refused, maps, web, command, code):
    uri = web(code)
    ask(refused, command, uri, maps, [uri, "does not answer", "change tracking.uri"])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_nobody_listens(refused, maps, scheme):
    uri = f"{scheme}://127.0.0.1:{free_port()}"
    uri += "/d" if scheme == "postgresql" else ""
    ask(refused, "train", uri, maps, [uri, "does not answer", "start it or change tracking.uri"])


@pytest.mark.parametrize("uri", ["http://{}", "postgresql://{}/d"])
def test_a_server_that_takes_a_connection_and_is_silent(refused, maps, uri, monkeypatch):
    for room in (client, database):
        assert room.ANSWER_SECONDS * 2 < SECONDS, "it is asked twice"
        monkeypatch.setattr(room, "ANSWER_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = uri.format(f"127.0.0.1:{silent.getsockname()[1]}")
        ask(refused, "train", uri, maps, [uri, "does not answer", "change tracking.uri"])


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_database_that_another_process_has_locked(refused, maps, tmp_path, command, monkeypatch):
    assert sqlite.LOCKED_SECONDS < SECONDS
    monkeypatch.setattr(sqlite, "LOCKED_SECONDS", 0.5)
    file = tmp_path / "held.db"
    sql("SELECT 1")(file) if command == "train" else half_study(file)
    with contextlib.closing(sqlite3.connect(file)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        given = tuning(f"sqlite:///{file}", maps) if command == "tune" else COMMANDS["train"](f"sqlite:///{file}", maps)
        refused(*given, says=[str(file), "locked by another process", "end that one"], seconds=SECONDS)


def tuning(storage, maps):
    small = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
    return ["tune", "--data-root", maps, "--overrides", small, "--storage", storage, "--trials", "1"]


@pytest.mark.parametrize("state", [*FILES, "half made"])
def test_a_file_that_is_no_study_storage(refused, maps, tmp_path, state):
    make, says = FILES.get(state, (half_study, ["{} holds studies, but was half made", "remove it"]))
    make(tmp_path / "bad.db")
    says = [fact.replace("{}", f"{tmp_path}/bad.db") for fact in says]
    refused(*tuning(f"sqlite:///{tmp_path}/bad.db", maps), says=[*says, "--storage"], seconds=SECONDS)


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("optuna.db", ["--storage optuna.db", "give sqlite:///FILE"]),
        ("mongodb://h/d", ["--storage mongodb://h/d", "give sqlite:///FILE"]),
        ("sqlite:///", ["names no file"]),
        ("journal://folder", ["folder is a folder", "--storage"]),
        ("journal://text", ["text is no journal", "--storage"]),
        ("postgresql+nodriver://h/d", ["--storage postgresql+nodriver://h/d", "nodriver"]),
        ("postgresql://u:secret@h:port/d", ["--storage postgresql://u:***@h:port/d", "mend it"]),
        ("postgresql://u:secret@127.0.0.1:1/d", ["postgresql://u:***@127.0.0.1:1/d does not answer", "--storage"]),
    ],
)
def test_an_address_of_no_study_storage(refused, maps, tmp_path, storage, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no journal\n")
    refused(*tuning(storage, maps), says=says, seconds=SECONDS)


def test_the_lines_come_in_seconds_and_hold_no_password(refused, maps):
    began = own_seconds()
    for uri in ("http://me:secret@127.0.0.1:1", "postgresql://me:sec:ret@127.0.0.1:1/d"):
        line = refused(*COMMANDS["train"](uri, maps), says=["me:***@127.0.0.1:1"], seconds=SECONDS)
        assert "cret" not in line and ":ret" not in line
    assert own_seconds() - began < SECONDS


@pytest.mark.parametrize("command", ["train", "grid"])
def test_a_run_of_mlflow_run_that_the_store_does_not_have(refused, maps, tmp_path, monkeypatch, command):
    uri = new_store(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_RUN_ID", "a run of yesterday")
    folders = ("cache", "results", "mlflow.db")  # the run would have begun in them
    says = ["MLFLOW_RUN_ID=a run of yesterday", "no run of this store", "unset it"]
    refused(*COMMANDS[command](uri, maps), says=says, leaves=folders)


PLACES = [("/sys/x", "Permission denied"), ("/proc/1/x", "No such file"), ("file/below", "Not a directory")]


@pytest.mark.parametrize("command", ["train", "grid", "tune"])
@pytest.mark.parametrize(("place", "why"), PLACES)
def test_an_output_folder_that_cannot_be_written_to_is_refused_before_maps_are_read(
    refused, maps, tmp_path, command, place, why
):
    (tmp_path / "file").touch()
    given = COMMANDS[command](f"sqlite:///{tmp_path}/new.db,tracking.output_dir={place}", maps)
    refused(*given, says=["tracking.output_dir", place, "give another folder"], leaves=("cache/checked",))


def test_a_storage_in_a_folder_that_takes_no_files_is_refused_before_maps_are_read(refused, maps):
    for storage in ("sqlite:////sys/optuna.db", "journal:///sys/optuna.log"):
        refused(*tuning(storage, maps), says=["/sys/optuna", "cannot be opened", "change --storage"])
