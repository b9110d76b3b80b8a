"""The scores that adapters work on: of the source, and of every target in each draw of its healthy maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from hdmap_mlflow.adaptation.adapter import FitModel, Rule
from hdmap_mlflow.adaptation.draw import draw
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.annotations import Model
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.metrics import raw
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import K_NORMALS, REFERENCE, adapted_scope

if TYPE_CHECKING:
    from hdmap_mlflow.adaptation.kept import Kept
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule


@dataclass(frozen=True)
class Part:
    """A domain: scores of its healthy maps, (k,), and the table of its reported maps.

    Of the source the table has the validation maps, too, and the healthy ones are those among them: maps that the model
    has not seen, for a bank gives a map of its own too low a score.
    """

    normals: np.ndarray
    table: pd.DataFrame

    @property
    def reported(self) -> pd.DataFrame:
        return self.table[self.table["split"] == "test"]

    def positive(self) -> bool:
        return bool((self.normals > 0).all() and (self.table["score"] > 0).all())

    def through(self, domain: str, name: str, source: np.ndarray, positive: bool) -> Part:
        """After an adapter of scores; `source` are scores of the source's healthy maps."""
        try:
            rule: Rule = ADAPTERS[name].fit(self.normals, source, positive)  # type: ignore[assignment,call-arg,arg-type]
        except BadInput as problem:
            raise BadInput(f"{name} on {domain}: {problem}") from None
        return Part(rule(self.normals), self.table.assign(score=rule(raw(self.table)[1])))


@dataclass(frozen=True)
class Stage:
    """Scores of a run before or after adapters of scores: of its source, and of every target in each draw.

    `positive`: all of them were to begin with, so that they have a log. `changed`: they are of an adapted model.
    """

    source: str
    own: Part
    draws: Sequence[Mapping[str, Part]]
    positive: bool
    changed: bool = False

    @classmethod
    def of(cls, source: str, own: pd.DataFrame, draws: Sequence[Mapping[str, Part]], changed: bool = False) -> Stage:
        part = Part(raw(own[(own["split"] == "val") & (own["label"] == 0)])[1], own[own["split"] != REFERENCE])
        every = (part, *(one for parts in draws for one in parts.values()))
        return cls(source, part, draws, all(one.positive() for one in every), changed)

    def through(self, chain: Sequence[str]) -> Stage:
        """After some adapters of scores. Raises BadInput that names the domain whose maps do not do for one."""
        stage = self
        for name in chain:
            normals, positive = stage.own.normals, stage.positive and stage is self
            draws = [{d: p.through(d, name, normals, positive) for d, p in parts.items()} for parts in stage.draws]
            own = stage.own.through(self.source, name, normals, positive)
            stage = replace(self, own=own, draws=draws)
        return stage


def numbers(k: int, adapt: AdaptConfig) -> range:
    """The draws: one where there is nothing to draw."""
    return range(adapt.draws if k else 1)


def plain(source: Scores, targets: Sequence[Scores], k: int, adapt: AdaptConfig) -> Stage:
    """The scores of the model as it is, with k healthy maps of each target in each draw."""
    draws = []
    for number in numbers(k, adapt):
        drawn = {one.domain: draw(one.table, one.domain, k, number, adapt) for one in targets}
        draws.append({domain: Part(raw(got.normals)[1], got.reported) for domain, got in drawn.items()})
    positive = all((one.table["score"] > 0).all() for one in (source, *targets))  # the same for every k
    return replace(Stage.of(source.domain, source.table, draws), positive=positive)


