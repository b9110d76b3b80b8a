"""Finished runs as plain records: what MLflow keeps of them, read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import CheckedConfig
from hdmap_mlflow.config.documents import read_json as read_plain
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.evaluation.cards import Cards
from hdmap_mlflow.evaluation.scoring import Scores, not_finite
from hdmap_mlflow.names import PREFIX, Artifact, Tag

if TYPE_CHECKING:
    from hdmap_mlflow.tracking.client import Run

NEEDED = ("path", "split", "label", "score", "image_max", "image_mean")  # columns of a table of scores
CARDS: TypeAdapter[dict[str, dict[str, Any]]] = TypeAdapter(dict[str, dict[str, Any]])


@dataclass(frozen=True)
class RunRecord:
    """One run: its settings by dotted name, metrics by full name, tags, and raw scores per domain (see `Scores`).

    `started` is in milliseconds since 1970. Nothing here needs MLflow or torch, so records can be made by hand.
    """

    run_id: str
    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    started: int = 0
    scores: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)
    cards: Cards = field(default_factory=Cards, repr=False)

    def tag(self, name: str) -> str:
        return self.tags.get(PREFIX + name, "")

    def part(self, split: str, domain: str) -> pd.DataFrame:
        """The scores of a domain's `val` or `test` maps."""
        table = self.scores[domain]
        return table[table["split"] == split]

    @property
    def source(self) -> str:
        return self.tag("source")

    @property
    def targets(self) -> list[str]:
        """Domains with scores beside the source, sorted."""
        return sorted(set(self.scores) - {self.source})


def read_run(uri: str, run_id: str, scores: bool = True) -> RunRecord:
    """One run. Raises BadInput for an unknown id, and for a run without scores where these are asked for."""
    from hdmap_mlflow import tracking

    return _record(uri, tracking.get_run(uri, run_id), scores)


def read_experiment(
    uri: str, experiment: str, kinds: Sequence[str] = ("run", "trial")
) -> tuple[list[RunRecord], list[str]]:
    """The finished runs of an experiment, newest first, and a line for each that is left out, with the reason.

    `kinds` are the tags `hdmap.kind` to read. Raises BadInput if no run is left.
    """
    from hdmap_mlflow import tracking

    records, left_out = [], []
    for run in tracking.find_runs(uri, experiment):
        if run.data.tags.get(Tag.KIND) not in kinds:
            continue
        name = f"{run.info.run_name} ({run.info.run_id[:8]})"
        if run.info.status != "FINISHED":
            reason = run.data.tags.get(Tag.REASON, "")
            left_out.append(f"{name}: {run.info.status.lower()}{': ' + reason if reason else ''}")
            continue
        try:
            records.append(_record(uri, run, True))
        except BadInput as problem:
            left_out.append(f"{name}: {problem}")
    if not records:
        why = f" ({left_out[0]})" if left_out else ""
        raise BadInput(f"experiment '{experiment}' has no finished run with scores{why}; train first")
    return records, left_out


def _record(uri: str, run: Run, scores: bool) -> RunRecord:
    found = read_scores(uri, run.info.run_id) if scores else {}
    data, info = run.data, run.info
    for tag in (Tag.SOURCE, Tag.MODEL, Tag.CONDITION, Tag.VALIDATION, Tag.DATA_DIGEST) if scores and found else ():
        if not data.tags.get(tag):
            raise BadInput(f"run {info.run_id} has no tag {tag}; train it again")
    if not data.params.get("train.seed", "0").isdecimal():
        raise BadInput(f"run {info.run_id} has train.seed={data.params['train.seed']}; train it again")
    try:
        cards: Cards = read_json(uri, info.run_id, Artifact.CARDS) if scores else {}
    except BadInput as problem:
        if "keeps no" not in str(problem):
            raise
        cards = {}  # a run from before the cards; `hdmap rescore` makes them
    try:
        CARDS.validate_python(cards)
    except ValidationError as error:
        raise BadInput(f"run {info.run_id}: {Artifact.CARDS} is damaged ({error.errors()[0]['msg']})") from None
    return RunRecord(
        info.run_id,
        info.run_name,
        info.status,
        data.params,
        data.metrics,
        data.tags,
        info.start_time or 0,
        found,
        cards,
    )


def read_scores(uri: str, run_id: str) -> dict[str, pd.DataFrame]:
    """`scores/<domain>.parquet` of a run. Raises BadInput that names the maps if a score is NaN or infinite."""
    from hdmap_mlflow import tracking

    files = sorted(tracking.artifacts(uri, run_id, Artifact.SCORES).iterdir())
    found = {}
    for path in files:
        try:
            found[path.stem] = pd.read_parquet(path)
        except Exception as error:  # whatever the reader makes of a damaged file
            raise BadInput(
                f"run {run_id}: scores/{path.name} cannot be read ({one_line(error)}); train it again"
            ) from None
    for domain, table in found.items():
        if problem := _flaw(table):
            raise BadInput(f"run {run_id}: scores/{domain}.parquet {problem}; train it again")
        if told := not_finite(domain, table):
            raise BadInput(f"run {run_id}: {told}; train it again")
    return found


def _flaw(table: pd.DataFrame) -> str | None:
    """What a table of scores lacks, or None."""
    if "score" in table and "path" in table and not_finite("", table):
        return None  # which is said with the names of the maps
    if lost := [name for name in NEEDED if name not in table]:
        return f"has no column {lost[0]}"
    if not set(table["label"]) <= {0, 1}:
        return "has labels beside 0 and 1"
    texts = [name for name in NEEDED[2:] if not pd.api.types.is_numeric_dtype(table[name])]
    return f"has no numbers in {texts[0]}" if texts else None


def same_maps(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables of scores hold the same maps, row by row: by content, for files may be renamed.

    Labels and maxima are compared exactly, means to 1e-5: another machine may sum a map in another order.
    """
    exact = all(np.array_equal(one[name], other[name]) for name in ("label", "image_max"))
    return exact and np.allclose(one["image_mean"], other["image_mean"], rtol=1e-5, atol=0)


def as_scores(record: RunRecord) -> tuple[Scores, list[Scores]]:
    """The scores of the source and of the targets, as a run had them."""
    if record.source not in record.scores:
        raise BadInput(f"run {record.run_id} keeps no scores of its source {record.source}; train it again")
    return Scores(record.source, record.scores[record.source]), [Scores(d, record.scores[d]) for d in record.targets]


def read_json(uri: str, run_id: str, name: str) -> Any:
    """A JSON artifact of a run. Raises BadInput if the run has none of that name."""
    from hdmap_mlflow import tracking

    try:
        return read_plain(Path(tracking.artifacts(uri, run_id, name)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"run {run_id}: {name} cannot be read ({one_line(error)}); train it again") from None


def read_config(uri: str, run_id: str) -> CheckedConfig:
    """The configuration that a run was made with."""
    try:
        return CheckedConfig.model_validate(read_json(uri, run_id, Artifact.CONFIG))
    except ValidationError as error:
        why = configuration.one_line(error)
        raise BadInput(f"run {run_id}: {Artifact.CONFIG} is damaged ({why}); train it again") from None
