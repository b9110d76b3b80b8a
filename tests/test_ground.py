"""What every room stands on: names, errors, files, tables of text."""

import contextlib
import re
import sqlite3
import threading
from pathlib import Path

import pytest

import hdmap_mlflow
from hdmap_mlflow import files, sqlite
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.files import new_folder, write_whole
from hdmap_mlflow.names import PREFIX, Tag

SOURCES = {path: path.read_text() for path in Path(hdmap_mlflow.__file__).parent.rglob("*.py")}
TAGS = {value.removeprefix(PREFIX) for name, value in vars(Tag).items() if name.isupper()}


def test_tags_are_written_in_one_file_and_only_known_ones_are_read():
    written = {path.name for path, text in SOURCES.items() if re.search(rf"""["']{re.escape(PREFIX)}\w+["']""", text)}
    assert written == set()
    read = {name for text in SOURCES.values() for name in re.findall(r'\.tag\("(\w+)"\)', text)}
    assert {"model", "oracle", "data_digest"} <= read <= TAGS


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    place = tmp_path / "a/b/kept.json"
    write_whole(place, "über")
    write_whole(place, b"again")
    assert place.read_bytes() == b"again"
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="gone"):
        write_whole(place, "half")
    assert [path.name for path in place.parent.iterdir()] == ["kept.json"] and place.read_bytes() == b"again"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_appears_whole_where_none_or_an_empty_one_was(tmp_path, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with new_folder(out) as part:
        (part / "a").write_text("1")
        assert there == out.exists() and not (out / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (out / "a").read_text() == "1"
    with pytest.raises(BadInput, match="not an empty folder"), new_folder(out):
        pytest.fail("it was taken")
    with pytest.raises(BadInput, match="not an empty folder"), new_folder(out / "a"):
        pytest.fail("a file was taken")


def test_a_folder_that_was_not_finished_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as part:
        (part / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_below_the_working_folder_is_meant_from_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with new_folder(Path("out")) as part:
        monkeypatch.chdir("/")
        (part / "a").write_text("1")
    assert (tmp_path / "out/a").exists()


def test_a_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(BadInput, match="is a mount point; name a folder inside it"), new_folder(tmp_path):
        pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("two\n  lines"), "two lines"), (OSError(), "OSError"), (ValueError("long" * 9), "longlonglo")],
)
def test_an_error_is_told_on_one_line(error, line):
    assert one_line(error, 10) == line


def test_a_markdown_table_aligns_numbers_and_keeps_a_row_on_its_line():
    assert markdown_table(("a", "b", "c"), [["x", "1\n2", "3"]], left=2) == [
        "| a | b | c |",
        "|---|---|---:|",
        "| x | 1 2 | 3 |",
    ]
    assert markdown_table(("a", "b"), []) == ["| a | b |", "|---|---:|"]


@pytest.mark.parametrize("busy", [True, False])
def test_a_database_that_others_write_in_turns_is_waited_for_and_one_that_is_held_is_named(tmp_path, monkeypatch, busy):
    monkeypatch.setattr(sqlite, "LOCKED_SECONDS", 0.3)
    file, begun, over = tmp_path / "a.db", threading.Event(), threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("CREATE TABLE numbers (n)")
            while not over.wait(0):
                database.execute("BEGIN EXCLUSIVE")
                begun.set()
                database.execute("INSERT INTO numbers VALUES (1)")
                over.wait(0.1 if busy else 10)
                database.execute("COMMIT")

    writer, end = threading.Thread(target=write), threading.Timer(1.5, over.set)
    writer.start()
    begun.wait()
    end.start()
    try:
        if busy:
            assert sqlite.tables(file, "go") == {"numbers"}
        else:
            with pytest.raises(BadInput, match=r"a\.db has been locked by another process for 0.3 s; end that one"):
                sqlite.tables(file, "go")
    finally:
        over.set()
        writer.join()
        end.cancel()
