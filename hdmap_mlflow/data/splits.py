"""The maps of a run, divided by its validation strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.data.layout import Domain
from hdmap_mlflow.data.sources import join
from hdmap_mlflow.errors import BadInput

if TYPE_CHECKING:
    from hdmap_mlflow.config.protocols import Parts

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Splits:
    """Tables of maps (see `layout.Domain`), with `file` (absolute path) and `synthetic` (paste a fault, bool).

    Those of several sources are joined (see `sources.join`); `of_sources` has train, validation and test of each.
    """

    train: pd.DataFrame
    val: pd.DataFrame
    source_test: pd.DataFrame
    targets: Tables
    healthy: Tables  # `train/good` of every domain; of the source, the maps that train
    of_sources: dict[str, Parts]


def split(domains: Sequence[Domain], config: DataConfig) -> Splits:
    """Divide each source (the first domains) by the configured strategy; every target keeps its whole test set.

    Of several sources each trains with its share of `max_train`. Raises BadInput where validation or report of a source
    would lack a class, and where no training map is left.
    """
    count, rng = len(config.sources), np.random.default_rng(config.split_seed)
    sources, targets = domains[:count], domains[count:]
    parts = {source.name: _divide(source, config, rng) for source in sources}
    if config.max_train:
        shares = np.arange(config.max_train, config.max_train + count) // count
        for (name, (train, val, reported)), share in zip([*parts.items()], shares[::-1].tolist(), strict=True):
            parts[name] = _fewer(train, share, rng), val, reported
    train, val, reported = (join({name: of[i] for name, of in parts.items()}) for i in range(3))
    healthy = {name: of[0] for name, of in parts.items()} | {domain.name: _rows(domain, "train") for domain in targets}
    return Splits(train, val, reported, {one.name: _rows(one, "test") for one in targets}, healthy, parts)


def _divide(source: Domain, config: DataConfig, rng: np.random.Generator) -> Parts:
    protocol = PROTOCOLS[config.validation]
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
    return train, val, reported


def _fewer(train: pd.DataFrame, count: int, rng: np.random.Generator) -> pd.DataFrame:
    """At most so many of the training maps, drawn."""
    if len(train) <= count:
        return train
    return train.iloc[np.sort(rng.choice(len(train), count, replace=False))].reset_index(drop=True)


def _rows(domain: Domain, part: str) -> pd.DataFrame:
    table = domain.table[domain.table["split"] == part]
    files = [str(domain.folder / path) for path in table["path"]]
    return table.assign(file=files, synthetic=False).reset_index(drop=True)
