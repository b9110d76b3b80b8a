"""Which healthy maps an adapter gets: seeded, of few recordings rather than of many."""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd

from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import REFERENCE

FEWEST_LEFT = 5  # healthy maps that are still reported where adapters take theirs out of these


def order(table: pd.DataFrame, *seeds: int | str) -> np.ndarray:
    """Places of all maps of a table, (n,), drawn by some seeds; recording by recording where these are named.

    The first k are k maps of as few recordings as can be, as somebody has them who records for an hour; and those that
    are drawn for a small k are among those for a larger one.
    """
    rng = np.random.default_rng([seed if isinstance(seed, int) else crc32(seed.encode()) for seed in seeds])
    drawn = rng.permutation(len(table))
    recording = table["recording"].to_numpy(str)[drawn]
    if (recording == "").any():
        return drawn
    first = {name: place for place, name in reversed(list(enumerate(recording)))}
    return drawn[np.argsort([first[name] for name in recording], kind="stable")]


def pool(table: pd.DataFrame, domain: str, adapt: AdaptConfig) -> np.ndarray:
    """Places of the healthy maps of a domain whose scores are kept."""
    return order(table, adapt.seed, domain)[: adapt.pool]


class Drawn(NamedTuple):
    """Rows of a table of scores: the k healthy maps of a draw, and the maps that are reported beside them."""

    normals: pd.DataFrame
    reported: pd.DataFrame


def healthy(table: pd.DataFrame, adapt: AdaptConfig) -> pd.DataFrame:
    """The rows of a target's table of scores that its k maps are drawn from."""
    if adapt.taken_from == "train":
        return table[table["split"] == REFERENCE]
    return table[(table["split"] == "test") & (table["label"] == 0)]


def draw(table: pd.DataFrame, domain: str, k: int, number: int, adapt: AdaptConfig) -> Drawn:
    """The k healthy maps of a target in a draw, 0 to `adapt.draws` - 1.

    With `from=test` they, and the other maps of their recordings, are not reported. Labels are read for that alone.
    """
    table = table.reset_index(drop=True)
    reported, chosen = table[table["split"] == "test"], healthy(table, adapt)
    if problem := too_few(domain, k, len(chosen), adapt):
        raise BadInput(problem)
    chosen = chosen.iloc[order(chosen, adapt.seed, number, domain)[:k]]
    if adapt.taken_from == "test":
        of_drawn = reported["recording"].isin(set(chosen["recording"]) - {""})
        reported = reported[~of_drawn & ~reported.index.isin(chosen.index)]
    return Drawn(chosen, reported)


def too_few(domain: str, k: int, maps: int, adapt: AdaptConfig) -> str:
    """Why a target has too few healthy maps to draw k from; empty where it has enough."""
    where, left = {"train": ("train/good", 0), "test": ("test/good", FEWEST_LEFT)}[adapt.taken_from]
    if k + left * (k > 0) <= maps:
        return ""
    must = f", of which {left} must stay reported" if left else ""
    return f"adapt.k={k} is more than {domain} has: {maps} healthy maps in {where}{must}; lower adapt.k or add maps"
