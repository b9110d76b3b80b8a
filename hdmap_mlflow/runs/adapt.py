"""Adapters for a finished run: on the scores that it keeps, or on its model rebuilt; nothing is trained again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hdmap_mlflow.adaptation import outcome
from hdmap_mlflow.adaptation.chain import check, check_model, model_adapter, words, working
from hdmap_mlflow.adaptation.outcome import AdaptationCard
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import AdaptConfig, CheckedConfig, with_values
from hdmap_mlflow.data import layout
from hdmap_mlflow.data.folder import find_domains
from hdmap_mlflow.data.layout import Domain
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.sample import choose
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import REFERENCE, Artifact, Scope, adapted_scope
from hdmap_mlflow.runs import history, steps, trained
from hdmap_mlflow.runs.history import RunRecord

ANOTHER_UNIT = 100  # times as bright as the source's maps: no gain of a machine


def adapt(
    uri: str,
    run_id: str,
    chain: Sequence[str],
    k: int,
    data_root: str | None = None,
    targets: Sequence[str] = (),
    trust_model: bool = False,
) -> AdaptationCard:
    """Adapt a run with k healthy maps of each target and record what that brings beside what the run has.

    Adapters of scores need nothing but the scores that the run keeps. One of the model, and a `data_root`, need the
    model, which is rebuilt as by `verify`. A `data_root` without the run's targets, or `targets` named there, are new
    ones: of them alone the metrics are recorded then. Raises BadInput where the run, its maps or its scores do not do.
    """
    from hdmap_mlflow import tracking

    check(chain, k)
    chain = tuple(chain)
    if not working(chain, k):
        raise BadInput(f"{words(chain)} with k={k} changes nothing; give --k 16, or another number of healthy maps")
    record, config = history.read_run(uri, run_id), history.read_config(uri, run_id)
    settings = with_values(config, {"adapt.adapters": list(chain), "adapt.k": k}).adapt
    source, scored = history.as_scores(record)
    new = False
    if data_root or model_adapter(chain):
        again = _Again(uri, record, config, settings, data_root, targets, trust_model)
        source, scored, new = again.score(source, scored)
    elif settings.taken_from == "train" and not all(len(one.part(REFERENCE)) for one in scored):
        raise BadInput(
            f"run {run_id[:8]} keeps no reference scores, which adapters draw from; give --data-root FOLDER to score "
            "healthy maps with its model, or train it again"
        )
    sample = choose(
        record.tag("sample") or config.evaluation.sample, {one.domain: one.table for one in (source, *scored)}
    )
    found = outcome.outcome(source, scored, settings, sample)
    if found.card is None or (why := found.card["left_out"].get(f"{words(chain)} {k}")):
        raise BadInput(f"run {run_id[:8]} cannot be adapted: {why if found.card else 'it has no target'}")
    written = tracking.reopen(uri, run_id)
    if new:  # means over the run's own targets keep their names for themselves
        own = adapted_scope(chain, k, f"{Scope.TARGET}/")
        written.metrics({name: value for name, value in found.metrics.items() if name.startswith(own)})
        return found.card
    with tempfile.TemporaryDirectory() as folder:
        for one in (*source.apart(), *scored):
            if list(one.table) != list(record.scores[one.domain]) or len(one.table) != len(record.scores[one.domain]):
                written.artifact(scoring.write(one, Path(folder)), Artifact.SCORES)
    written.metrics(found.metrics)
    cards = record.cards
    kept = cards.get("adaptation") or Document(found.card)
    cards["adaptation"] = kept | {"curve": outcome.joined(kept["curve"], found.card["curve"])}
    written.json(cards, Artifact.CARDS)
    return found.card


class _Again:
    """The model of a run and the maps that it is to score."""

    def __init__(
        self,
        uri: str,
        record: RunRecord,
        config: CheckedConfig,
        adapt: AdaptConfig,
        data_root: str | None,
        targets: Sequence[str],
        trust_model: bool,
    ) -> None:
        from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

        run = trained.load(uri, record.run_id, trust_model)
        self.record, self.adapt = record, adapt
        self.root = layout.find_root(data_root or config.data.root)
        self.new = self._new_targets(targets)
        domains = self._with_source(config) if self.new else run.data(data_root).domains
        self.model, self.device = run.model, run.device
        check_model(adapt.adapters, self.model, config.model.name)
        self.module = MultiDomainHDMAPDataModule(domains, config.data)

    def _new_targets(self, given: Sequence[str]) -> list[str]:
        """Those that were named, or in a root that lacks some of its targets all domains that the run does not know."""
        known, there = self.record.scores, find_domains(self.root)
        for name in given:
            if name in known:
                raise BadInput(f"{name} is a domain of run {self.record.run_id[:8]}; leave it out of --target-domains")
            if name not in there:
                raise BadInput(f"unknown domain '{name}' below {self.root}; known: {', '.join(there)}")
        if given or set(self.record.targets) <= set(there):
            return list(given)
        return [name for name in there if name not in known]

    def _with_source(self, config: CheckedConfig) -> list[Domain]:
        """The source, of the new root or of the run's, and the new domains."""
        sources = config.data.sources
        home = self.root if set(sources) <= set(find_domains(self.root)) else Path(config.data.root)
        lost = [name for name in sources if config.data.root != "demo" and not (home / name).is_dir()]
        if home != self.root and lost:
            raise BadInput(
                f"{self.root} has no {lost[0]}, which run {self.record.run_id[:8]} trained on, nor has {home}"
            )
        home = layout.find_root(str(home))

        def read(root: Path, name: str, pack: bool) -> Domain:
            return layout.read_domain(home if name in sources else root, name, pack)

        names, count = [*sources, *self.new], len(sources)
        domains = layout.read_domains(self.root, names, config.data.packed, read, count)
        for own in domains[:count]:
            stored = self.record.part("test", own.name)["image_max"].to_numpy(np.float32)
            if not np.isin(stored, own.table["maximum"].to_numpy(np.float32)).all():
                raise BadInput(
                    f"{home / own.name} is not what run {self.record.run_id[:8]} was trained on; rename the folder"
                )
        for domain in domains[count:]:
            if flaw := _other_preparation(domains[0], domain):
                raise BadInput(f"{domain.folder} {flaw}; make its maps as those of {domains[0].name} were made")
        return domains

    def score(self, source: Scores, targets: list[Scores]) -> tuple[Scores, list[Scores], bool]:
        """Scores of the source and of the targets, which are the new domains where there are some."""
        if self.new:
            targets = [self._one(name, "test") for name in self.new]
        own, found = (
            [one if len(one.part(REFERENCE)) else scoring.join(one, self._one(one.domain, REFERENCE)) for one in some]
            for some in (source.apart(), targets)
        )
        repaired = outcome.score(self.model, self.module, scoring.of_sources(own), found, self.adapt, self.device)
        return *repaired, bool(self.new)

    def _one(self, domain: str, split: str) -> Scores:
        return steps.scored(self.model, self.module, domain, split, self.adapt, self.device)


def _other_preparation(source: Domain, domain: Domain) -> str:
    """Why a domain's maps cannot have been made as the source's; empty where they may have been."""
    means = [float(one.table["mean"][one.table["split"] == "train"].abs().median()) for one in (source, domain)]
    if min(means) * ANOTHER_UNIT < max(means):
        return f"has maps of another unit (mean {means[1]:.3g}, in {source.name} {means[0]:.3g})"
    return ""
