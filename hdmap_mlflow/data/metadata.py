"""`metadata.csv`: what is known of a domain's maps beside their pixels."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import one_line

METADATA = "metadata.csv"
COLUMNS = ("path", "group", "severity", "recording")
# Of maps that `hdmap build-maps` made, for people; no run reads them.
MEASURED = ("start_s", "speed_hz", "ripple", "averages", "closure", "split_half", "moved_rows", "alignment")
NOT_KNOWN = ("", "nan", "na", "n/a", "null", "none")  # a severity, in any case


class About(NamedTuple):
    """What is known of a map: its group (a state such as cold), the severity of its damage, the recording it is of."""

    group: str = ""
    severity: float = float("nan")
    recording: str = ""


def read_metadata(file: Path, maps: Collection[str]) -> tuple[dict[str, About], list[str]]:
    """What is known by map ("" or NaN where nothing is; words as they stand), and one line per problem.

    `maps` are the paths of the domain's maps, relative to it. The table is UTF-8, with or without a mark at its head,
    and separated by commas; its paths may have either slash. Rows of empty cells are passed over.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are longer than the head
            table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        return {}, [f"{file} cannot be read ({one_line(error, 120)}); expected {','.join(COLUMNS)}"]
    if "path" not in table or set(table.columns) - {*COLUMNS, *MEASURED}:
        return {}, [f"{file} has columns {', '.join(table.columns):.120}; expected {','.join(COLUMNS)}"]
    table = table.reindex(columns=list(COLUMNS), fill_value="").fillna("")
    table = table[(table != "").any(axis=1)]
    nameless = table["path"].str.strip() == ""
    problems = [f"{file} has a row without a path; complete or remove it"] * int(nameless.sum())
    table = table[~nameless]
    paths = table["path"].map(lambda path: posixpath.normpath(path.strip().replace("\\", "/")))
    for path in paths[paths.duplicated()].unique():
        problems.append(f"{file} lists {path} {(paths == path).sum()} times; keep one row")
    for path in paths[~paths.isin(list(maps))].unique():
        problems.append(f"{file} names {path}, which is no map of this domain; correct the path or remove the row")
    given = table["severity"].str.strip()
    severity = pd.to_numeric(given, errors="coerce").astype(float)
    wrong = ~np.isfinite(severity) & ~given.str.lower().isin(NOT_KNOWN)
    for path, word in zip(paths[wrong], given[wrong], strict=True):
        problems.append(f"{file} gives {path} the severity {word!r}; give a number, or nothing where it is not known")
    known = {
        path: About(*row)
        for path, *row in zip(paths, table["group"], severity, table["recording"].str.strip(), strict=True)
    }
    unnamed = [path for path in maps if not known.get(path, About()).recording]
    if 0 < len(unnamed) < len(maps):
        problems.append(
            f"{file} names no recording of {len(unnamed)} of {len(maps)} maps (such as {unnamed[0]}); name it for "
            "all maps of the domain, or for none"
        )
    return known, problems
