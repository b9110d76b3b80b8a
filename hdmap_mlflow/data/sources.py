"""Several source domains as one: their tables joined and taken apart, their packed maps, and batches that hold all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hdmap_mlflow.data.packed import Packed

NAMES = ("path", "mask", "recording")  # columns whose values are a domain's own


def join(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of several domains as one, with a column `domain`; names within a domain begin with its name.

    That of one domain is returned as it is.
    """
    if len(tables) == 1:
        return next(iter(tables.values()))
    return pd.concat([_named(table, domain) for domain, table in tables.items()], ignore_index=True)


def _named(table: pd.DataFrame, domain: str) -> pd.DataFrame:
    named = {name: table[name].where(table[name] == "", f"{domain}/" + table[name]) for name in NAMES if name in table}
    if "row" in table:
        named["row"] = pd.Series([(domain, row) for row in table["row"]], table.index, dtype=object)
    return table.assign(domain=domain, **named)


def apart(table: pd.DataFrame, domain: str) -> dict[str, pd.DataFrame]:
    """By domain what `join` made one of, `row` excepted; the table itself is that of `domain` where it is of one."""
    if "domain" not in table:
        return {domain: table}
    return {str(name): _own(part, str(name)) for name, part in table.groupby("domain", sort=False)}


def _own(table: pd.DataFrame, domain: str) -> pd.DataFrame:
    names = {name: table[name].str.removeprefix(f"{domain}/") for name in NAMES if name in table}
    return table.assign(**names).drop(columns="domain").reset_index(drop=True)


class Packs:
    """Packed maps of several domains, a map at (domain, row)."""

    def __init__(self, packed: Mapping[str, Packed]) -> None:
        self.packed = dict(packed)

    def __getitem__(self, place: tuple[str, int]) -> np.ndarray:
        domain, row = place
        return self.packed[domain][row]


class Balanced:
    """The order of an epoch's maps in which every batch holds as many of each domain as can be, shuffled anew.

    An epoch is as long as all maps are. Each domain fills an equal share of it: of more maps some wait for another
    epoch, of fewer maps some come again.
    """

    def __init__(self, domains: pd.Series) -> None:
        self.places = [np.flatnonzero(domains == name) for name in dict.fromkeys(domains)]

    def __len__(self) -> int:
        return sum(map(len, self.places))

    def __iter__(self) -> Iterator[int]:
        import torch

        rng = np.random.default_rng(int(torch.empty((), dtype=torch.int64).random_()) % 2**32)
        share = -(-len(self) // len(self.places))
        shuffled = [
            np.concatenate([rng.permutation(own) for _ in range(-(-share // len(own)))])[:share] for own in self.places
        ]
        yield from np.stack(shuffled, axis=1).ravel()[: len(self)].tolist()
