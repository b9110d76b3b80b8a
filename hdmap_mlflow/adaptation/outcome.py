"""What adapters bring: a chain applied to the scores of a run, measured on the targets' reported maps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np
import pandas as pd

from hdmap_mlflow.adaptation.chain import Chain, check, model_adapter, protocol, words, working
from hdmap_mlflow.adaptation.draw import healthy
from hdmap_mlflow.adaptation.stage import Part, Stage, of_columns, of_model, plain, with_columns
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.annotations import Model
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.cards import Bounds, rate_bounds
from hdmap_mlflow.evaluation.metrics import (
    METRICS,
    NORMAL_QUANTILES,
    image_metrics,
    raw,
    source_interval,
    thresholds,
)
from hdmap_mlflow.evaluation.pooled import pooled_auroc
from hdmap_mlflow.evaluation.sample import MAPS, Sample, enough
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import AUROC, Scope, adapted_scope, metric_name, target_scope

if TYPE_CHECKING:
    from hdmap_mlflow.adaptation.kept import Kept
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

CURVE = (0, 1, 4, 16, 64)  # how many healthy maps a run's card shows
SHOWN = [AUROC, *(f"{rate}_at_{name}" for name in NORMAL_QUANTILES for rate in ("FPR", "TPR"))]
MEASURED = [name for name, metric in METRICS.items() if metric.of == "score" and metric.measure]


# Of the table of what a chain brings, after the column of the domain.
COLUMNS = {
    "AUROC": AUROC,
    "FPR at 1 %": SHOWN[1],
    "TPR at 1 %": SHOWN[2],
    "FPR at 5 %": SHOWN[3],
    "TPR at 5 %": SHOWN[4],
}


class Figure(TypedDict):
    """A figure of a domain: its mean over the draws, and its spread (ddof 1) where there are two draws or more.

    `interval` is the 95 % one on the reported maps, mean over the draws.
    """

    mean: float
    sd: NotRequired[float]
    interval: NotRequired[Bounds]


class AdaptationCard(TypedDict):
    """The card `adaptation`: `curve[chain][k][scope][name]`, chains in words (`merge+z`), k as a text.

    Scopes are `target/<domain>`, `target_mean`, `target_worst`, `pooled`, and `source` where the model is changed;
    names are those of `SHOWN`, of `pooled` the AUROC alone. `left_out` says of a chain with k (`z 16`) why it is not
    there.
    """

    chain: str  # the run's own, in words
    k: int
    protocol: str
    maps: dict[str, int]  # healthy maps of each target that are drawn from
    scale: str  # log or score: what `z` is measured in
    curve: dict[str, dict[str, dict[str, dict[str, Figure]]]]
    left_out: dict[str, str]


Values = dict[str, dict[str, float]]  # by scope and name


@dataclass(frozen=True)
class Outcome:
    """What a chain brings: its metrics by full name, and the card; both empty without reference scores."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    card: AdaptationCard | None = None


def keeping(model: Model, module: MultiDomainHDMAPDataModule, adapt: AdaptConfig, device: str) -> Kept | None:
    """Where the features of a run's maps are kept as they are scored; None where the chain has no use for them."""
    from hdmap_mlflow.adaptation.kept import Kept

    name = model_adapter(working(tuple(adapt.adapters), adapt.k))
    return Kept(model, module, device) if name and ADAPTERS[name].needs == "features" else None


def score(
    model: Model,
    module: MultiDomainHDMAPDataModule,
    source: Scores,
    targets: Sequence[Scores],
    adapt: AdaptConfig,
    device: str,
    kept: Kept | None = None,
    progress: bool = False,
) -> tuple[Scores, list[Scores]]:
    """Scores with columns of those of the model as the chain's model adapter changes it, for every k of the curve.

    As they are where the chain has none. See `stage.with_columns`; `kept` are features that are there by now.
    """
    chain, every = tuple(adapt.adapters), [source, *targets]
    name = model_adapter(working(chain, adapt.k))
    if name is None:
        return source, [*targets]
    counts = steps((len(healthy(one.table, adapt)) for one in targets), [adapt.k])
    counts = [k for k in counts if name in working(chain, k) and not 0 < k < ADAPTERS[name].least]
    for k, stage in of_model(name, model, module, source, targets, counts, adapt, device, kept, progress):
        with contextlib.suppress(BadInput):  # `outcome` says why
            stage = stage.through([of for of in working(chain, k) if of != name])
            every = [with_columns(one, stage, chain, k) for one in every]
    return every[0], every[1:]


