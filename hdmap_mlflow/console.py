"""Tables, on the terminal and in Markdown."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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

    A narrow terminal wraps names and heads, and cuts no number; a pipe is given all the width that it takes.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 400  # a pipe has no width of its own
    elif _width(console, table) > console.width:
        table.padding, table.show_edge = 0, False
        for i, column in enumerate(table.columns[left:], left):
            column.width = max(len(part) for part in (*columns[i].split(), *(row[i] for row in cells)))
        console.width = max(console.width, _width(console, table, least=True))
    console.print(table)


def _width(console: Console, table: Table, least: bool = False) -> int:
    """The columns that a table takes where nothing limits it, or with its names wrapped."""
    wanted = console.measure(table, options=console.options.update(width=400))
    return wanted.minimum if least else wanted.maximum
