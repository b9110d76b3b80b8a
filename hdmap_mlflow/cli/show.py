"""What a run left, on the terminal."""

from __future__ import annotations

from hdmap_mlflow.adaptation.outcome import COLUMNS, AdaptationCard, rows
from hdmap_mlflow.console import show_table
from hdmap_mlflow.runs.result import Result


def show(result: Result) -> None:
    """Print the transfer table, the verdict and the remarks."""
    show_table(result.config.name, result.header(), result.rows(), left=2)
    if (repaired := result.adaptation()) is not None:
        show_adapted(repaired, repaired["chain"], repaired["k"])
    print("\n- ".join([result.verdict(), *result.remarks()]))


def show_adapted(card: AdaptationCard, chain: str, k: int) -> None:
    """Print what a chain brings with k healthy maps of each target."""
    title = f"{chain} with {k} healthy maps of each target (source only -> adapted, mean and sd over draws)"
    show_table(title, ["", *COLUMNS], rows(card, chain, k))
