"""The report's tables as LaTeX, to be read with \\input in a paper that uses the package booktabs."""

from __future__ import annotations

from hdmap_mlflow.report.section import Section
from hdmap_mlflow.report.sections import adapted_board, matrix_rows, short_board
from hdmap_mlflow.report.summary import caption
from hdmap_mlflow.report.tables import Tables

SPECIAL = {one: f"\\{one}" for one in "&%$#_{}"}
SPECIAL |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
SPECIAL |= {"±": r"$\pm$", "<": "$<$", ">": "$>$"}


def latex(tables: Tables) -> str:
    """The summary's table, that of adapted entries, and the AUROC from every source to every domain, one per entry."""
    parts = [_table(short_board(tables), caption(tables), "leaderboard")]
    if tables.adapted:
        board = adapted_board(tables)
        parts.append(_table(board, " ".join(board.notes), "leaderboard-k-normals"))
    about = "Image AUROC from source (rows) to domain (columns): mean, sd over n seeds, 95 % interval."
    for i, label in enumerate(tables.matrices, 1):
        section = Section(label, ["source", *tables.grid.domains], matrix_rows(tables, label))
        parts.append(_table(section, f"{label}. {about}", f"transfer-{i}"))
    return "\n".join(["% needs \\usepackage{booktabs,graphicx}; the models' papers are in report.bib", *parts])


def _table(section: Section, words: str, name: str) -> str:
    lines = [" & ".join(map(escape, row)) + r" \\" for row in (section.header, *section.rows)]
    columns = "l" + "r" * (len(section.header) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(words)}}}",
            rf"\label{{tab:hdmap-{name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    """A text that LaTeX shows as it is; a lone dash, which says that a figure is undefined, becomes a longer one."""
    return "--" if text == "-" else "".join(SPECIAL.get(one, one) for one in text)
