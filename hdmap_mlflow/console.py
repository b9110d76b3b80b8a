"""Tables, on the terminal and in Markdown."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def show_any_name() -> None:
    """Let standard output and error show what their encoding has not as `\\u...`: a name is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a Markdown table; the first `left` columns are text, the others are aligned right."""
    rule = "|" + "---|" * left + "---:|" * (len(columns) - left)
    head, *body = ("| " + " | ".join(row).replace("\n", " ") + " |" for row in (columns, *rows))
    return [head, rule, *body]


def harmless(cell: object) -> object:
    """A cell of a CSV file that no spreadsheet takes for a formula: a text that begins as one gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Print rows under column names; the first `left` columns are text, the others are aligned right.

    A narrow terminal wraps text; a pipe is given all the width that it takes.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", no_wrap=i == 0 or i >= left)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 400  # a pipe has no width of its own
    console.print(table)
