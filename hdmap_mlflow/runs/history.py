"""Finished runs as plain records: what MLflow keeps of them, read back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydantic import BaseModel, FiniteFloat, ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.annotations import Content, Document
from hdmap_mlflow.config import CheckedConfig
from hdmap_mlflow.config.documents import read_json as read_plain
from hdmap_mlflow.data.sources import join
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.evaluation.cards import Cards
from hdmap_mlflow.evaluation.scoring import Scores, not_finite, of_sources
from hdmap_mlflow.names import PREFIX, Artifact, Tag, domain_flaw, sources_of

if TYPE_CHECKING:
    from hdmap_mlflow.tracking.client import Run

NEEDED = ("path", "split", "label", "score", "image_max", "image_mean")  # columns of a table of scores
NUMBERS = NEEDED[2:]
PROTOCOL = (Tag.SOURCE, Tag.MODEL, Tag.CONDITION, Tag.VALIDATION, Tag.DATA_DIGEST)  # without which none is compared


class _Saturation(BaseModel, strict=True):
    alarm: bool
    image_AUROC: FiniteFloat
    clamped_AUROC: FiniteFloat


class _Adaptation(BaseModel, strict=True, extra="allow"):
    chain: str
    k: int
    curve: dict[str, dict[str, dict[str, dict[str, dict[str, FiniteFloat | list[FiniteFloat]]]]]]


class _Cards(BaseModel, strict=True, extra="allow"):
    """What is read of the cards that a run kept."""

    __pydantic_extra__: dict[str, Document]
    shift: dict[str, dict[str, FiniteFloat]] = {}
    saturation: dict[str, _Saturation] = {}
    adaptation: _Adaptation | None = None


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
        table = self.table(domain)
        return table[table["split"] == split]

    def table(self, domain: str) -> pd.DataFrame:
        """The scores of a domain; of the source, where there are several, those of all (see `data.sources`)."""
        if domain in self.scores or domain != self.source:
            return self.scores[domain]
        return join({name: self.scores[name] for name in self.sources})

    @property
    def sources(self) -> list[str]:
        """The domains that `source` names."""
        return sources_of(self.source)

    @property
    def source(self) -> str:
        return self.tag("source")

    @property
    def targets(self) -> list[str]:
        """Domains with scores beside the sources, sorted."""
        return sorted(set(self.scores) - set(self.sources))


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
    data, info = run.data, run.info
    found = read_scores(uri, info.run_id) if scores else {}
    if scores and (flaw := disagree(data.tags, found)):
        raise BadInput(f"run {info.run_id} {flaw}; train it again")
    seed = data.params.get("train.seed", "0")
    if not re.fullmatch("[0-9]{1,10}", seed):
        raise BadInput(f"run {info.run_id} has train.seed={seed:.80}; train it again")
    try:
        cards: Cards = read_json(uri, info.run_id, Artifact.CARDS) if scores else {}
    except BadInput as problem:
        if "keeps no" not in str(problem):
            raise
        cards = {}  # a run from before the cards; `hdmap rescore` makes them
    try:
        _Cards.model_validate(cards)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
        raise BadInput(f"run {info.run_id}: {Artifact.CARDS} is damaged ({why}); train it again") from None
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

    return read_tables(tracking.artifacts(uri, run_id, Artifact.SCORES), f"run {run_id}")


def read_tables(folder: Path, who: str) -> dict[str, pd.DataFrame]:
    """The tables of scores in a folder, by domain; `who` names it in what is raised."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            found[path.stem] = pd.read_parquet(path)
        except Exception as error:  # whatever the reader makes of a damaged file
            raise BadInput(f"{who}: scores/{path.name} cannot be read ({one_line(error)}); train it again") from None
    for domain, table in found.items():
        if problem := domain_flaw(domain) or _flaw(domain, table):
            raise BadInput(f"{who}: scores/{domain}.parquet {problem}; train it again")
    if not found:
        raise BadInput(f"{who} keeps no scores; train it again")
    return {domain: table if "group" in table else table.assign(group="") for domain, table in found.items()}


def _flaw(domain: str, table: pd.DataFrame) -> str:
    """What a table of scores lacks; empty for a whole one."""
    if lost := [name for name in NEEDED if name not in table]:
        return f"has no column {lost[0]}"
    if texts := [name for name in NUMBERS if not pd.api.types.is_numeric_dtype(table[name])]:
        return f"has no numbers in {texts[0]}"
    if told := not_finite(domain, table):
        return f"cannot be used: {told}"
    if broken := [name for name in NUMBERS if not np.isfinite(table[name].astype(float)).all()]:
        return f"has NaN or infinite values in {broken[0]}"
    if not set(table["label"]) <= {0, 1}:
        return "has labels beside 0 and 1"
    if not all(isinstance(path, str) for path in table["path"]):
        return "has paths that are no texts"
    return "" if (table["split"] == "test").any() else "has no reported maps (split test)"


def disagree(tags: Mapping[str, str], found: Mapping[str, pd.DataFrame]) -> str:
    """What the tags of a run lack, or have that its scores have not; empty where they agree."""
    if lost := [tag for tag in PROTOCOL if not tags.get(tag)]:
        return f"has no tag {lost[0]}"
    sources = sources_of(tags[Tag.SOURCE])
    if flaw := configuration.name_problem(tags[Tag.CONDITION]):  # they become names of files
        return f"has a tag {Tag.CONDITION} that {flaw}"
    for source in sources:
        if flaw := domain_flaw(source):
            return f"has a tag {Tag.SOURCE} that {flaw}"
        if source not in found:
            return f"keeps no scores of its source {source}"
        if not (found[source]["split"] == "val").any():
            return f"keeps no validation scores of its source {source}"
    return ""


def same_maps(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables of scores hold the same maps, row by row: by content, for files may be renamed.

    Labels and maxima are compared exactly, means to 1e-5: another machine may sum a map in another order.
    """
    exact = all(np.array_equal(one[name], other[name]) for name in ("label", "image_max"))
    return exact and np.allclose(one["image_mean"], other["image_mean"], rtol=1e-5, atol=0)


def as_scores(record: RunRecord) -> tuple[Scores, list[Scores]]:
    """The scores of the source and of the targets, as a run had them."""
    if lost := set(record.sources) - set(record.scores):
        raise BadInput(f"run {record.run_id} keeps no scores of its source {min(lost)}; train it again")
    source = of_sources([Scores(name, record.scores[name]) for name in record.sources])
    return source, [Scores(d, record.scores[d]) for d in record.targets]


def read_json(uri: str, run_id: str, name: str) -> Content:
    """A JSON artifact of a run. Raises BadInput if the run has none of that name."""
    from hdmap_mlflow import tracking

    try:
        return read_plain(Path(tracking.artifacts(uri, run_id, name)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"run {run_id}: {name} cannot be read ({one_line(error)}); train it again") from None


def read_file(path: Path) -> Content:
    """A JSON file. Raises BadInput that names it."""
    try:
        return read_plain(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read ({one_line(error)}); export the run again") from None


def read_config(uri: str, run_id: str) -> CheckedConfig:
    """The configuration that a run was made with."""
    try:
        return CheckedConfig.model_validate(read_json(uri, run_id, Artifact.CONFIG))
    except ValidationError as error:
        why = configuration.one_line(error)
        raise BadInput(f"run {run_id}: {Artifact.CONFIG} is damaged ({why}); train it again") from None
