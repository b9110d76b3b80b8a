"""Every metric of finished runs once more, from their stored scores: no model, no data, no GPU."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from math import isclose

from hdmap_mlflow.adaptation import outcome
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.runs import history
from hdmap_mlflow.runs.history import RunRecord
from hdmap_mlflow.runs.result import summarise

DISTANCES = ("intensity", "feature_MMD")  # measured from maps, so they are kept as they were


@dataclass(frozen=True)
class Rescored:
    """What re-scoring a run brought: metrics that it did not have, and metrics whose value is another one now."""

    name: str
    run_id: str
    new: list[str]
    changed: list[str]
    adapted: bool = True  # False: the run keeps no scores of healthy maps that adapters could draw from


def rescore(uri: str, record: RunRecord, sample: str | None = None) -> Rescored:
    """Recompute the metrics and cards of one run and log what is new or different.

    `sample` takes the place of what the run's intervals took for independent.

    Pixel metrics need anomaly maps, which are not kept: they stay as they were.
    """
    from hdmap_mlflow import tracking

    source, targets = history.as_scores(record)
    config, simulated = history.read_config(uri, record.run_id), record.tag("simulated") == "true"
    result = summarise(
        source,
        targets,
        _distances(uri, record.run_id),
        run_id=record.run_id,
        uri=uri,
        config=config,
        simulated=simulated,
        sample=sample,
    )
    measured, known = {**result.metrics}, record.metrics
    if "adaptation" in record.cards and "adaptation" in result.cards:  # `hdmap adapt` may have added to it
        card = result.cards["adaptation"]
        card["curve"] = outcome.joined(record.cards["adaptation"]["curve"], card["curve"])
        for chain, k in outcome.made(known):
            with contextlib.suppress(BadInput):  # of maps that only `hdmap adapt` saw
                again = outcome.of_chain(chain, k, source, targets, config.adapt)
                measured |= {name: value for name, value in again.items() if name in known}
    new = sorted(name for name in measured if name not in known)
    changed = sorted(n for n in measured if n in known and not isclose(measured[n], known[n], rel_tol=1e-9))
    written = tracking.reopen(uri, record.run_id)
    if new or changed:
        written.metrics({name: measured[name] for name in (*new, *changed)})
    written.json(result.cards, Artifact.CARDS)
    written.tags({Tag.SAMPLE: result.sample})
    written.note(replace(result, metrics={**known, **measured}).markdown())
    return Rescored(record.name, record.run_id, new, changed, "adaptation" in result.cards)


def _distances(uri: str, run_id: str) -> dict[str, dict[str, float]]:
    try:
        kept = history.read_json(uri, run_id, Artifact.CARDS).get("shift", {})
    except BadInput:  # a run from before the cards
        return {}
    return {domain: {name: card[name] for name in DISTANCES if name in card} for domain, card in kept.items()}
