"""A grid of runs -> the tables of the report, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from hdmap_mlflow.evaluation.cards import uncleared
from hdmap_mlflow.evaluation.intervals import (
    Comparison,
    Interval,
    holm,
    with_seeds,
)
from hdmap_mlflow.evaluation.metrics import METRICS, TRIVIAL, carry_over, image_metrics, thresholds
from hdmap_mlflow.names import Scope, metric_name, sources_of, target_scope
from hdmap_mlflow.report.adapted import Gain, gain
from hdmap_mlflow.report.agreement import Agreement, agreements
from hdmap_mlflow.report.arrange import VIEW, Entry, Grid, auroc, mean, reported, sample_of
from hdmap_mlflow.report.curves import Curve, curves
from hdmap_mlflow.report.selection import Pick, picks, target_auroc
from hdmap_mlflow.report.several import Several, several
from hdmap_mlflow.report.stacks import Stack, differing, interval, mean_over, of_targets, stacked, target_tables, versus
from hdmap_mlflow.report.travels import Travel, travel
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
    train_maps: float | None  # a map counts each time it was in a batch
    fit_seconds: float | None
    evaluate_seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True)
class Adapted:
    """An entry in the leaderboard of runs that were adapted with k healthy maps of each target; ranked within a k."""

    k: int
    standing: Standing
    gain: Gain


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
    views: Mapping[int, Grid] = field(default_factory=dict)  # of the runs with k maps of each target, by k
    adapted: Sequence[Adapted] = ()  # the fewest maps first, and of one number the best
    curves: Sequence[Curve] = ()
    agreements: Sequence[Agreement] = ()
    several: Sequence[Several] = ()

    def cell(self, label: str, row: str, domain: str) -> Cell | None:
        """A cell of an entry's matrix by its row (see `Grid.rows`) and its column; None where it is undefined."""
        return self.matrices[label].get((self.grid.source_of(row, domain), domain))

    @property
    def sample(self) -> str:
        """What intervals and tests take for independent: recordings, order or maps."""
        return sample_of(self.grid.runs[0]).name


def tabulate(
    grid: Grid,
    left_out: Sequence[str] = (),
    oracles: Sequence[RunRecord] = (),
    views: Mapping[int, Grid] | None = None,
    strategies: Mapping[str, Grid] | None = None,
) -> Tables:
    """All tables of a grid; `left_out` are lines on runs that could not be read, `oracles` runs kept apart.

    `views` are the runs with k maps of each target, by k; `strategies` those of other validation strategies, by name.
    """
    ranking, first = _rank(grid), grid.runs[0]
    return Tables(
        grid,
        ranking.matrices,
        ranking.board,
        ranking.incomplete,
        _trivial(grid),
        ranking.pairs,
        picks(grid),
        [travel(entry) for entry in grid.entries],
        [*grid.missing(), *_unlike(grid, ranking.stacks), *left_out],
        first.tag("validation"),
        first.tag("data_digest"),
        any(run.tag("simulated") == "true" for run in grid.runs),
        oracles,
        views or {},
        [one for k, some in (views or {}).items() for one in _adapted(k, some)],
        curves(grid),
        agreements(grid, strategies or {}),
        several(grid, views or {}),
    )


class _Ranking(NamedTuple):
    """The entries of a grid beside one another: the complete ones with their ranks, and the others."""

    matrices: dict[str, dict[tuple[str, str], Cell]]
    stacks: dict[str, dict[str, Stack]]
    pairs: list[tuple[str, str, Comparison, float]]
    board: list[Standing]
    incomplete: list[Standing]


def _rank(grid: Grid) -> _Ranking:
    stacks = {entry.label: of_targets(entry, grid.compared(entry)) for entry in grid.complete or grid.entries}
    pairs = _pairs(stacks) if grid.common else []
    matrices = {entry.label: matrix(grid, entry) for entry in grid.entries}
    found = _Ranking(matrices, stacks, pairs, [], [])
    for entry in grid.entries:
        own = stacks if entry.label in stacks else {entry.label: of_targets(entry, grid.compared(entry))}
        standing = _standing(grid, entry, matrices[entry.label], own, pairs)
        (found.board if own is stacks else found.incomplete).append(standing)
    found.board.sort(key=lambda s: (s.rank is None, -(s.target.value if s.target else 0), s.label))
    return found


