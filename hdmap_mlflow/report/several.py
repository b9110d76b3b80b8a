"""Does a second source help more than k healthy maps of the target? All domains but the target against one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdmap_mlflow.evaluation.intervals import Comparison, Interval
from hdmap_mlflow.report.arrange import VIEW, Entry, Grid, settings_of
from hdmap_mlflow.report.stacks import mean_over, of_targets, versus


@dataclass(frozen=True)
class Helped:
    """The mean target AUROC of an entry's runs of one source with k healthy maps of each target, by a chain.

    `by_sources` is what more sources, and none of these maps, gain over that, on the same maps.
    """

    k: int
    chain: str
    reached: Interval
    by_sources: Comparison


@dataclass(frozen=True)
class Several:
    """The mean target AUROC of an entry whose sources are all domains but the target, and of the same from one source.

    `gain` is the paired comparison of both, `helped` that with healthy maps of the target in place of more sources: of
    each k the chain that reaches most.
    """

    label: str
    all_but: Interval
    one: Interval
    gain: Comparison
    helped: Sequence[Helped]


def several(grid: Grid, views: Mapping[int, Grid]) -> list[Several]:
    """Of every entry that has runs of both kinds; `views` are the runs with k maps of each target, by k."""
    out = []
    for entry in grid.entries:
        all_but = of_targets(entry, [key for key in entry.runs if grid.left_out(key[0])])
        one = of_targets(entry, _single(entry))
        if all_but and one and (gain := versus(all_but, one)):
            best = [found for k, of in views.items() if (found := _helped(k, entry, of))]
            out.append(Several(entry.label, mean_over(all_but), mean_over(one), gain, best))
    return out


def _single(entry: Entry) -> list[tuple[str, int]]:
    return [key for key, run in entry.runs.items() if len(run.sources) == 1]


def _helped(k: int, entry: Entry, views: Grid) -> Helped | None:
    """Of the views of an entry's runs the best; None where there are none on the same maps."""
    all_but = of_targets(entry, [key for key in entry.runs if views.left_out(key[0])])
    found = []
    for view in views.entries:
        same = all(view.first.tag(name) == entry.first.tag(name) for name in ("model", "condition"))
        if same and settings_of(view.first) == settings_of(entry.first):
            of = of_targets(view, _single(view))
            if of and (against := versus(all_but, of)):
                found.append(Helped(k, view.first.tags[VIEW], mean_over(of), against))
    return max(found, key=lambda one: one.reached.value, default=None)