# ------------------------------------------------------------------------------------- of an adapted model
def of_model(
    name: str,
    model: Model,
    maps: MultiDomainHDMAPDataModule,
    source: Scores,
    targets: Sequence[Scores],
    counts: Sequence[int],
    adapt: AdaptConfig,
    device: str,
    kept: Kept | None = None,
    progress: bool = False,
) -> Iterator[tuple[int, Stage]]:
    """For every k the scores of a model that the adapter `name` changes for each target and draw.

    The model stays as it is. `source` and `targets` are its own scores, on the maps of the module. Where the adapter
    changes features, these are computed once for all k and draws, and those in `kept` are there.
    """
    from hdmap_mlflow.adaptation.kept import Featured, Kept, named

    kept = kept or Kept(model, maps, device) if ADAPTERS[name].needs == "features" else None

    def loader(scores: Scores, rows: pd.DataFrame) -> Any:
        if kept:
            return Featured(kept, scores.domain, rows)
        return maps.named_dataloader(scores.domain, named(rows), str(rows["split"].iloc[0]))

    def again(adapted: Sequence[Model], scores: Scores, rows: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
        """Rows of maps with their scores: one set for each of some models, and most maps are in all sets."""
        if adapted[0] is model:
            return [*rows]
        if kept:
            from hdmap_mlflow.adaptation import memory

            every = pd.concat(rows).loc[lambda found: ~found.index.duplicated()]
            found = memory.scores(adapted, loader(scores, every))
            tables = [of.assign(score=pd.Series(one, every.index)) for of, one in zip(rows, found, strict=True)]
            if problem := next(filter(None, (scoring.not_finite(scores.domain, one) for one in tables)), ""):
                raise BadInput(f"{name}: {problem}")
            return tables
        return [of.assign(score=passed(one, scores, of)) for one, of in zip(adapted, rows, strict=True)]

    def passed(adapted: Model, scores: Scores, rows: pd.DataFrame) -> np.ndarray:
        split = str(rows["split"].iloc[0])
        found = scoring.score(adapted, loader(scores, rows), scores.domain, split, device, progress)
        return found.table["score"].to_numpy()

    def of(one: Scores, k: int, draws: Sequence[int]) -> list[Part]:
        drawn = [draw(one.table, one.domain, k, number, adapt) for number in draws]
        adapted = [on(loader(one, of_draw.normals) if k else None) for of_draw in drawn]
        tables = again([of_draw.model for of_draw in adapted], one, [of_draw.reported for of_draw in drawn])
        return [Part(was.own.astype(np.float64), table) for was, table in zip(adapted, tables, strict=True)]

    on = cast(FitModel, ADAPTERS[name].fit)(model, loader(source, source.part(REFERENCE)), device)
    own = on(None).model
    table = pd.concat([again([own], source, [source.part(split)])[0] for split in ("val", "test")])
    for k in counts:
        draws = numbers(k if ADAPTERS[name].protocol == K_NORMALS else 0, adapt)
        parts = {one.domain: of(one, k, draws) for one in targets}
        of_draws = [dict(zip(parts, of_draw, strict=True)) for of_draw in zip(*parts.values(), strict=True)]
        yield k, Stage.of(source.domain, table, of_draws, changed=True)


# ------------------------------------------------------------------------------------------ as they are kept
def with_columns(scores: Scores, stage: Stage, chain: Sequence[str], k: int) -> Scores:
    """A domain's scores with a column of those after a chain for each draw, `adapted/<chain>/k<k>/<draw>`.

    Where a map has none it is NaN.
    """
    if scores.domain == stage.source:
        tables = [stage.own.table]
    else:
        tables = [parts[scores.domain].table for parts in stage.draws if scores.domain in parts]
    columns = {adapted_scope(chain, k, str(number)): table["score"] for number, table in enumerate(tables)}
    return replace(scores, table=scores.table.assign(**columns))


def of_columns(source: Scores, targets: Sequence[Scores], chain: Sequence[str], k: int) -> Stage | None:
    """The stage that `with_columns` kept; None where the tables have no such columns."""

    def parts(one: Scores) -> list[Part]:
        columns = [name for name in one.table if str(name).startswith(adapted_scope(chain, k, ""))]
        tables = (one.table.assign(score=one.table[name]).dropna(subset="score") for name in columns)
        return [Part(np.empty(0), table) for table in tables]

    own, of_targets = parts(source), {one.domain: found for one in targets if (found := parts(one))}
    if not own or not of_targets:
        return None
    draws = [dict(zip(of_targets, drawn, strict=True)) for drawn in zip(*of_targets.values(), strict=True)]
    return Stage(source.domain, own[0], draws, positive=False, changed=True)
