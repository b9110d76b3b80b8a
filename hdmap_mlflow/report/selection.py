"""Rules that choose a model without looking at what it is for, and what each choice costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hdmap_mlflow.report.arrange import Grid, auroc, mean, reported
from hdmap_mlflow.runs.history import RunRecord


def validation_auroc(runs: Sequence[RunRecord]) -> float | None:
    """Mean AUROC of an entry's runs on their source's validation maps; None where one is undefined."""
    values = [auroc(run.part("val", run.source)) for run in runs]  # of several sources their mean
    return None if None in values else mean(values)


def target_auroc(runs: Sequence[RunRecord]) -> float | None:
    """Mean AUROC of an entry's runs on all their targets; None where all are undefined."""
    return mean(auroc(reported(run, domain)) for run in runs for domain in run.targets)


ORACLE = "oracle"  # looks at the targets: what could have been had, not a result
# Rule -> the value of an entry, from its runs on one source; the entry of the highest value is chosen.
SELECTION_RULES: dict[str, Callable[[Sequence[RunRecord]], float | None]] = {
    "source validation": validation_auroc,
    ORACLE: target_auroc,
}


@dataclass(frozen=True)
class Pick:
    """What a selection rule chooses on one source, and what the choice brings on its targets."""

    source: str
    rule: str
    label: str
    value: float
    regret: float


def picks(grid: Grid) -> list[Pick]:
    """For each source what every rule chooses, among the entries of which all rules can judge."""
    out = []
    for source in sorted({source for source, _ in grid.common}):
        keys = [key for key in grid.common if key[0] == source]
        judged: dict[str, dict[str, float]] = {}
        for entry in grid.complete:
            runs = [entry.runs[key] for key in keys]
            values = {rule: value for rule, judge in SELECTION_RULES.items() if (value := judge(runs)) is not None}
            if len(values) == len(SELECTION_RULES):
                judged[entry.label] = values
        for rule in SELECTION_RULES if judged else ():
            label = max(judged, key=lambda one: judged[one][rule])
            value, best = judged[label][ORACLE], max(values[ORACLE] for values in judged.values())
            out.append(Pick(source, rule, label, value, best - value))
    return out
