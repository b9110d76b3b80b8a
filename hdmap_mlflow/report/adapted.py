"""Runs as they are with k healthy maps of each target: views of them, and what that gains over source only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hdmap_mlflow.adaptation.chain import Chain, words
from hdmap_mlflow.adaptation.outcome import adapted, made
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.config.documents import read_yaml
from hdmap_mlflow.data.sources import apart
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.intervals import Comparison
from hdmap_mlflow.names import AUROC, Scope, Tag, adapted_scope, metric_name
from hdmap_mlflow.report.arrange import VIEW, Entry, mean
from hdmap_mlflow.report.stacks import of_targets, versus
from hdmap_mlflow.runs.history import RunRecord, as_scores

# What is shown of an adapted run beside itself source only, by heading.
BESIDE = {
    "pooled AUROC": metric_name(Scope.POOLED, AUROC),
    "FPR at 1 %": metric_name(Scope.TARGET_MEAN, "FPR_at_normal_q99"),
    "TPR at 1 %": metric_name(Scope.TARGET_MEAN, "TPR_at_normal_q99"),
}


def views_of(runs: Iterable[RunRecord]) -> tuple[dict[int, list[RunRecord]], list[str]]:
    """The views (see `view`) of runs by the number of maps, and a line for each that cannot be had, with the reason."""
    out: dict[int, list[RunRecord]] = {}
    left_out = []
    for run in runs:
        for chain, k in sorted(made(run.metrics)):
            try:
                out.setdefault(k, []).append(view(run, k, chain))
            except BadInput as problem:
                left_out.append(f"{run.name} ({run.run_id[:8]}), {words(chain)} with k = {k}: {problem}")
    return {k: some for k, some in sorted(out.items()) if some}, left_out


def view(run: RunRecord, k: int, chain: Chain) -> RunRecord:
    """The run as a chain of adapters and k maps made it; scores and metrics of before are `plain`.

    The maps are those that every draw reports; `score` is that of the first draw, `score@1` of the second ... Raises
    BadInput where the scores that it takes are not there.
    """
    settings = {
        name.removeprefix("adapt."): read_yaml(v) for name, v in run.params.items() if name.startswith("adapt.")
    }
    stage, _ = adapted(chain, k, *as_scores(run), AdaptConfig.model_validate(settings))
    scope, tables, sources = adapted_scope(chain, k, ""), {}, apart(stage.own.table, run.source)
    for domain, table in run.scores.items():
        own = [sources[domain]] if domain in sources else [parts[domain].table for parts in stage.draws]
        draws = [one.set_index(["split", "path"])["score"] for one in own]
        shown = table.set_index(["split", "path"], drop=False).rename_axis(["of", "map"])
        shown = shown[[all(key in one.index for one in draws) for key in shown.index]]
        moved = {f"score@{i}" if i else "score": one.loc[shown.index].to_numpy() for i, one in enumerate(draws)}
        tables[domain] = shown.assign(**{"plain": shown["score"]} | moved).reset_index(drop=True)
    metrics = {name: value for name, value in run.metrics.items() if name.startswith(f"{Scope.COST}/")}
    metrics |= {f"plain/{full}": run.metrics[full] for full in BESIDE.values() if full in run.metrics}
    metrics |= {name.removeprefix(scope): v for name, v in run.metrics.items() if name.startswith(scope)}
    identity = f"{run.tags.get(Tag.FINGERPRINT) or run.run_id}/{scope}"
    return replace(
        run, scores=tables, metrics=metrics, tags={**run.tags, Tag.FINGERPRINT: identity, VIEW: words(chain)}
    )


@dataclass(frozen=True)
class Gain:
    """What an entry gains that was adapted: over its own runs source only, on the same maps of the same targets.

    `auroc` is the paired comparison of the target means; `beside` has by heading of `BESIDE` the means over runs,
    source only and adapted.
    """

    auroc: Comparison | None
    beside: dict[str, tuple[float | None, float | None]]


def gain(entry: Entry, keys: Sequence[tuple[str, int]]) -> Gain:
    """Of an entry of views (see `view`), on some of its runs."""
    runs = [entry.runs[key] for key in keys]
    return Gain(
        versus(of_targets(entry, keys), of_targets(entry, keys, "plain")),
        {
            heading: (mean(r.metrics.get(f"plain/{full}") for r in runs), mean(r.metrics.get(full) for r in runs))
            for heading, full in BESIDE.items()
        },
    )
