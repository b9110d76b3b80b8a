"""Which maps train, which validate, and which are reported: the three validation strategies.

- `source_holdout`: the source's test maps are split once, stratified by label and group, into a validation and
  a reported half.
- `source_test`: validate and report on the same source test maps (the guideline's original protocol; optimistic).
- `synthetic`: validate on held-out source training maps and on the same with synthetic faults; no real fault is
  seen before the report.

Target maps choose nothing under any strategy. Identical maps always fall on the same side of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data.layout import Domain
from hdmap_mlflow.errors import BadInput

# Share of the source's test (or, for synthetic faults, training) maps that validates.
DEFAULT_FRACTION = {"source_holdout": 0.5, "source_test": 1.0, "synthetic": 0.2}


@dataclass(frozen=True)
class Splits:
    """Tables of maps (see `layout.Domain`), with `file` (absolute path) and `synthetic` (paste a fault, bool)."""

    train: pd.DataFrame
    val: pd.DataFrame
    source_test: pd.DataFrame
    targets: dict[str, pd.DataFrame]


def split(domains: Sequence[Domain], config: DataConfig) -> Splits:
    """Split the source (the first domain) by the named strategy; every target keeps its whole test set."""
    source, *targets = domains
    train, test = _rows(source, "train"), _rows(source, "test")
    fraction = config.val_fraction or DEFAULT_FRACTION[config.validation]
    rng = np.random.default_rng(config.split_seed)
    match config.validation:
        case "source_holdout":
            val, reported = _stratified(test, fraction, rng)
        case "source_test":
            val, reported = test, test
        case "synthetic":
            held_out, train = _stratified(train, fraction, rng)
            val, reported = _with_synthetic_faults(held_out), test
    for part, what in ((val, "validation"), (reported, "reported")):
        if part["label"].nunique() < 2:
            missing = "test/good" if (part["label"] == 1).any() else "test/fault"
            if part is val and config.validation == "synthetic":  # what is held out bears both classes
                missing = "train/good"
            raise BadInput(
                f"{what} AUROC is undefined for source {source.name} under {config.validation}: too few maps in "
                f"{source.folder / missing}; add maps, choose another source, or another validation strategy"
            )
    if train.empty:
        raise BadInput(f"no training map of {source.name} is left; lower data.val_fraction or add maps")
    if config.max_train and len(train) > config.max_train:
        keep = rng.choice(len(train), config.max_train, replace=False)
        train = train.iloc[np.sort(keep)].reset_index(drop=True)
    return Splits(train, val, reported, {domain.name: _rows(domain, "test") for domain in targets})


def _rows(domain: Domain, part: str) -> pd.DataFrame:
    table = domain.table[domain.table["split"] == part]
    files = [str(domain.folder / path) for path in table["path"]]
    return table.assign(file=files, synthetic=False).reset_index(drop=True)


def _stratified(table: pd.DataFrame, fraction: float, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw `fraction` of the distinct maps of every (label, group); returns drawn, rest."""
    drawn: set[str] = set()
    for _, stratum in table.groupby(["label", "group"], sort=True):
        distinct = stratum["pixels"].drop_duplicates().to_numpy()
        drawn |= set(rng.permutation(distinct)[: round(fraction * len(distinct))])
    mask = table["pixels"].isin(drawn)
    return table[mask].reset_index(drop=True), table[~mask].reset_index(drop=True)


def _with_synthetic_faults(normal: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([normal, normal.assign(synthetic=True, label=1)], ignore_index=True)
