"""The steps of a run, each of which returns a value: prepare -> (fit, in `train`) -> score; and what exists by now."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hdmap_mlflow.adaptation import draw
from hdmap_mlflow.config import AdaptConfig, CheckedConfig
from hdmap_mlflow.data.dataset import Dataset
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import REFERENCE
from hdmap_mlflow.runs.extras import Extras
from hdmap_mlflow.runs.result import Result

if TYPE_CHECKING:
    from hdmap_mlflow.adaptation.kept import Kept
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.runs.train import AnomalibModule, Fitted


@dataclass(frozen=True)
class Prepared:
    """A new model, the maps that it is fitted to and scored on, and its device.

    `weights` are their source and digest, `engine` is what computes its frozen backbones.
    """

    model: AnomalibModule
    datamodule: MultiDomainHDMAPDataModule
    device: str
    weights: str
    engine: str


class Scored(NamedTuple):
    """Raw scores of the source (validation and reported maps; of several joined) and of every target (reported maps).

    Of each also those of some healthy maps, which adapters draw from.
    """

    source: Scores
    targets: list[Scores]

    def apart(self) -> list[Scores]:
        """Those of each domain, the sources first."""
        return [*self.source.apart(), *self.targets]


@dataclass
class Run:
    """What exists of a run by now: the value of each step that it came through."""

    config: CheckedConfig
    folder: Path
    prepared: Prepared | None = None
    fitted: Fitted | None = None
    scored: Scored | None = None
    result: Result | None = None


def prepare(config: CheckedConfig, data: Dataset, extras: Extras) -> Prepared:
    """Build the model from its seed, and the sets of maps. Raises BadInput if its device or weights are not there."""
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.models import backbones, builder
    from hdmap_mlflow.models.parts import engine, features
    from hdmap_mlflow.runs import train

    device = train.accelerator(config.train.device)
    train.seed(config.train)
    model, computes = builder.build(config), "torch"
    if engine.wanted(config, device):
        with extras("OpenVINO, torch goes on") if engine.optional(config) else contextlib.nullcontext():
            computes = engine.attach(model, config)
    with extras("the cache of features"):
        features.reuse(model, config.data.feature_cache_mb, config.data.image_size)
    datamodule = MultiDomainHDMAPDataModule(data.domains, config.data, config.train.limit_val_batches)
    return Prepared(model, datamodule, device, f"{config.model.weights}:{backbones.weights_digest(model)}", computes)


def scored(
    model: AnomalibModule,
    module: MultiDomainHDMAPDataModule,
    domain: str,
    split: str,
    adapt: AdaptConfig,
    device: str,
    progress: bool = False,
    shown: int = 0,
    kept: Kept | None = None,
) -> Scores:
    """The scores of one split of a domain; of `reference` those of the maps that adapters may draw from.

    The features that the maps have meanwhile are `kept` where there is somewhere to keep them.
    """
    if split == REFERENCE:
        rows = draw.pool(module.scored[domain, split], domain, adapt)
        loader = module.chosen_dataloader(domain, rows.tolist(), split)
    else:
        loader = module.scoring_dataloader(domain, split)
    with kept.watching(domain, loader) if kept else contextlib.nullcontext():
        return scoring.score(model, loader, domain, split, device, progress, shown if split == "test" else 0)


def score(
    ready: Prepared,
    sources: Sequence[str],
    targets: Sequence[str],
    adapt: AdaptConfig,
    progress: bool,
    pictures: int = 0,
    kept: Kept | None = None,
) -> Scored:
    """Score every map of the domains with the fitted model, and healthy maps for adapters.

    The anomaly maps of as many `pictures` of each kind are kept. Which good maps are most wrong is known with the
    threshold, at the end: they are among twice as many, as those that are most anomalous get no second picture.
    """

    def one(domain: str, split: str) -> Scores:
        place = (ready.datamodule, domain, split)
        return scored(ready.model, *place, adapt, ready.device, progress, 2 * pictures, kept)

    def of_source(source: str) -> Scores:
        tested = one(source, "test")
        # With validation=source_test both are the same maps, scored once.
        val, test = (ready.datamodule.scored[source, split]["path"] for split in ("val", "test"))
        validated = tested.as_split("val") if val.equals(test) else one(source, "val")
        return scoring.join(validated, tested, one(source, REFERENCE))

    return Scored(
        scoring.of_sources([of_source(source) for source in sources]),
        [scoring.join(one(name, "test"), one(name, REFERENCE)) for name in targets],
    )
