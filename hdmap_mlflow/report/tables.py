"""A grid of runs -> the tables of the report, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from hdmap_mlflow.evaluation.cards import uncleared
from hdmap_mlflow.evaluation.intervals import (
    Comparison,
    Interval,
    holm,
    rate_expected,
    with_seeds,
)
from hdmap_mlflow.evaluation.metrics import TRIVIAL, carry_over, decisions, image_metrics, raw, thresholds
from hdmap_mlflow.names import Scope, metric_name
from hdmap_mlflow.report.arrange import Entry, Grid, auroc, mean, reported, sample_of
from hdmap_mlflow.report.selection import Pick, picks, target_auroc
from hdmap_mlflow.report.stacks import Stack, differing, interval, mean_over, of_targets, stacked, target_tables, versus
from hdmap_mlflow.runs.history import RunRecord

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
    with_seeds: Interval | None  # of the target mean, over maps and seeds; None where there is one seed
    worst: tuple[str, float] | None
    ratio: float | None
    gap: float | None
    skill: float | None
    unproven: str | None  # the bar that the source's AUROC does not clear, and so there is no ratio and no skill
    lacks: Sequence[tuple[str, int]]  # (source, seed) pairs of the ranked entries that it has no run of
    over_trivial: Comparison | None
    beats_trivial: bool  # by the interval's lower bound, for each trivial score
    fit_seconds: float | None
    evaluate_seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class Travel:
    """What an entry's 99 % threshold does on targets: realised rates, means over runs and targets, the worst FPR.

    `normals` is the least number of healthy validation maps that set a threshold; a threshold of such a number shows
    an FPR between the bounds `expected`, 95 %, on as many reported healthy maps of the same domain as there are.
    """

    label: str
    normals: int | None
    expected: tuple[float, float] | None
    source_fpr: float | None
    fpr: float | None
    tpr: float | None
    worst_fpr: tuple[str, float] | None


@dataclass(frozen=True)
class Tables:
    """Everything that the report says."""

    grid: Grid
    matrices: Mapping[str, Mapping[tuple[str, str], Cell]]
    leaderboard: Sequence[Standing]  # of the complete entries, or of all where there is no ranking
    incomplete: Sequence[Standing]  # each judged on its own runs
    trivial: Mapping[str, tuple[float, tuple[str, float]]]
    pairs: Sequence[tuple[str, str, Comparison, float]]
    picks: Sequence[Pick]
    travels: Sequence[Travel]
    missing: Sequence[str]
    validation: str
    data_digest: str
    simulated: bool
    oracles: Sequence[RunRecord] = ()

    @property
    def sample(self) -> str:
        """What intervals and tests take for independent: recordings, order or maps."""
        return sample_of(self.grid.runs[0]).name


def tabulate(grid: Grid, left_out: Sequence[str] = (), oracles: Sequence[RunRecord] = ()) -> Tables:
    """All tables of a grid; `left_out` are lines on runs that could not be read, `oracles` runs kept apart."""
    ranked = grid.complete or grid.entries
    stacks = {entry.label: of_targets(entry, grid.compared(entry)) for entry in ranked}
    pairs = _pairs(stacks) if grid.common else []
    matrices = {entry.label: matrix(grid, entry) for entry in grid.entries}
    board: list[Standing] = []
    incomplete: list[Standing] = []
    for entry in grid.entries:
        own = stacks if entry.label in stacks else {entry.label: of_targets(entry, grid.compared(entry))}
        standing = _standing(grid, entry, matrices[entry.label], own, pairs)
        (board if own is stacks else incomplete).append(standing)
    board.sort(key=lambda s: (s.rank is None, -(s.target.value if s.target else 0), s.label))
    first = grid.runs[0]
    return Tables(
        grid,
        matrices,
        board,
        incomplete,
        _trivial(grid),
        pairs,
        picks(grid),
        [_travel(entry) for entry in grid.entries],
        [*grid.missing(), *_unlike(grid, stacks), *left_out],
        first.tag("validation"),
        first.tag("data_digest"),
        any(run.tag("simulated") == "true" for run in grid.runs),
        oracles,
    )


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
                out[source, domain] = Cell(float(np.mean(values)), sd, len(values), interval(tables))
    return out


def _unlike(grid: Grid, stacks: Mapping[str, Mapping[str, Stack]]) -> list[str]:
    """What is not compared because the maps are not the same ones."""
    lines = [
        f"{entry.label}: its runs hold different maps of {domain}, which counts in no target mean and no comparison"
        for entry in grid.entries
        for domain, tables in target_tables(entry, grid.compared(entry)).items()
        if stacked(tables) is None
    ]
    for one, other in combinations(stacks if grid.common else (), 2):
        if domains := differing(stacks[one], stacks[other]):
            lines.append(f"{one} and {other}: not compared, for they hold different maps of {', '.join(domains)}")
    return lines


def _pairs(stacks: Mapping[str, Mapping[str, Stack]]) -> list[tuple[str, str, Comparison, float]]:
    """Paired tests of all entries on their common runs, the better first, with Holm-adjusted p-values."""
    found = []
    for one, other in combinations(stacks, 2):
        result = versus(stacks[one], stacks[other])
        if result is not None:
            better = result.difference >= 0
            opposite = Comparison(-result.difference, -result.high, -result.low, result.p)
            found.append((one, other, result) if better else (other, one, opposite))
    adjusted = holm([result.p for _, _, result in found])
    return [(one, other, result, p) for (one, other, result), p in zip(found, adjusted, strict=True)]


def _standing(grid: Grid, entry: Entry, cells: Mapping, stacks: Mapping, pairs: Sequence) -> Standing:
    keys, mine, lacks = grid.compared(entry), stacks[entry.label], grid.lacks(entry)
    target = mean_over(mine) if mine else None
    against = [found for name in TRIVIAL if (found := versus(mine, of_targets(entry, keys, name)))]
    unlike = any(differing(mine, other) for other in stacks.values())
    source = mean(cell.mean for (s, d), cell in cells.items() if s == d)
    others = {f"{s} to {d}": cell.mean for (s, d), cell in cells.items() if s != d}
    carried, unproven = carry_over(source, target.value if target else None), unproven_source(entry)
    seeds = sorted({seed for _, seed in keys})
    a_seed = [target_auroc([entry.runs[key] for key in keys if key[1] == seed]) for seed in seeds]
    by_seed = [value for value in a_seed if value is not None]
    sd = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
    beaten = sum(1 for _, other, _, p in pairs if other == entry.label and p < ALPHA)
    runs = [entry.runs[key] for key in keys]
    return Standing(
        label=entry.label,
        rank=1 + beaten if grid.common and not lacks and target and not unlike else None,
        runs=len(entry.runs),
        source=source,
        target=target,
        target_sd=sd,
        with_seeds=with_seeds(target, sd, len(by_seed)) if target and sd is not None else None,
        worst=min(others.items(), key=lambda item: item[1]) if others else None,
        ratio=None if unproven else carried.get("ratio"),
        gap=carried.get("gap"),
        skill=None if unproven else carried.get("skill"),
        unproven=unproven,
        lacks=lacks,
        over_trivial=min(against, key=lambda found: found.difference) if against else None,
        beats_trivial=bool(against) and all(found.low > 0 for found in against),
        fit_seconds=_cost(runs, "fit_seconds", np.mean),
        evaluate_seconds=_cost(runs, "evaluate_seconds", np.mean),
        peak_mb=_cost(runs, "fit_peak_MB", np.max),
    )


def unproven_source(entry: Entry) -> str | None:
    """The bar that the entry's AUROC on its own sources does not clear, as a run's own grade has it; None if it does.

    Also None where no source has an AUROC. Where runs hold different maps of a source, each must clear it alone.
    """
    cells: dict[str, list[pd.DataFrame]] = {}
    for (source, _), run in entry.runs.items():
        table = reported(run, source)
        if table["label"].nunique() == 2:
            cells.setdefault(source, []).append(table)
    if all(stacked(tables) for tables in cells.values()):
        return _below(list(cells.values())) if cells else None
    reasons = [_below([[table]]) for tables in cells.values() for table in tables]
    return next((reason for reason in reasons if reason), None)


def _below(cells: Sequence[Sequence[pd.DataFrame]]) -> str | None:
    """The bar that the mean AUROC over domains does not clear; a domain's tables hold the same maps."""
    stacks = [stack for tables in cells if (stack := stacked(tables))]
    found = mean_over({str(i): stack for i, stack in enumerate(stacks)})
    trivial = {name: [auroc(tables[0], column) for tables in cells] for column, name in TRIVIAL.items()}
    bars = {name: float(np.mean(values)) for name, values in trivial.items() if None not in values}  # type: ignore[arg-type]
    return uncleared(found.bounds(), {"chance": 0.5} | bars)