def outcome(source: Scores, targets: Sequence[Scores], adapt: AdaptConfig, sample: Sample = MAPS) -> Outcome:
    """What the chain of a run brings with its k maps, and the curve over k of it and of every adapter of scores.

    What cannot be used on these scores is left out, with its reason.
    """
    maps = {one.domain: len(healthy(one.table, adapt)) for one in targets}
    if not any(maps.values()):
        return Outcome()
    own: Chain = tuple(adapt.adapters)
    check(own, adapt.k)  # a run of another version may have other adapters
    of_scores = [(name,) for name, adapter in ADAPTERS.items() if adapter.of_scores]
    card: AdaptationCard = {
        "chain": words(own),
        "k": adapt.k,
        "protocol": protocol(own, adapt.k),
        "maps": maps,
        "scale": "log" if plain(source, targets, 0, adapt).positive else "score",
        "curve": {},
        "left_out": {},
    }
    metrics: dict[str, float] = {}
    measured: dict[tuple[Chain, int], dict[str, dict[str, Figure]]] = {}
    for chain in dict.fromkeys([*of_scores, own] if own else of_scores):
        for k in steps(maps.values(), [adapt.k] if chain == own else []):
            if k and any(k < ADAPTERS[name].least for name in chain):
                continue
            mine = chain == own and k == adapt.k
            key = working(chain, k), k
            try:
                if key not in measured or mine:
                    stage, fitted = adapted(chain, k, source, targets, adapt)
                    measured[key] = figures(stage, fitted, MEASURED if mine else SHOWN, sample)
            except BadInput as problem:
                card["left_out"][f"{words(chain)} {k}"] = str(problem)
                continue
            found = measured[key]
            if mine and working(chain, k):
                metrics = _named(found, chain, k)
            shown = {scope: {name: one[name] for name in SHOWN if name in one} for scope, one in found.items()}
            card["curve"].setdefault(words(chain), {})[str(k)] = shown
    return Outcome(metrics, card)


def of_chain(chain: Chain, k: int, source: Scores, targets: Sequence[Scores], adapt: AdaptConfig) -> dict[str, float]:
    """The metrics of a chain with k healthy maps of each target, by full name. Raises BadInput as `adapted` does."""
    return _named(figures(*adapted(chain, k, source, targets, adapt), MEASURED), chain, k)


def made(metrics: Iterable[str]) -> set[tuple[Chain, int]]:
    """With what a run was adapted, from the names of its metrics; without adapters that only another version has."""
    found = (re.match(rf"{Scope.ADAPTED}/([^/]+)/k(\d+)/", name) for name in metrics)
    chains = {(tuple(match[1].split("-")), int(match[2])) for match in found if match}
    return {(chain, k) for chain, k in chains if set(chain) <= set(ADAPTERS)}


Curve = dict[str, dict[str, dict[str, dict[str, Figure]]]]


def joined(before: Curve, after: Curve) -> Curve:
    """Both curves of a card; where both have a chain with a k, it is that of `after`."""
    both = {chain: before.get(chain, {}) | after.get(chain, {}) for chain in {**before, **after}}
    return {chain: {k: of[k] for k in sorted(of, key=int)} for chain, of in both.items()}


def rows(card: AdaptationCard, chain: str, k: int) -> list[list[str]]:
    """A table of what a chain brings, under `COLUMNS`: source only -> adapted, with the spread over the draws."""
    before, after = card["curve"][chain]["0"], card["curve"][chain][str(k)]

    def cell(scope: str, name: str) -> str:
        if name not in after.get(scope, {}):
            return "-"
        was, now = before.get(scope, {}).get(name), after[scope][name]
        spread = f" ± {now['sd']:.3f}" if "sd" in now else ""
        return (f"{was['mean']:.3f} -> " if was else "") + f"{now['mean']:.3f}{spread}"

    return [
        [scope.removeprefix(target_scope("")), *(cell(scope, name) for name in COLUMNS.values())] for scope in after
    ]


def steps(maps: Iterable[int], more: Iterable[int] = ()) -> list[int]:
    """The curve's k that every target has maps for, and some more."""
    fewest = min(maps)
    return sorted({*(k for k in CURVE if k <= fewest), *more})


