"""Scores of several runs on the same maps, one stack for each domain, and what is compared of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hdmap_mlflow.evaluation.intervals import Comparison, Interval, auroc_interval, compare, mean_interval
from hdmap_mlflow.evaluation.metrics import raw
from hdmap_mlflow.evaluation.sample import enough
from hdmap_mlflow.report.arrange import Entry, each_draw, reported
from hdmap_mlflow.runs.history import same_maps


@dataclass(frozen=True)
class Stack:
    """Scores (runs, or runs x draws, n) of the same n maps; `maps` is one of their tables."""

    maps: pd.DataFrame
    scores: np.ndarray

    @property
    def label(self) -> np.ndarray:
        return self.maps["label"].to_numpy(int)

    @property
    def units(self) -> np.ndarray | None:
        """The recording of every map; None where maps are the sample."""
        return self.maps["unit"].to_numpy() if "unit" in self.maps else None


def stacked(tables: Sequence[pd.DataFrame], column: str = "score") -> Stack | None:
    """A column of tables that hold the same maps; None where they do not (another split), or lack it."""
    if not all(column in table and table[column].notna().all() for table in tables):
        return None
    if not all(same_maps(tables[0], table) for table in tables):
        return None
    return Stack(tables[0], np.stack([raw(one)[1] for table in tables for one in each_draw(table, column)]))


def of_targets(entry: Entry, keys: Sequence[tuple[str, int]], column: str = "score") -> dict[str, Stack]:
    """Target domain -> scores of an entry's runs; without domains of one class or of other maps in each run."""
    out = {}
    for domain, tables in target_tables(entry, keys).items():
        stack = stacked(tables, column)
        if stack is not None and len(np.unique(stack.label)) == 2:
            out[domain] = stack
    return out


def target_tables(entry: Entry, keys: Sequence[tuple[str, int]]) -> dict[str, list[pd.DataFrame]]:
    """Target domain -> the reported maps of each run that has it."""
    found: dict[str, list[pd.DataFrame]] = {}
    for key in keys:
        for domain in entry.runs[key].targets:
            found.setdefault(domain, []).append(reported(entry.runs[key], domain))
    return dict(sorted(found.items()))


def differing(one: Mapping[str, Stack], other: Mapping[str, Stack]) -> list[str]:
    return [d for d in one if d in other and not same_maps(one[d].maps, other[d].maps)]


def interval(tables: Sequence[pd.DataFrame]) -> tuple[float, float] | None:
    one = stacked(tables)
    if one is None or not enough(one.label, one.units):
        return None
    found = auroc_interval(one.label, one.scores, one.units)
    return found.low, found.high


def mean_over(stacks: Mapping[str, Stack], independent: bool = False) -> Interval:
    """The mean AUROC over domains, with its interval; `independent`: as if each map were a recording of its own."""
    cells = {domain: (one.label, one.scores) for domain, one in stacks.items()}
    return mean_interval(cells, None if independent else _units(stacks))


def _units(stacks: Mapping[str, Stack]) -> dict[str, np.ndarray]:
    return {domain: units for domain, one in stacks.items() if (units := one.units) is not None}


def versus(one: Mapping[str, Stack], other: Mapping[str, Stack]) -> Comparison | None:
    """A paired test on the domains of both; None if there are none, or if one has other maps in each."""
    both = [domain for domain in one if domain in other]
    if not both or differing(one, other):
        return None
    return compare({d: (one[d].label, one[d].scores, other[d].scores) for d in both}, _units({d: one[d] for d in both}))
