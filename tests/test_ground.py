"""What every room stands on: names, errors, files, tables of text."""

import contextlib
import json
import re
import sqlite3
import threading
from pathlib import Path

import pytest

import hdmap_mlflow
from hdmap_mlflow import files, sqlite
from hdmap_mlflow.console import harmless, markdown_table
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


def test_json_holds_null_for_what_is_no_finite_number_and_text_for_what_is_not_plain():
    content = {"a": [float("nan"), {"b": float("inf")}], "c": -float("inf"), "d": 0.1, "e": Path("x"), 1: "드라이브"}
    strict = json.loads(files.to_json(content), parse_constant=lambda word: pytest.fail(word))
    assert strict == {"a": [None, {"b": None}], "c": None, "d": 0.1, "e": "x", "1": "드라이브"}


def test_no_text_is_read_or_written_as_the_machine_would_have_it():
    """Text without an encoding is cp949 on a Korean Windows and ASCII in a bare container."""
    lines = [(path.name, line) for path, text in SOURCES.items() for line in text.splitlines()]
    text = re.compile(r"""\.(read|write)_text\(|\bopen\((?=[^)]*["'][raw]\+?["'])""")
    assert sum(bool(text.search(line)) for _, line in lines) > 5
    assert not [line for line in lines if text.search(line[1]) and "encoding=" not in line[1]]


HARMS = {
    "cut": lambda content: content[:-3],
    "empty": lambda content: b"",
    "flipped": lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
    "a list": lambda content: b"[]",
    "no sums": lambda content: b"{}",
    "nested": lambda content: b"[" * 100_000,
    "no UTF-8": lambda content: b"\xff" + content[1:],
    "null": lambda content: b"null",
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_of_the_cache_that_was_damaged_is_as_if_it_were_not_there(tmp_path, harm):
    place = tmp_path / "a/kept.json"
    assert files.read_kept(place) is None
    files.write_kept(place, '{"ü": 12}\n')
    assert files.read_kept(place) == '{"ü": 12}\n'
    place.write_bytes(HARMS[harm](place.read_bytes()))
    assert files.read_kept(place) is None


def _kept(place):
    """A folder of the cache with two files, and how often it was made."""
    made = []

    def write(part):
        made.append(part)
        (part / "below").mkdir()
        (part / "a").write_text("one")
        (part / "below/b").write_text("two")

    return files.kept_folder(place, write), made


def _content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


DAMAGES = {f"{file}: {harm}": (file, HARMS[harm]) for file in ("a", "below/b", files.SUMS) for harm in HARMS}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_of_the_cache_is_made_once_and_again_where_a_file_of_it_is_damaged(tmp_path, damage):
    file, harm = DAMAGES[damage]
    folder, made = _kept(tmp_path / "cache/kept")
    before = _content(folder)
    assert len(made) == 1 and not _kept(folder)[1]
    (folder / file).write_bytes(harm((folder / file).read_bytes()))
    assert len(_kept(folder)[1]) == 1 and _content(folder) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "more").touch(),
        lambda folder: (folder / "a").unlink() or (folder / "a").mkdir(),
        lambda folder: (folder / files.SUMS).unlink(),
        lambda folder: (folder / files.SUMS).unlink() or (folder / files.SUMS).mkdir(),
        lambda folder: files.remove(folder) or folder.write_text("a file"),
        lambda folder: files.remove(folder) or folder.symlink_to("nowhere"),
        lambda folder: files.remove(folder) or folder.mkdir(),
    ],
)
def test_a_folder_of_the_cache_that_misses_a_file_or_has_one_too_many_is_made_again(tmp_path, spoil):
    folder, _ = _kept(tmp_path / "kept")
    before = _content(folder)
    spoil(folder)
    assert len(_kept(folder)[1]) == 1 and _content(folder) == before


def test_what_a_killed_writer_left_in_the_cache_goes_and_a_failed_one_leaves_nothing(tmp_path):
    left = files.part_of(tmp_path / "kept")
    left.mkdir()
    assert left != files.part_of(tmp_path / "kept"), "two writers have names of their own"
    folder, _ = _kept(tmp_path / "kept")
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "kept.lock"}
    with pytest.raises(BadInput, match="cannot write the cache .*other.*the disk is full.*HDMAP_CACHE"):
        files.kept_folder(tmp_path / "other", lambda part: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "kept.lock", "other.lock"}


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


@pytest.mark.parametrize("word", ["=1+1", "+49", "-cmd", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_file_is_a_formula_and_numbers_stay_numbers(word):
    assert harmless(word) == f"'{word}"
    assert [harmless(cell) for cell in ("domain_A", "a=b", "", -1.5, None, True)] == [
        "domain_A",
        "a=b",
        "",
        -1.5,
        None,
        True,
    ]