def adapted(
    chain: Chain, k: int, source: Scores, targets: Sequence[Scores], adapt: AdaptConfig
) -> tuple[Stage, dict[str, float]]:
    """Scores after a chain with k healthy maps of each target, and thresholds: see `metrics.thresholds`.

    They are fitted on the source's validation maps, on the same scale, but for those that an adapter says itself.
    Raises BadInput where the scores do not do for an adapter, and where those of an adapted model are not there.
    """
    doing = working(chain, k)
    stage = of_columns(source, targets, chain, k) if model_adapter(doing) else None
    if model_adapter(doing) and stage is None:
        raise BadInput(f"no scores of {words(chain)} with k={k} are kept")
    stage = stage or plain(source, targets, k, adapt).through(doing)
    fixed = ADAPTERS[doing[-1]].thresholds if doing else {}
    return stage, {**thresholds(stage.own.table[stage.own.table["split"] == "val"]), **fixed}


def figures(
    stage: Stage, fitted: Mapping[str, float], names: Sequence[str], sample: Sample = MAPS
) -> dict[str, dict[str, Figure]]:
    """Metrics of the reported maps by scope and name, over the draws; what a draw does not have is absent."""
    draws = [_values(stage, parts, fitted, names) for parts in stage.draws]
    out: dict[str, dict[str, Figure]] = {}
    for scope, of in draws[0].items():
        for name in of:
            values = [draw[scope][name] for draw in draws if name in draw.get(scope, {})]
            if len(values) == len(draws):
                one: Figure = {"mean": float(np.mean(values))}
                if len(values) > 1:
                    one["sd"] = float(np.std(values, ddof=1))
                out.setdefault(scope, {})[name] = one
    for scope in _tables(stage, stage.draws[0]):
        bounds = [_bounds(_tables(stage, parts)[scope], fitted, sample) for parts in stage.draws]
        for name in set.intersection(*map(set, bounds)) & set(out.get(scope, {})):
            out[scope][name]["interval"] = np.mean([one[name] for one in bounds], axis=0).tolist()
    return out


def _tables(stage: Stage, parts: Mapping[str, Part]) -> dict[str, pd.DataFrame]:
    """The reported maps of a draw by scope; of the source where the model is another."""
    own = {Scope.SOURCE: stage.own.reported} if stage.changed else {}
    return own | {target_scope(domain): part.table for domain, part in parts.items()}


def _values(stage: Stage, parts: Mapping[str, Part], fitted: Mapping[str, float], names: Sequence[str]) -> Values:
    """The metrics of a draw, by scope and name."""
    out = {scope: image_metrics(table, fitted, names) for scope, table in _tables(stage, parts).items()}
    targets = [out[target_scope(domain)] for domain in parts]
    for name in names:
        if known := [values[name] for values in targets if name in values]:
            out.setdefault(Scope.TARGET_MEAN, {})[name] = float(np.mean(known))
            worst = min(known) if METRICS[name].higher_is_better else max(known)
            out.setdefault(Scope.TARGET_WORST, {})[name] = worst
    pooled = pooled_auroc({stage.source: stage.own.reported} | {domain: part.table for domain, part in parts.items()})
    return out | ({} if pooled is None else {Scope.POOLED: {AUROC: pooled}})


def _bounds(table: pd.DataFrame, fitted: Mapping[str, float], sample: Sample) -> dict[str, Bounds]:
    """The 95 % intervals of what is `SHOWN`, where they can be had."""
    label, units, out = raw(table)[0], sample.units(table), dict[str, Bounds]()
    if len(np.unique(label)) == 2 and enough(label, units):
        out[AUROC] = source_interval(table, units).bounds()
    for name in NORMAL_QUANTILES:
        rates = rate_bounds(table, fitted[name], sample) if name in fitted else {}
        out |= {f"{rate}_at_{name}": bounds for rate, bounds in rates.items()}
    return out


def _named(found: Mapping[str, Mapping[str, Figure]], chain: Chain, k: int) -> dict[str, float]:
    """Figures as metrics of the record: `adapted/<chain>/k<k>/<scope>/<name>`, with `_sd` over the draws."""
    out: dict[str, float] = {}
    for scope, of in found.items():
        for name, one in of.items():
            full = metric_name(adapted_scope(chain, k, scope), name)
            out |= {full: one["mean"]} | ({f"{full}_sd": one["sd"]} if "sd" in one else {})
    return out
