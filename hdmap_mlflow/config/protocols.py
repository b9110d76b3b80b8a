"""The validation strategies: which maps train, which validate, and which are reported.

Target maps choose nothing under any of them. Identical maps always fall on the same side of a split. The settings know
their names from here, so nothing of the package is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Parts = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]  # train, validation, reported


def hold_out(train: pd.DataFrame, test: pd.DataFrame, fraction: float, rng: np.random.Generator) -> Parts:
    """Split the source's test maps once, stratified by label and group, into a validation and a reported part."""
    val, reported = _stratified(test, fraction, rng)
    return train, val, reported


def validate_on_test(train: pd.DataFrame, test: pd.DataFrame, fraction: float, rng: np.random.Generator) -> Parts:
    """Validate and report on the same source test maps: the guideline's original protocol, optimistic."""
    return train, test, test


def add_synthetic_faults(train: pd.DataFrame, test: pd.DataFrame, fraction: float, rng: np.random.Generator) -> Parts:
    """Validate on held-out training maps and on the same with synthetic faults: no real fault is seen by then."""
    import pandas as pd

    normal, train = _stratified(train, fraction, rng)
    return train, pd.concat([normal, normal.assign(synthetic=True, label=1)], ignore_index=True), test


@dataclass(frozen=True)
class Protocol:
    """One validation strategy.

    `divide(train, test, fraction, rng)` gives the source's train, validation and reported maps, as tables (see
    `layout.Domain`); `fraction` of the maps in the folder `held_out` validate unless the settings say otherwise, empty
    where that is the whole test set. `rule` says in a report how thresholds and epochs were chosen, `caution` beside a
    run's table what to mind.
    """

    divide: Callable[[pd.DataFrame, pd.DataFrame, float, np.random.Generator], Parts]
    fraction: float
    rule: str
    caution: str = ""
    held_out: str = ""


PROTOCOLS = {
    "source_holdout": Protocol(
        hold_out,
        fraction=0.5,
        rule="Thresholds and epochs: chosen on half of the source's test maps; the other half is reported.",
    ),
    "source_test": Protocol(
        validate_on_test,
        fraction=1.0,
        rule="Protocol `source_test`: the source's figures are on the maps that also chose thresholds and epochs, so "
        "they are optimistic.",
        caution="Validation and report use the same source maps (`source_test`): the source figures are optimistic.",
    ),
    "synthetic": Protocol(
        add_synthetic_faults,
        fraction=0.2,
        rule="Thresholds and epochs were chosen on held-out healthy source maps and synthetic faults.",
        held_out="train/good",
    ),
}


def _stratified(table: pd.DataFrame, fraction: float, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw `fraction` of every (label, group); returns drawn, rest.

    Whole recordings are drawn where they are named and there are two or more, distinct maps elsewhere.
    """
    drawn: set[str] = set()
    for _, stratum in table.groupby(["label", "group"], sort=True):
        names = sorted(set(stratum["recording"]))
        if len(names) > 1:
            count = min(max(round(fraction * len(names)), 1), len(names) - 1)
            drawn |= set(stratum["pixels"][stratum["recording"].isin(rng.permutation(names)[:count])])
        else:
            distinct = stratum["pixels"].drop_duplicates().to_numpy()
            drawn |= set(rng.permutation(distinct)[: round(fraction * len(distinct))])
    mask = table["pixels"].isin(drawn)
    return table[mask].reset_index(drop=True), table[~mask].reset_index(drop=True)
