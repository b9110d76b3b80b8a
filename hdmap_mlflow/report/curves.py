"""How many healthy maps a machine needs: what k of them bring, from the cards of the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdmap_mlflow.names import AUROC
from hdmap_mlflow.report.arrange import Grid, mean

POOLED = "pooled_AUROC"
FALSE_ALARMS = "FPR_at_normal_q99"
FOUND = "TPR_at_normal_q99"
POINT = 0.01  # of false alarms, that more maps must at least save


@dataclass(frozen=True)
class Curve:
    """An entry's figures with a chain of adapters by k: means over runs, targets and draws, and `_sd`, over draws."""

    label: str
    chain: str
    points: Mapping[int, Mapping[str, float]]

    @property
    def enough(self) -> int | None:
        """The smallest k after which no more maps save a point of false alarms; None where alarms never ring by then.

        A threshold that finds no fault (`conformal` of few maps) raises no false alarm either.
        """
        rings = {k: point for k, point in self.points.items() if FALSE_ALARMS in point and point.get(FOUND) != 0}
        if max(rings, default=-1) < max(self.points):
            return None
        alarms = {k: point[FALSE_ALARMS] for k, point in rings.items()}
        return next(k for k in alarms if alarms[k] - min(rate for more, rate in alarms.items() if more >= k) < POINT)


def curves(grid: Grid) -> list[Curve]:
    """Of every entry and chain of adapters whose runs have the card `adaptation`."""
    out = []
    for entry in grid.entries:
        of_runs = [card["curve"] for run in entry.runs.values() if (card := run.cards.get("adaptation"))]
        for chain in dict.fromkeys(chain for curve in of_runs for chain in curve):
            own = [curve[chain] for curve in of_runs if chain in curve]
            points = {
                k: _point([at[str(k)] for at in own if str(k) in at])
                for k in sorted({int(k) for at in own for k in at})
            }
            if any(FALSE_ALARMS in point for point in points.values()):
                out.append(Curve(entry.label, chain, points))
    return out


def _point(domains: Sequence[Mapping[str, Mapping[str, Mapping[str, float]]]]) -> dict[str, float]:
    """The figures of one k, from those of each run."""
    names = {name: ("target_mean", name) for one in domains for name in one.get("target_mean", {})}
    names |= {POOLED: ("pooled", AUROC)}
    out: dict[str, float] = {}
    for name, (domain, metric) in names.items():
        figures = [one[domain][metric] for one in domains if metric in one.get(domain, {})]
        both = {name: mean(f["mean"] for f in figures), f"{name}_sd": mean(f.get("sd") for f in figures)}
        out |= {key: value for key, value in both.items() if value is not None}
    return out
