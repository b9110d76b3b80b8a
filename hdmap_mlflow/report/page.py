"""The report as one page: HTML for the screen and for paper, Markdown for MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.report.citations import bibtex
from hdmap_mlflow.report.section import Section, number
from hdmap_mlflow.report.sections import NEEDED, details, matrix_rows, sections, short_board
from hdmap_mlflow.report.summary import caption, headline, remarks
from hdmap_mlflow.report.tables import Tables

PICTURES = "What the models look at"
ORDER = (  # of the page's contents
    "Leaderboard",
    "Incomplete entries",
    "Leaderboard with healthy maps of the target",
    "AUROC from source to domain",
    "Paired tests",
    "Thresholds that travelled",
    NEEDED,
    "Choosing a model without target labels",
    "Agreement of validation strategies",
    "Domain shift against the drop",
    PICTURES,
    "Runs and cost",
    "Oracle studies",
    "Settings",
    "Runs",
    "Missing",
)
CHARTED = {"Leaderboard": 0, "Thresholds that travelled": 2, NEEDED: 3, "Choosing a model without target labels": 1}


def markdown(tables: Tables) -> str:
    """The whole report without its pictures."""
    lines = ["# Transfer report", "", *headline(tables), "", *(f"- {line}" for line in remarks(tables)), ""]
    lines += [f"Data {tables.data_digest}, protocol `{tables.validation}`, {len(tables.grid.runs)} runs.", ""]
    found = sections(tables)
    boards, others = found[:3], found[3:]
    lines += [line for section in boards for line in _table(section)]
    lines += ["## AUROC from source (rows) to domain (columns)", ""]
    lines += ["mean ± sd over n seeds [95 % interval]; on the diagonal the source's own reported maps.", ""]
    for label in tables.matrices:
        title = Section(label, ["source", *tables.grid.domains], matrix_rows(tables, label))
        lines += _table(title, "###")
    for section in others:
        lines += _table(section)
    lines += ["## Missing", "", *(f"- {line}" for line in tables.missing or ["nothing"])]
    return "\n".join(lines) + "\n"


def _table(section: Section, mark: str = "##") -> list[str]:
    if not section.rows:
        return []
    lines = [f"{mark} {section.title}", "", *markdown_table(section.header, section.rows)]
    return [*lines, "", *(f"- {note}" for note in section.notes), *([""] if section.notes else [])]


def html(tables: Tables, charts: Mapping[str, str], pictures: Mapping[str, str], made: str, address: str = "") -> str:
    """One self-contained page. `charts` are captions to inline SVG, `pictures` captions to base64 PNG.

    `address` is where MLflow's UI shows a run, to which the run's id is added; without one there are no links.
    """
    from jinja2 import Environment, FileSystemLoader, select_autoescape
    from markupsafe import Markup, escape

    def rich(text: str) -> Markup:
        bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
        return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    environment.filters |= {"rich": rich, "shade": shade, "number": number}
    template = environment.get_template("report.html.j2")
    return template.render(
        tables=tables,
        headline=headline(tables),
        remarks=remarks(tables),
        made=made,
        charts=charts,
        sections={section.title: section for section in (*sections(tables), *details(tables))},
        summary=short_board(tables),
        caption=caption(tables),
        bibtex=bibtex(tables).split("\n\n"),
        pictures=pictures,
        address=address,
        order=[title for title in ORDER if title != PICTURES or pictures],
        charted=CHARTED,
        anchor=lambda title: Section(title, (), ()).anchor,
    )


def shade(auroc: float) -> str:
    """Background of a matrix cell: white at chance and below, blue towards 1."""
    strength = max(0.0, min(1.0, (auroc - 0.5) / 0.5))
    light, deep = (247, 249, 252), (64, 125, 200)
    return "rgb(" + ",".join(str(round(a + (b - a) * strength)) for a, b in zip(light, deep, strict=True)) + ")"