def _adapted(k: int, views: Grid) -> list[Adapted]:
    """Views of runs with k maps of each target, ranked among themselves; last those that lack runs."""
    ranking, entries = _rank(views), {entry.label: entry for entry in views.entries}
    return [
        Adapted(k, standing, gain(entries[standing.label], views.compared(entries[standing.label])))
        for standing in (*ranking.board, *ranking.incomplete)
    ]


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
            opposite = replace(result, difference=-result.difference, low=-result.high, high=-result.low)
            found.append((one, other, result) if better else (other, one, opposite))
    adjusted = holm([result.p for _, _, result in found])
    return [(one, other, result, p) for (one, other, result), p in zip(found, adjusted, strict=True)]


def told_apart(found: Comparison, p: float) -> bool:
    """Whether a paired test, with its adjusted p-value, tells two entries apart."""
    return p < ALPHA and not found.few


def _standing(grid: Grid, entry: Entry, cells: Mapping, stacks: Mapping, pairs: Sequence) -> Standing:
    keys, mine, lacks = grid.compared(entry), stacks[entry.label], grid.lacks(entry)
    target = mean_over(mine) if mine else None
    against = [found for name in TRIVIAL if (found := versus(mine, of_targets(entry, keys, name)))]
    unlike = any(differing(mine, other) for other in stacks.values())
    source = mean(cell.mean for (s, d), cell in cells.items() if d in sources_of(s))
    others = {f"{s} to {d}": cell.mean for (s, d), cell in cells.items() if d not in sources_of(s)}
    carried, unproven = carry_over(source, target.value if target else None), unproven_source(entry)
    seeds = sorted({seed for _, seed in keys})
    a_seed = [target_auroc([entry.runs[key] for key in keys if key[1] == seed]) for seed in seeds]
    by_seed = [value for value in a_seed if value is not None]
    sd = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None
    beaten = sum(1 for _, other, found, p in pairs if other == entry.label and told_apart(found, p))
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
        beats_trivial=bool(against) and all(found.low > 0 and not found.few for found in against),
        fit_seconds=_cost(runs, "fit_seconds", np.mean),
        train_maps=_cost(runs, "train_maps", np.mean),
        evaluate_seconds=_cost(runs, "evaluate_seconds", np.mean),
        peak_mb=_cost(runs, "fit_peak_MB", np.max),
    )


def unproven_source(entry: Entry) -> str | None:
    """The bar that the entry's AUROC on its own sources does not clear, as a run's own grade has it; None if it does.

    Also None where no source has an AUROC. Where runs hold different maps of a source, each must clear it alone.
    """
    cells: dict[str, list[pd.DataFrame]] = {}
    for (of, _), run in entry.runs.items():
        for source in run.sources:
            table = reported(run, source)
            if table["label"].nunique() == 2:
                cells.setdefault(f"{of}/{source}", []).append(table)
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
    return uncleared(None if found.few else found.bounds(), {"chance": 0.5} | bars)


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


def long_table(grid: Grid, views: Mapping[int, Grid] | None = None) -> pd.DataFrame:
    """One row per run and domain with its settings, metrics and run id; of views one per target. The CSV holds it."""
    rows = []
    for k, of in {0: grid, **(views or {})}.items():
        for entry, run, domain in ((e, r, d) for e in of.entries for r in e.runs.values() for d in sorted(r.scores)):
            maps, role = reported(run, domain), "source" if domain in run.sources else "target"
            if k and role == "source":
                continue  # as it was
            named = {"model": run.tag("model"), "condition": run.tag("condition"), "source": run.source}
            seeds = {"seed": int(run.params.get("train.seed", 0)), "split_seed": run.params.get("data.split_seed", "")}
            about = {"validation": run.tag("validation"), "simulated": run.tag("simulated"), "maps": len(maps)}
            way = {"protocol": "k_normals" if k else "source_only", "adapters": run.tags.get(VIEW, ""), "k": k}
            scope = metric_name(target_scope(domain), "")
            measured = (
                {name: value for name in METRICS if (value := run.metrics.get(scope + name)) is not None}
                if k
                else image_metrics(maps, thresholds(run.part("val", run.source)))
            )
            own = {"entry": entry.label, **named, "domain": domain, "role": role, **seeds, **about}
            rows.append({**own, **measured, "run_id": run.run_id, **way})
    return pd.DataFrame(rows)
