"""What a finished run says: the transfer table for people, and the guideline's result record for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hdmap_mlflow.config import CheckedConfig
from hdmap_mlflow.evaluation import cards, metrics
from hdmap_mlflow.evaluation.metrics import metric_name, target_scope
from hdmap_mlflow.evaluation.scoring import Scores

Distances = Mapping[str, Mapping[str, float]]
COLUMNS = {
    "image_AUROC": "AUROC",
    "image_AP": "AP",
    "image_F1": "F1",
    "FPR_at_normal_q99": "FPR",
    "TPR_at_normal_q99": "TPR",
    "baseline_max_AUROC": "image max",
    "baseline_mean_AUROC": "image mean",
}
TRIVIAL = ("baseline_max_AUROC", "baseline_mean_AUROC")
HEADER = ("domain", "role", "maps", "AUROC", "95 % interval", *list(COLUMNS.values())[1:])
WARNINGS = {
    "source_test": "Validation and report use the same source maps (`source_test`): the source figures are optimistic.",
    "source_holdout": "",
    "synthetic": "",
}
SIMULATED = "The maps are simulated: these figures say nothing about a real gearbox."


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves: its MLflow id and store, its configuration, domains and metrics by full name."""

    run_id: str
    uri: str
    config: CheckedConfig
    domains: Sequence[str]  # the source first
    counts: Mapping[str, int]  # reported maps a domain
    metrics: Mapping[str, float]
    simulated: bool
    cards: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def grade(self) -> str:
        """The guideline's word for the transfer ratio."""
        ratio = self.metrics.get("transfer/ratio")
        return "undefined" if ratio is None else metrics.grade(ratio)

    @property
    def _scopes(self) -> dict[str, str]:
        return {domain: target_scope(domain) if i else "source" for i, domain in enumerate(self.domains)}

    def rows(self) -> list[list[str]]:
        """The transfer table: one row per domain, `-` where a metric is undefined."""
        rows = []
        for domain, scope in self._scopes.items():
            values = [self.metrics.get(metric_name(scope, name)) for name in COLUMNS]
            cells = ["-" if value is None else f"{value:.3f}" for value in values]
            bounds = self._bounds(domain)
            cells.insert(1, f"{bounds[0]:.3f}-{bounds[1]:.3f}" if bounds else "-")
            rows.append([domain, scope.partition("/")[0], str(self.counts[domain]), *cells])
        return rows

    def _bounds(self, domain: str) -> list[float] | None:
        return self.cards.get("intervals", {}).get(domain, {}).get("image_AUROC")

    def bars(self) -> tuple[list[tuple[str, float, list[float]]], dict[str, float]]:
        """(domain, AUROC, interval) of every domain that has one, and the better trivial score of each domain."""
        rows, trivial = [], {}
        for domain, scope in self._scopes.items():
            auroc, bounds = self.metrics.get(metric_name(scope, "image_AUROC")), self._bounds(domain)
            if auroc is not None and bounds:
                rows.append((domain, auroc, bounds))
                trivial[domain] = max(self.metrics[metric_name(scope, name)] for name in TRIVIAL)
        return rows, trivial

    def verdict(self) -> str:
        """One line on how the image AUROC carries over, with the guideline's grade."""
        get = self.metrics.get
        ratio, mean = get("transfer/ratio"), get("target_mean/image_AUROC")
        if ratio is None or mean is None:
            return "transfer: undefined, no target has both good and fault maps"
        skill = f"{get('transfer/skill'):.3f}" if "transfer/skill" in self.metrics else "undefined"
        return (
            f"target mean AUROC {mean:.3f}, worst {get('target_worst/image_AUROC'):.3f}; transfer ratio {ratio:.3f} "
            f"({self.grade}), gap {get('transfer/gap'):+.3f}, skill {skill}"
        )

    def remarks(self) -> list[str]:
        """What a reader must know beside the figures."""
        undefined = [row[0] for row in self.rows() if row[3] == "-"]
        lines = [SIMULATED if self.simulated else "", WARNINGS[self.config.data.validation]]
        if undefined:
            lines.append(f"AUROC is undefined for {', '.join(undefined)}: only one class of maps is there.")
        scores = [self.metrics.get(metric_name("source", name)) for name in ("image_AUROC", *TRIVIAL)]
        defined = [score for score in scores if score is not None]
        if scores[0] is not None and scores[0] <= max(0.5, *defined[1:]):
            lines.append("On the source the model does not beat chance and the trivial scores: its transfer ratio and "
                         "grade mean nothing.")  # fmt: skip
        for domain, card in self.cards.get("saturation", {}).items():
            if card["alarm"]:
                share, clamped = card["clamped_fraction"], card["clamped_AUROC"]
                lines.append(
                    f"Saturation on {domain}: clamped to [0, 1] as anomalib does, {share:.0%} of its scores are at a "
                    f"clamp and the AUROC would read {clamped:.3f}."
                )
        lines.append(
            "F1, and the realised FPR and TPR (at the 99 % quantile of normals), are at thresholds of the source's "
            "validation maps; image max and image mean are the AUROC of the trivial scores."
        )
        return [line for line in lines if line]

    def markdown(self) -> str:
        """The description of the run that the MLflow UI shows."""
        lines = [f"**{self.config.name}** ({self.config.data.validation}) {self.config.description}".strip(), ""]
        lines += ["| " + " | ".join(HEADER) + " |", "|---|---|" + "---:|" * (len(HEADER) - 2)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        return "\n".join([*lines, "", self.verdict(), "", *(f"- {line}" for line in self.remarks())])

    def record(self, training: Any, checkpoint: Path, path: Path) -> dict[str, Any]:
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
            "source_results": {"domain": self.domains[0], **of("source")},
            "target_results": {domain: of(target_scope(domain)) for domain in self.domains[1:]},
            "avg_target_auroc": self.metrics.get("target_mean/image_AUROC"),
            "transfer": of("transfer"),
            "cards": dict(self.cards),
            "validation": {"strategy": self.config.data.validation, **of("val")},
            "training_info": dataclasses.asdict(training),
            "best_checkpoint": str(checkpoint),
            "experiment_path": str(path),
            "run_id": self.run_id,
            "simulated": self.simulated,
            "status": "success",
        }


def summarise(source: Scores, targets: list[Scores], distances: Distances, **run: Any) -> Result:
    """The result of scores and of label-free distances from the source; `run` has the fields that these do not give."""
    counts = {scores.domain: len(scores.part("test")) for scores in (source, *targets)}
    measured, told = metrics.summary(source, targets), cards.build(source, targets, distances)
    return Result(domains=list(counts), counts=counts, metrics=measured, cards=told, **run)
