"""Whether another validation strategy would have chosen the same entries, and what its choice costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scipy.stats import kendalltau

from hdmap_mlflow.report.arrange import Entry, Grid, settings_of
from hdmap_mlflow.report.selection import target_auroc, validation_auroc

SPLIT = {"data.validation", "data.val_fraction"}  # all that runs of two strategies may differ in


@dataclass(frozen=True)
class Agreement:
    """On one source: the entries of the highest validation AUROC by the report's own strategy and by another.

    `reached` and `other_reached` are their mean target AUROC and `best` the highest of any of the `entries`, all of
    them in the report's own runs: only the choice differs. `tau`: Kendall's tau-b between the validation AUROCs of both
    strategies over the entries; None where one of them is constant.
    """

    source: str
    strategy: str
    entries: int
    own: str
    reached: float
    other: str
    other_reached: float
    best: float
    tau: float | None


def agreements(grid: Grid, strategies: Mapping[str, Grid]) -> list[Agreement]:
    """One per source and other strategy that has the runs of two entries or more; `strategies` has its runs by name."""
    found = []
    for name, other in strategies.items():
        twins = {_what(entry): entry for entry in other.entries}
        for source in sorted({source for source, _ in grid.common}):
            keys = [key for key in grid.common if key[0] == source]
            judged: dict[str, tuple[float, float, float]] = {}
            for entry in grid.complete:
                twin = twins.get(_what(entry))
                if twin is None or not set(keys) <= set(twin.runs):
                    continue
                runs, again = ([one.runs[key] for key in keys] for one in (entry, twin))
                own, others, reached = validation_auroc(runs), validation_auroc(again), target_auroc(runs)
                if own is not None and others is not None and reached is not None:
                    judged[entry.label] = own, others, reached
            if len(judged) > 1:
                found.append(_agreement(source, name, judged))
    return found


def _what(entry: Entry) -> tuple[object, ...]:
    """What an entry is, whatever strategy validates it."""
    first = entry.first
    settings = [(key, value) for key, value in settings_of(first).items() if key not in SPLIT]
    return first.tag("model"), first.tag("condition"), *settings


def _agreement(source: str, strategy: str, judged: Mapping[str, tuple[float, float, float]]) -> Agreement:
    own, other, reached = zip(*judged.values(), strict=True)
    picked, otherwise = (max(judged, key=lambda one: judged[one][rule]) for rule in (0, 1))
    tau = float(kendalltau(own, other).statistic)
    return Agreement(
        source,
        strategy,
        len(judged),
        picked,
        judged[picked][2],
        otherwise,
        judged[otherwise][2],
        max(reached),
        None if tau != tau else tau,
    )
