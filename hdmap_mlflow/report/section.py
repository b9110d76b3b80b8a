"""One section of the report, and how its figures are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hdmap_mlflow.evaluation.intervals import Comparison
from hdmap_mlflow.report.tables import Cell


@dataclass(frozen=True)
class Section:
    """A heading, a table (its first column is text), and what must be said below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """The end of the address of its heading."""
        return re.sub(r"\W+", "-", self.title.lower())


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def cell_text(cell: Cell | None) -> str:
    """`0.812 ± 0.010 (n=2) [0.771, 0.846]`, without what is undefined."""
    if cell is None:
        return "-"
    spread = "" if cell.sd is None else f" ± {cell.sd:.3f}"
    bounds = "" if cell.interval is None else f" [{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]"
    return f"{cell.mean:.3f}{spread} (n={cell.n}){bounds}"


def difference(found: Comparison | None) -> str:
    """`+0.029 [+0.023, +0.039]`, without the interval where it is of too few recordings."""
    if found is None:
        return "-"
    return f"{found.difference:+.3f}" + ("" if found.few else f" [{found.low:+.3f}, {found.high:+.3f}]")


def p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
