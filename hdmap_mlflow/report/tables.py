"""A grid of runs -> the tables of the report, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from hdmap_mlflow.history import RunRecord
from hdmap_mlflow.metrics import decisions, image_metrics, thresholds
from hdmap_mlflow.report.grid import TRIVIAL, Entry, Grid, auroc, reported
from hdmap_mlflow.statistics import Comparison, Interval, auroc_interval, compare, holm, mean_interval

ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """AUROC from a source to a domain: mean and sd (ddof 1) over n seeds, with the 95 % interval of the mean."""

    mean: float
    sd: float | None
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Standing:
    """An entry's line in the leaderboard; None where something is undefined."""

    label: str
    rank: int | None
    runs: int
    source: float | None
    target: Interval | None
    target_sd: float | None
    worst: tuple[str, float] | None
    ratio: float | None
    gap: float | None
    skill: float | None
    over_trivial: Comparison | None
    fit_seconds: float | None
    evaluate_seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class Pick:
    """What a selection rule chooses on one source, and what the choice brings on its targets."""

    source: str
    rule: str
    label: str
    value: float
    regret: float


@dataclass(frozen=True)
class Travel:
    """What an entry's 99 % threshold does on targets: realised rates, means over runs and targets, the worst FPR."""

    label: str
    source_fpr: float | None
    fpr: float | None
    tpr: float | None
    worst_fpr: tuple[str, float] | None


@dataclass(frozen=True)
class Tables:
    """Everything that the report says."""

    grid: Grid
    matrices: Mapping[str, Mapping[tuple[str, str], Cell]]
    leaderboard: Sequence[Standing]
    trivial: Mapping[str, tuple[float, tuple[str, float]]]
    pairs: Sequence[tuple[str, str, Comparison, float]]
    picks: Sequence[Pick]
    travels: Sequence[Travel]
    missing: Sequence[str]
    validation: str
    data_digest: str
    simulated: bool
    oracles: Sequence[RunRecord] = ()


def tabulate(grid: Grid, left_out: Sequence[str] = (), oracles: Sequence[RunRecord] = ()) -> Tables:
    """All tables of a grid; `left_out` are lines on runs that could not be read, `oracles` runs kept apart."""
    pairs = _pairs(grid)
    matrices = {entry.label: matrix(grid, entry) for entry in grid.entries}
    board = [_standing(grid, entry, matrices[entry.label], pairs) for entry in grid.entries]
    board.sort(key=lambda s: (s.rank is None, -(s.target.value if s.target else 0), s.label))
    first = grid.runs[0]
    return Tables(
        grid, matrices, board, _trivial(grid), pairs, _picks(grid), [_travel(entry) for entry in grid.entries],
        [*grid.missing(), *left_out], first.tag("validation"), first.tag("data_digest"),
        any(run.tag("simulated") == "true" for run in grid.runs), oracles,
    )  # fmt: skip


def matrix(grid: Grid, entry: Entry) -> dict[tuple[str, str], Cell]:
    """Cells of an entry by (source, domain), the diagonal included; an undefined cell is absent."""
    out = {}
    for source in grid.sources:
        runs = [run for (of, _), run in entry.runs.items() if of == source]
        for domain in grid.domains:
            tables = [reported(run, domain) for run in runs if domain in run.scores]
            values = [value for table in tables if (value := auroc(table)) is not None]
            if values:
                sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
                out[source, domain] = Cell(float(np.mean(values)), sd, len(values), _interval(tables))
    return out


def _interval(tables: Sequence[pd.DataFrame]) -> tuple[float, float] | None:
    label = _same_maps(tables)
    if label is None:
        return None
    found = auroc_interval(label, np.stack([table["score"].to_numpy(float) for table in tables]))
    return found.low, found.high


def _same_maps(tables: Sequence[pd.DataFrame]) -> np.ndarray | None:
    """The labels that the tables share, or None where they hold different maps (another split)."""
    first = tables[0]
    same = all(table["path"].equals(first["path"]) and table["label"].equals(first["label"]) for table in tables)
    return first["label"].to_numpy(int) if same else None


def _stacks(entry: Entry, keys: Sequence[tuple[str, int]], column: str = "score") -> dict[str, tuple]:
    """Target domain -> labels (n,) and scores (runs, n) of an entry's runs; domains with one class are left out."""
    out = {}
    targets = sorted({domain for key in keys for domain in entry.runs[key].targets})
    for domain in targets:
        tables = [reported(entry.runs[key], domain) for key in keys if domain in entry.runs[key].targets]
        label = _same_maps(tables)
        if label is not None and len(np.unique(label)) == 2:
            out[domain] = label, np.stack([table[column].to_numpy(float) for table in tables])
    return out


def _versus(one: Mapping[str, tuple], other: Mapping[str, tuple]) -> Comparison | None:
    both = sorted(set(one) & set(other))
    return compare({d: (one[d][0], one[d][1], other[d][1]) for d in both}) if both else None


def _pairs(grid: Grid) -> list[tuple[str, str, Comparison, float]]:
    """Paired tests of all entries on their common runs, the better first, with Holm-adjusted p-values."""
    if not grid.common:
        return []
    stacks = {entry.label: _stacks(entry, grid.common) for entry in grid.entries}
    found = []
    for one, other in combinations(stacks, 2):
        result = _versus(stacks[one], stacks[other])
        if result is not None:
            better = result.difference >= 0
            opposite = Comparison(-result.difference, -result.high, -result.low, result.p)
            found.append((one, other, result) if better else (other, one, opposite))
    adjusted = holm([result.p for _, _, result in found]) if found else []
    return [(one, other, result, p) for (one, other, result), p in zip(found, adjusted, strict=True)]


