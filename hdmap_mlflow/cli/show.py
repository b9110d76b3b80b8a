"""What a run left, on the terminal."""

from __future__ import annotations

from hdmap_mlflow.console import show_table
from hdmap_mlflow.runs.result import HEADER, Result


def show(result: Result) -> None:
    """Print the transfer table, the verdict and the remarks."""
    show_table(result.config.name, HEADER, result.rows(), left=2)
    print("\n- ".join([result.verdict(), *result.remarks()]))
