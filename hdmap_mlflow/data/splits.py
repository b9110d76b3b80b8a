"""The maps of a run, divided by its validation strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.data.layout import Domain
from hdmap_mlflow.errors import BadInput


@dataclass(frozen=True)
class Splits:
    """Tables of maps (see `layout.Domain`), with `file` (absolute path) and `synthetic` (paste a fault, bool)."""

    train: pd.DataFrame
    val: pd.DataFrame
    source_test: pd.DataFrame
    targets: dict[str, pd.DataFrame]


def split(domains: Sequence[Domain], config: DataConfig) -> Splits:
    """Divide the source (the first domain) by the configured strategy; every target keeps its whole test set.

    Raises BadInput where validation or report would lack a class, and where no training map is left.
    """
    source, *targets = domains
    protocol, rng = PROTOCOLS[config.validation], np.random.default_rng(config.split_seed)
    fraction = config.val_fraction or protocol.fraction
    train, val, reported = protocol.divide(_rows(source, "train"), _rows(source, "test"), fraction, rng)
    for part, what, folder in ((val, "validation", protocol.held_out), (reported, "reported", "")):
        if part["label"].nunique() < 2:
            missing = folder or ("test/good" if (part["label"] == 1).any() else "test/fault")
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
