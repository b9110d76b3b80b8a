"""`metadata.csv`: what it says of a map, whoever wrote it, and what is wrong with it."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hdmap_mlflow.data.metadata import read_metadata

MAPS = ["train/good/0.tiff", "test/good/0.tiff", "test/fault/0.tiff"]
A, B, C = MAPS


@pytest.fixture
def read(tmp_path: Path):
    """A function: what a text or some bytes say, and the problems without the file's name."""

    def read(content: str | bytes):
        file = tmp_path / "metadata.csv"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        found, problems = read_metadata(file, MAPS)
        assert all(problem.startswith(f"{file} ") for problem in problems)
        return found, [problem.removeprefix(f"{file} ") for problem in problems]

    return read


SAME = f"path,group,severity\n{A},warm,1.5\n{B},cold,\n"
WRITTEN = {
    "plainly": SAME,
    "with a mark at its head": "\ufeff" + SAME,
    "on Windows": SAME.replace("\n", "\r\n"),
    "with the other slashes": SAME.replace("/", "\\"),
    "from here": SAME.replace("train", "./train"),
    "in another order": f"severity,path,group\n,{B},cold\n1.5,{A},warm\n",
    "with empty lines": SAME.replace("\n", "\n\n"),
    "with rows of empty cells": SAME + ",,\n,,\n",
    "in quotes": SAME.replace(A, f'"{A}"').replace("1.5", '"1.5"'),
    "with spaces around": SAME.replace(A, f" {A} ").replace("1.5", " 1.5 "),
    "without a last comma": SAME.removesuffix(",\n"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_it_says_the_same_however_it_was_written(read, how):
    found, problems = read(WRITTEN[how])
    assert problems == [] and set(found) == {A, B}
    assert found[A] == ("warm", 1.5, "") and found[B][0] == "cold" and math.isnan(found[B][1])


@pytest.mark.parametrize("group", ["NA", "None", "null", "nan", "N/A", "07", "1.0", "True", " ", "드라이브"])
def test_a_group_is_the_word_that_stands_there(read, group):
    assert read(f"path,group\n{A},{group}\n") == ({A: (group, pytest.approx(math.nan, nan_ok=True), "")}, [])


@pytest.mark.parametrize("word", ["", "NaN", "nan", "NA", "n/a", "None", "null", " "])
def test_a_severity_may_be_unknown(read, word):
    found, problems = read(f"path,severity\n{A},{word}\n{B},2\n")
    assert problems == [] and math.isnan(found[A][1]) and found[B] == ("", 2.0, "")


@pytest.mark.parametrize("word", ["high", "inf", "-inf", "1.5 mm", "1;5", "0x1", "true"])
def test_a_severity_that_is_no_number_is_a_problem(read, word):
    problems = read(f"path,severity\n{B},0\n{A},{word}\n")[1]
    assert problems == [f"gives {A} the severity {word!r}; give a number, or nothing where it is not known"]


def test_numbers_are_those_that_pandas_reads(tmp_path):
    """They are part of the data digest."""
    rng = np.random.default_rng(0)
    words = [f"{value:.6g}" for value in rng.random(500)] + [repr(float(value)) for value in rng.normal(0, 1e3, 500)]
    maps = [f"{i}.tiff" for i in range(len(words))]
    file = tmp_path / "metadata.csv"
    file.write_text("path,severity\n" + "\n".join(map(",".join, zip(maps, words, strict=True))))
    found, problems = read_metadata(file, maps)
    assert problems == [] and [found[name][1] for name in maps] == pd.read_csv(file)["severity"].tolist()


UNKNOWN = "names {}, which is no map of this domain; correct the path or remove the row"
PROBLEMS = {
    "a path twice": (f"path,group\n{A},a\n{B},b\n{A},c\n", [f"lists {A} 2 times; keep one row"]),
    "a path thrice, written otherwise": (
        f"path\n{A}\n./{A}\n" + A.replace("/", "\\") + "\n",
        [f"lists {A} 3 times; keep one row"],
    ),
    "two paths twice": (f"path\n{A}\n{B}\n{B}\n{A}\n", [f"lists {path} 2 times; keep one row" for path in (B, A)]),
    "no path": ("path,group\n,a\n ,b\n", ["has a row without a path; complete or remove it"] * 2),
    "unknown paths": (
        "path\n../x.tiff\nnone.tiff\nnone.tiff\n",
        ["lists none.tiff 2 times; keep one row", UNKNOWN.format("../x.tiff"), UNKNOWN.format("none.tiff")],
    ),
}


@pytest.mark.parametrize("what", PROBLEMS)
def test_every_mistake_is_a_line(read, what):
    text, lines = PROBLEMS[what]
    assert read(text)[1] == lines


UNREADABLE = {
    "nothing": ("", "cannot be read (No columns to parse from file)"),
    "semicolons": (SAME.replace(",", ";"), "has columns path;group;severity"),
    "no path": ("group,severity\na,1\n", "has columns group, severity"),
    "a column of its own": (f"path,speed\n{A},1\n", "has columns path, speed"),
    "a column twice": (f"path,group,group\n{A},a,b\n", "has columns path, group, group.1"),
    "rows longer than the head": (f"path,group\n{A},a,b\n{B},a,b\n", "cannot be read (Length of header"),
    "a row longer than the head": (f"path,group\n{A},a\n{B},a,b\n", "cannot be read (Error tokenizing data"),
    "another encoding": ("path,group\nä,b\n".encode("latin-1"), "cannot be read ('utf-8' codec can't decode"),
    "UTF-16": (SAME.encode("utf-16"), "cannot be read ('utf-8' codec can't decode"),
    "long names": ("x" * 999 + "\n", "has columns " + "x" * 120 + "; expected"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_table_that_cannot_be_read_says_nothing_of_any_map(read, what):
    content, says = UNREADABLE[what]
    found, [problem] = read(content)
    assert found == {} and problem.startswith(says) and problem.endswith("; expected path,group,severity,recording")


def test_a_table_of_a_head_alone_says_nothing(read):
    assert read("path,group,severity\n") == ({}, [])


def test_a_recording_is_named_for_every_map_or_for_none(read):
    found, problems = read(f"path,recording\n{A},run 1\n{B}, run 2 \n{C},run 3\n")
    assert problems == [] and [found[path].recording for path in MAPS] == ["run 1", "run 2", "run 3"]
    [problem] = read(f"path,recording,group\n{A},run 1,warm\n{B},,cold\n")[1]
    assert problem.startswith(f"names no recording of 2 of 3 maps (such as {B})") and "for none" in problem
    assert read(f"path,recording\n{A},\n{B}, \n")[1] == []
