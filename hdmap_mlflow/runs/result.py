"""What a finished run says: the transfer table for people, and the guideline's result record for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hdmap_mlflow.adaptation import chain
from hdmap_mlflow.adaptation.outcome import COLUMNS, AdaptationCard, outcome, rows
from hdmap_mlflow.config import CheckedConfig, packaged_conditions
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION
from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.evaluation import cards, confounds, damage, metrics
from hdmap_mlflow.evaluation.cards import Bounds, Cards, bounds_of
from hdmap_mlflow.evaluation.metrics import METRICS, TRIVIAL
from hdmap_mlflow.evaluation.sample import FEWEST, MAPS, choose
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.names import (
    AUROC,
    MEAN_AUROC,
    ROW,
    SOURCE_AUROC,
    WORST_AUROC,
    Scope,
    metric_name,
    source_scope,
    sources_of,
    target_scope,
)

if TYPE_CHECKING:
    from hdmap_mlflow.runs.train import TrainingRecord

Distances = Mapping[str, Mapping[str, float]]
COMPARE = (
    f"To compare this run with others on MLflow's compare page, choose `{SOURCE_AUROC}` for the x-axis and "
    f"`{MEAN_AUROC}` for the y-axis; it opens on other ones."
)
PUBLISHED = "baseline"  # the condition of every model's file that leaves the published settings as they are
SIMULATED = "The maps are simulated: these figures say nothing about a real gearbox."


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves: its MLflow id and store, its configuration, domains and metrics by full name."""

    run_id: str
    uri: str
    config: CheckedConfig
    domains: Sequence[str]  # the source first
    counts: Mapping[str, int]  # reported maps per domain
    metrics: Mapping[str, float]
    simulated: bool
    cards: Cards = dataclasses.field(default_factory=Cards)
    sample: str = MAPS.name  # what intervals took for independent
    folder: Path = Path()  # in which all of it lies, too

    def scope(self, domain: str) -> str:
        return Scope.SOURCE if domain == self.domains[0] else target_scope(domain)

    def header(self) -> list[str]:
        """The transfer table's columns: a domain, its AUROC with the interval, the other metrics with a heading."""
        first, *others = (metric.heading for metric in METRICS.values() if metric.heading)
        return ["domain", "role", "maps", first, "95 % interval", *others]

    @property
    def grade(self) -> str | None:
        """The guideline's word for the transfer ratio; None where the source figure does not carry one."""
        ratio = self._transfer("ratio")
        return None if self.unproven() else "undefined" if ratio is None else metrics.grade(ratio)

    def unproven(self) -> str | None:
        """Which bar the lower bound of the source's AUROC does not clear, chance or a trivial score; None if it does.

        Also None where the source has no AUROC at all.
        """
        if SOURCE_AUROC not in self.metrics:
            return None
        trivial = {name: self.metrics[metric_name(Scope.SOURCE, name)] for name in self._trivial_names(Scope.SOURCE)}
        bars = {"chance": 0.5} | {METRICS[name].heading: value for name, value in trivial.items()}
        return cards.uncleared(bounds_of(self.cards, self.domains[0]), bars)

    def rows(self) -> list[list[str]]:
        """The transfer table: one row per domain, `-` where a metric is undefined."""
        rows, shown = [], [name for name, metric in METRICS.items() if metric.heading]
        for domain, role, scope in self._lines():
            values = [self.metrics.get(metric_name(scope, name)) for name in shown]
            cells = ["-" if value is None else f"{value:.3f}" for value in values]
            bounds = bounds_of(self.cards, domain)
            cells.insert(1, f"{bounds[0]:.3f}-{bounds[1]:.3f}" if bounds else "-")
            rows.append([domain, role, str(self.counts[domain]), *cells])
        return rows

    def _lines(self) -> list[tuple[str, str, str]]:
        """Domain, role and scope of each row of the table; several sources stand below their mean."""
        source, *targets = self.domains
        several = [(one, "source", source_scope(one)) for one in sources_of(source) if one != source]
        first = (source, "mean of sources" if several else "source", Scope.SOURCE)
        return [first, *several, *((domain, "target", target_scope(domain)) for domain in targets)]

    def bars(self) -> tuple[list[tuple[str, float, Bounds]], dict[str, float]]:
        """(domain, AUROC, interval) of every domain that has one, and the best trivial score of each domain."""
        rows, trivial = [], {}
        for domain in self.domains:
            auroc, bounds = self.metrics.get(metric_name(self.scope(domain), AUROC)), bounds_of(self.cards, domain)
            if auroc is not None and bounds:
                several = sources_of(domain)
                label = f"mean of {len(several)} sources" if len(several) > 1 else domain
                rows.append((label, auroc, bounds))
                trivial[label] = max(self._trivial(domain))
        return rows, trivial

    def _trivial(self, domain: str) -> list[float]:
        """What the trivial scores reach on a domain, where they are defined."""
        scope = self.scope(domain)
        return [self.metrics[metric_name(scope, name)] for name in self._trivial_names(scope)]

    def _trivial_names(self, scope: str) -> list[str]:
        names = [name for name, metric in METRICS.items() if metric.of in TRIVIAL]
        return [name for name in names if metric_name(scope, name) in self.metrics]

    def _transfer(self, name: str) -> float | None:
        return self.metrics.get(metric_name(Scope.TRANSFER, name))

    def verdict(self) -> str:
        """One line on how the image AUROC carries over, with the guideline's grade."""
        ratio, gap, skill = map(self._transfer, ("ratio", "gap", "skill"))
        mean, worst = self.metrics.get(MEAN_AUROC), self.metrics.get(WORST_AUROC)
        if ratio is None or mean is None:
            return "transfer: undefined, no target has both good and fault maps"
        if why := self.unproven():
            return f"target mean AUROC {mean:.3f}, worst {worst:.3f}; no grade: on the source {why}"
        return (
            f"target mean AUROC {mean:.3f}, worst {worst:.3f}; transfer ratio {ratio:.3f} ({self.grade}), "
            f"gap {gap:+.3f}, skill {'undefined' if skill is None else f'{skill:.3f}'}"
        )

    def adaptation(self) -> AdaptationCard | None:
        """The card of the run's own chain; None where it changes nothing, or could not be used."""
        card = cast(AdaptationCard | None, self.cards.get("adaptation"))
        if card is None or not chain.changes(self.config.adapt.adapters, card["k"]):
            return None
        return card if str(card["k"]) in card["curve"].get(card["chain"], {}) else None

    def remarks(self) -> list[str]:
        """What a reader must know beside the figures."""
        undefined = [row[0] for row in self.rows() if row[3] == "-"]
        lines = [SIMULATED if self.simulated else "", self._settings(), PROTOCOLS[self.config.data.validation].caution]
        if undefined:
            lines.append(f"AUROC is undefined for {', '.join(undefined)}: only one class of maps is there.")
        if why := self.unproven():
            lines.append(
                f"On the source the model is not shown to beat chance and the trivial scores ({why}): a transfer ratio "
                "and a grade would mean nothing."
            )
        lines += [f"Not adapted: {why}" for why in self._not_adapted()]
        lines += self._dependent()
        for domain, confound in self.cards.get("confounds", {}).items():
            lines += confounds.told(domain, confound)
        for domain, found in self.cards.get("severity", {}).items():
            lines.append(damage.told(domain, found))
        for domain, card in self.cards.get("saturation", {}).items():
            if card["alarm"]:
                share, clamped = card["clamped_fraction"], card["clamped_AUROC"]
                lines.append(
                    f"Saturation on {domain}: clamped to [0, 1] as anomalib does, {share:.0%} of its scores are at a "
                    f"clamp and the AUROC would read {clamped:.3f}."
                )
        lines.append(
            "F1, and the realised FPR and TPR (at the 99 % quantile of normals), are at thresholds of the source's "
            "validation maps; image max, image mean and row ratio are the AUROC of the trivial scores."
        )
        if self._trivial(self.domains[0]) and metric_name(Scope.SOURCE, ROW) not in self.metrics:
            lines.append("No row ratio is known of the source: two trivial scores are compared; hdmap verify adds it.")
        return [line for line in lines if line]

    def _not_adapted(self) -> list[str]:
        """Why the run's own chain is not in its record, though it was asked for."""
        adapt, card = self.config.adapt, self.cards.get("adaptation", {})
        why = card.get("left_out", {}).get(f"{chain.words(adapt.adapters)} {adapt.k}")
        return [why] if why and chain.changes(adapt.adapters, adapt.k) else []

    def _dependent(self) -> list[str]:
        """What the intervals know, or do not know, of maps that resemble one another."""
        lines = []
        for domain, card in self.cards.get("intervals", {}).items():
            named = {
                kind: count for kind in ("good", "fault") if isinstance(count := card.get(f"{kind}_recordings"), int)
            }
            bounds = card.get(f"independent_{AUROC}")
            if isinstance(bounds, list):
                lines.append(
                    f"{domain}: too few recordings for an interval ({_counted(named)}; {FEWEST} of each class are "
                    f"needed). For independent maps it would be {bounds[0]:.3f}-{bounds[1]:.3f}."
                )
        shared = self.cards.get("intervals", {}).get(self.domains[0], {}).get("shared_recordings")
        if shared and self.config.data.validation != "source_test":
            lines.append(
                f"{self.domains[0]}: {shared} recordings have validation maps and reported maps, for a class or a "
                "group has one recording only: the source's figures are optimistic."
            )
        if self.sample != MAPS.name:
            return lines
        for domain, classes in self.cards.get("dependence", {}).items():
            told = "; ".join(
                f"neighbouring {kind} maps correlate by {found['autocorrelation']:.2f}, so that {found['maps']} are "
                f"worth about {found['effective']:.0f}"
                for kind, found in classes.items()
            )
            lines.append(
                f"{domain}: intervals take its maps for independent, but files in their order resemble one another "
                f"({told}). Name their recordings in metadata.csv, or give evaluation.sample=order."
            )
        return lines

    def _settings(self) -> str:
        """What the weights and the condition let a reader expect, where that is less than the method's own."""
        model, condition = self.config.model, self.config.condition
        published = model.name in REGISTRY and condition != PUBLISHED
        way = f"published settings: `-P condition={PUBLISHED}`"
        entry = REGISTRY.get(model.name)
        if model.weights == "random" and not (entry and entry.from_scratch):
            return "random weights: this shows the flow, not the method" + (f"; {way}" if published else "")
        small = packaged_conditions(model.name).get(DEFAULT_CONDITION, {}).get("config") if published else None
        if condition == DEFAULT_CONDITION and small and not self.simulated:
            return f"{DEFAULT_CONDITION} has small settings, for a first look; {way}"
        return ""

    def markdown(self) -> str:
        """The description of the run that the MLflow UI shows."""
        lines = [f"**{self.config.name}** ({self.config.data.validation}) {self.config.description}".strip(), ""]
        lines += markdown_table(self.header(), self.rows(), left=2)
        if (card := self.adaptation()) is not None:
            lines += ["", f"{card['chain']} with {card['k']} healthy maps of each target (source only -> adapted):", ""]
            lines += markdown_table(["", *COLUMNS], rows(card, card["chain"], card["k"]))
        return "\n".join([*lines, "", self.verdict(), "", *(f"- {line}" for line in (*self.remarks(), COMPARE))])

    def record(self, training: TrainingRecord, checkpoint: Path, path: Path) -> dict[str, object]:
        """The guideline's result record (`result_<condition>_<timestamp>.json`)."""

        def of(scope: str) -> dict[str, float]:
            prefix = metric_name(scope, "")
            return {k.removeprefix(prefix): v for k, v in self.metrics.items() if k.startswith(prefix)}

        return {
            "condition": {
                "name": self.config.condition,
                "description": self.config.description,
                "config": self.config.flat(),
            },
            "experiment_name": self.config.name,
            "source_results": {"domain": self.domains[0], **of(Scope.SOURCE)},
            "target_results": {domain: of(target_scope(domain)) for domain in self.domains[1:]},
            "avg_target_auroc": self.metrics.get(MEAN_AUROC),
            "transfer": of(Scope.TRANSFER),
            "cards": dict(self.cards),
            "validation": {"strategy": self.config.data.validation, **of(Scope.VAL)},
            "training_info": dataclasses.asdict(training),
            "best_checkpoint": str(checkpoint),
            "experiment_path": str(path),
            "run_id": self.run_id,
            "simulated": self.simulated,
            "status": "success",
        }


def summarise(
    source: Scores,
    targets: list[Scores],
    distances: Distances,
    config: CheckedConfig,
    sample: str | None = None,
    **run: Any,
) -> Result:
    """The result of scores and of label-free distances from the source; `run` has the fields that these do not give.

    `sample` takes the place of the configured one.
    """
    tables = {scores.domain: scores.table for scores in (source, *targets)}  # the source first
    chosen = choose(sample or config.evaluation.sample, tables)
    repaired, built = (
        outcome(source, targets, config.adapt, chosen),
        cards.build(source, targets, distances, chosen),
    )
    if repaired.card:
        built["adaptation"] = {**repaired.card}
    return Result(
        config=config,
        domains=list(tables),
        counts={scores.domain: len(scores.part("test")) for scores in (*source.apart(), source, *targets)},
        metrics={**metrics.summary(source, targets), **repaired.metrics},
        cards=built,
        sample=chosen.name,
        **run,
    )


def _counted(recordings: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in recordings.items())