def _standing(grid: Grid, entry: Entry, cells: Mapping, pairs: Sequence) -> Standing:
    keys = grid.common or sorted(entry.runs)
    stacks = _stacks(entry, keys)
    target = mean_interval(stacks) if stacks else None
    trivial = {name: _stacks(entry, keys, name) for name in TRIVIAL}
    against = [found for stack in trivial.values() if (found := _versus(stacks, stack))]
    own = [cell.mean for (source, domain), cell in cells.items() if source == domain]
    others = {f"{s} to {d}": cell.mean for (s, d), cell in cells.items() if s != d}
    source = float(np.mean(own)) if own else None
    mean = target.value if target else None
    seeds = sorted({seed for _, seed in keys})
    a_seed = [[v for k in keys if k[1] == seed for d in entry.runs[k].targets
               if (v := auroc(reported(entry.runs[k], d))) is not None] for seed in seeds]  # fmt: skip
    by_seed = [float(np.mean(values)) for values in a_seed if values]
    beaten = sum(1 for _, other, _, p in pairs if other == entry.label and p < ALPHA)
    runs = [entry.runs[key] for key in keys]
    return Standing(
        label=entry.label,
        rank=1 + beaten if grid.common and target else None,
        runs=len(entry.runs),
        source=source,
        target=target,
        target_sd=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        worst=min(others.items(), key=lambda item: item[1]) if others else None,
        ratio=mean / source if mean is not None and source else None,
        gap=source - mean if mean is not None and source is not None else None,
        skill=(mean - 0.5) / (source - 0.5) if mean is not None and source is not None and source > 0.5 else None,
        over_trivial=min(against, key=lambda found: found.difference) if against else None,
        fit_seconds=_cost(runs, "cost/fit_seconds", np.mean),
        evaluate_seconds=_cost(runs, "cost/evaluate_seconds", np.mean),
        peak_mb=_cost(runs, "cost/fit_peak_MB", np.max),
    )


def _cost(runs: Sequence, name: str, of) -> float | None:  # noqa: ANN001
    values = [run.metrics[name] for run in runs if name in run.metrics]
    return float(of(values)) if values else None


def _trivial(grid: Grid) -> dict[str, tuple[float, tuple[str, float]]]:
    """Mean and worst AUROC over domains of each trivial score; it needs no source, so every domain counts once."""
    out = {}
    run_of = {domain: run for run in grid.runs for domain in run.targets}
    for column, name in TRIVIAL.items():
        values = {d: v for d, run in sorted(run_of.items()) if (v := auroc(reported(run, d), column)) is not None}
        if values:
            out[name] = float(np.mean(list(values.values()))), min(values.items(), key=lambda item: item[1])
    return out


def _picks(grid: Grid) -> list[Pick]:
    """For each source: the entry that the validation maps choose, and the oracle's, which looks at the targets."""
    out = []
    for source in sorted({source for source, _ in grid.common}):
        keys = [key for key in grid.common if key[0] == source]
        known, value = {}, {}
        for entry in grid.entries:
            runs = [entry.runs[key] for key in keys]
            val = [auroc(run.scores[source][run.scores[source]["split"] == "val"]) for run in runs]
            after = [v for run in runs for d in run.targets if (v := auroc(reported(run, d))) is not None]
            if after and None not in val:
                known[entry.label] = float(np.mean([v for v in val if v is not None]))
                value[entry.label] = float(np.mean(after))
        if value:
            oracle = max(value, key=lambda label: value[label])
            for rule, label in (("source validation", max(known, key=lambda label: known[label])), ("oracle", oracle)):
                out.append(Pick(source, rule, label, value[label], value[oracle] - value[label]))
    return out


def _travel(entry: Entry) -> Travel:
    own: list[Mapping[str, float]] = []
    targets: dict[tuple[str, str, int], Mapping[str, float]] = {}
    for (source, seed), run in entry.runs.items():
        table = run.scores[source]
        cut = thresholds(table[table["split"] == "val"]).get("normal_q99")
        if cut is None:
            continue
        own.append(decisions(reported(run, source), cut))
        targets |= {(source, domain, seed): decisions(reported(run, domain), cut) for domain in run.targets}

    def mean(found: Sequence[Mapping[str, float]], rate: str) -> float | None:
        values = [one[rate] for one in found if rate in one]
        return float(np.mean(values)) if values else None

    pairs = {(s, d) for s, d, _ in targets}
    by_pair = {f"{s} to {d}": mean([t for k, t in targets.items() if k[:2] == (s, d)], "FPR") for s, d in pairs}
    defined = {name: value for name, value in sorted(by_pair.items()) if value is not None}
    worst = max(defined.items(), key=lambda item: item[1]) if defined else None
    found = list(targets.values())
    return Travel(entry.label, mean(own, "FPR"), mean(found, "FPR"), mean(found, "TPR"), worst)


def long_table(grid: Grid) -> pd.DataFrame:
    """A row a run and domain with its settings, metrics and run id: what the CSV holds."""
    rows = []
    for entry in grid.entries:
        for (source, seed), run in entry.runs.items():
            table = run.scores[source]
            cuts = thresholds(table[table["split"] == "val"])
            for domain in sorted(run.scores):
                maps = reported(run, domain)
                own: dict[str, object] = {"entry": entry.label, "model": run.tag("model")}
                own |= {"condition": run.tag("condition")}
                own |= {"source": source, "domain": domain, "role": "source" if domain == source else "target"}
                own |= {"seed": seed, "split_seed": run.params.get("data.split_seed", "")}
                own |= {"validation": run.tag("validation"), "simulated": run.tag("simulated"), "maps": len(maps)}
                rows.append({**own, **image_metrics(maps, cuts), "run_id": run.run_id})
    return pd.DataFrame(rows)