def _cost(runs: Sequence[RunRecord], name: str, join: Callable[[Sequence[float]], float]) -> float | None:
    full = metric_name(Scope.COST, name)
    values = [run.metrics[full] for run in runs if full in run.metrics]
    return float(join(values)) if values else None


def _trivial(grid: Grid) -> dict[str, tuple[float, tuple[str, float]]]:
    """Mean and worst AUROC over domains of each trivial score; it needs no source, so every domain counts once.

    A score that a domain lacks where another is defined is left out: its mean would be over other domains.
    """
    out, count = {}, 0
    run_of = {domain: run for run in grid.runs for domain in run.targets}
    for column, name in TRIVIAL.items():
        values = {d: v for d, run in sorted(run_of.items()) if (v := auroc(reported(run, d), column)) is not None}
        count = max(count, len(values))
        if values and len(values) == count:
            out[name] = float(np.mean(list(values.values()))), min(values.items(), key=lambda item: item[1])
    return out


def _travel(entry: Entry) -> Travel:
    own, fpr, tpr, counts = [], [], [], []
    by_pair: dict[str, list[float | None]] = {}
    for (source, _), run in entry.runs.items():
        cut = thresholds(run.part("val", source)).get("normal_q99")
        if cut is None:
            continue
        own.append(decisions(reported(run, source), cut).get("FPR"))
        normal = raw(run.part("val", source).query("label == 0"))[1]
        counts.append((len(normal), int((normal >= cut).sum()), int((reported(run, source)["label"] == 0).sum())))
        for domain in run.targets:
            rates = decisions(reported(run, domain), cut)
            by_pair.setdefault(f"{source} to {domain}", []).append(rates.get("FPR"))
            fpr.append(rates.get("FPR"))
            tpr.append(rates.get("TPR"))
    defined = {name: rate for name, rates in sorted(by_pair.items()) if (rate := mean(rates)) is not None}
    worst = max(defined.items(), key=lambda item: item[1]) if defined else None
    fewest = min(counts, default=None)
    expected = rate_expected(*fewest) if fewest and fewest[2] else None
    return Travel(entry.label, fewest[0] if fewest else None, expected, mean(own), mean(fpr), mean(tpr), worst)


def long_table(grid: Grid) -> pd.DataFrame:
    """One row per run and domain with its settings, metrics and run id: what the CSV holds."""
    rows = []
    for entry in grid.entries:
        for (source, seed), run in entry.runs.items():
            cuts = thresholds(run.part("val", source))
            for domain in sorted(run.scores):
                maps = reported(run, domain)
                own: dict[str, object] = {"entry": entry.label, "model": run.tag("model")}
                own |= {"condition": run.tag("condition")}
                own |= {"source": source, "domain": domain, "role": "source" if domain == source else "target"}
                own |= {"seed": seed, "split_seed": run.params.get("data.split_seed", "")}
                own |= {"validation": run.tag("validation"), "simulated": run.tag("simulated"), "maps": len(maps)}
                rows.append({**own, **image_metrics(maps, cuts), "run_id": run.run_id})
    return pd.DataFrame(rows)
