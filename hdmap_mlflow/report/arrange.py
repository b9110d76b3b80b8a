"""Runs that may be compared, laid out as a grid: entry (a model in one setting) x source x seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from hdmap_mlflow.config import NOT_IDENTITY, unsaid
from hdmap_mlflow.data.sources import apart
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.intervals import placements
from hdmap_mlflow.evaluation.metrics import raw
from hdmap_mlflow.evaluation.sample import MAPS, Sample
from hdmap_mlflow.names import Tag, sources_of
from hdmap_mlflow.runs.history import RunRecord

# Settings in which runs of one entry may differ.
FREE = NOT_IDENTITY | {"condition", "data.source_domain", "data.target_domains", "data.split_seed", "train.seed"}
BOUGHT = {"train.max_epochs", "train.early_stopping_patience", "model.epochs"}  # free, too, where there is a budget

ALL_BUT = "all but the column's"  # the row of a matrix
VIEW = "view"  # a tag of adapted views of runs alone, which no run has: the chain of adapters


@dataclass(frozen=True)
class Entry:
    """A model in one setting, and its runs by (source, training seed)."""

    label: str
    runs: Mapping[tuple[str, int], RunRecord]

    @property
    def first(self) -> RunRecord:
        return next(iter(self.runs.values()))


def is_oracle(run: RunRecord) -> bool:
    """Whether a study chose the run's settings on target data."""
    return run.tag("oracle") == "true"


def sample_of(run: RunRecord) -> Sample:
    """What the run's intervals took for independent; runs of before took maps."""
    return Sample(run.tag("sample") or MAPS.name)


def reported(run: RunRecord, domain: str) -> pd.DataFrame:
    """The maps of a domain on which a run is reported, ordered by content: the data's digest ignores files' names.

    Where recordings are the sample, `unit` is the recording (or stretch of files) of each.
    """
    table = run.part("test", domain)
    if (units := sample_of(run).units(table)) is not None:
        table = table.assign(unit=units)
    order = np.lexsort([table["image_mean"], table["image_max"], table["label"]])  # the last is the first key
    return table.iloc[order].reset_index(drop=True)


def each_draw(table: pd.DataFrame, column: str = "score") -> list[pd.DataFrame]:
    """The table with a column as its `score`: once, or once for each draw of target maps (`score`, `score@1`, ...)."""
    names = [column, *(name for name in table if str(name).startswith(f"{column}@"))]
    return [table.assign(score=table[name]) for name in names]


def auroc(table: pd.DataFrame, column: str = "score") -> float | None:
    """AUROC of a column of scores, its mean over draws, or None where a class or a value is missing.

    Of several sources: their mean.
    """
    if "domain" in table:
        values = [auroc(part, column) for part in apart(table, "").values()]
        return None if None in values else mean(values)
    if column not in table or table[column].isna().any() or table["label"].nunique() < 2:
        return None
    return mean(placements(*raw(one)).auroc for one in each_draw(table, column))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined; None where none is."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _shared(entries: Sequence[Entry]) -> set[tuple[str, int]]:
    """The (source, seed) pairs that all of them have."""
    return set.intersection(*(set(entry.runs) for entry in entries)) if entries else set()


@dataclass(frozen=True)
class Grid:
    """Comparable runs: one data set, one protocol. `superseded` counts repeats of a run that were left out."""

    entries: Sequence[Entry]
    superseded: int

    @property
    def runs(self) -> list[RunRecord]:
        return [run for entry in self.entries for run in entry.runs.values()]

    @cached_property
    def domains(self) -> list[str]:
        return sorted({domain for run in self.runs for domain in run.scores})

    @cached_property
    def sources(self) -> list[str]:
        return sorted({run.source for run in self.runs})

    def left_out(self, source: str) -> str:
        """The domain that is none of several sources which are all others; empty for other sources."""
        sources = set(sources_of(source))
        rest = [domain for domain in self.domains if domain not in sources]
        return rest[0] if len(sources) > 1 and len(rest) == 1 else ""

    @cached_property
    def rows(self) -> list[str]:
        """The rows of a matrix: the sources, and as one row those that are all domains but the column's."""
        whole = [source for source in self.sources if not self.left_out(source)]
        return whole + [ALL_BUT] * (len(whole) < len(self.sources))

    def source_of(self, row: str, domain: str) -> str:
        """The source of a matrix's cell by its row and its column; empty where no run has it."""
        return row if row != ALL_BUT else next((s for s in self.sources if self.left_out(s) == domain), "")

    @cached_property
    def complete(self) -> list[Entry]:
        """The entries that are ranked; the others lack (source, seed) pairs that most of these have.

        Of the entries, those with the most usual pairs first, the first n are taken that share the largest block of
        runs: an unfinished entry does not shrink it, nor does an extra run of one. None where there is no such block.
        """
        usual = Counter(pair for entry in self.entries for pair in entry.runs)
        likely = sorted(self.entries, key=lambda entry: (-sum(usual[pair] for pair in entry.runs), entry.label))
        blocks = [likely[: n + 1] for n in range(len(likely))]
        block = max(blocks, key=lambda some: (len(some) * len(_shared(some)), len(some)))
        within = Counter(pair for entry in block for pair in entry.runs)
        expected = {pair for pair, count in within.items() if 2 * count > len(block)}
        finished = [entry for entry in block if expected <= entry.runs.keys()]
        chosen = finished if len(finished) > 1 else block
        others = [entry for entry in self.entries if entry.label != chosen[0].label]
        if len(chosen) == 1 and any(len(entry.runs) >= len(chosen[0].runs) for entry in others):
            return []  # each has runs of its own, and none is more finished than another
        return sorted(chosen, key=lambda entry: entry.label)

    @cached_property
    def common(self) -> list[tuple[str, int]]:
        """The (source, seed) pairs that every complete entry has: only on these are entries compared."""
        return sorted(_shared(self.complete))

    def compared(self, entry: Entry) -> list[tuple[str, int]]:
        """The pairs on which an entry is judged: those of all complete ones, or its own if it is not one of them."""
        return self.common if any(entry.label == one.label for one in self.complete) else sorted(entry.runs)

    def lacks(self, entry: Entry) -> list[tuple[str, int]]:
        """The pairs of the complete entries that an entry has no run of."""
        return [pair for pair in self.common if pair not in entry.runs]

    def missing(self) -> list[str]:
        """What a full grid would have and this one has not."""
        everything = sorted({key for entry in self.entries for key in entry.runs})
        lines = [
            f"{entry.label}: no run from {source} with seed {seed}"
            for entry in self.entries
            for source, seed in everything
            if (source, seed) not in entry.runs
        ]
        trained = {domain for run in self.runs for domain in run.sources}
        for domain in (d for d in self.domains if d not in trained):
            lines.append(f"no run was trained on {domain}")
        for domain in self.domains:
            tables = [reported(run, domain) for run in self.runs if domain in run.scores]
            if all(auroc(table) is None for table in tables):
                lines.append(f"{domain}: one class of maps only, so it has no AUROC")
        return lines


def choose(
    records: Sequence[RunRecord], validation: str | None = None, data_digest: str | None = None
) -> list[RunRecord]:
    """The runs of a protocol and of data whose digest begins so."""
    chosen = [r for r in records if validation in (None, r.tag("validation"))]
    return [r for r in chosen if data_digest is None or r.tag("data_digest").startswith(data_digest)]


def arrange(records: Sequence[RunRecord], validation: str | None = None, data_digest: str | None = None) -> Grid:
    """Lay out runs, the newest of each fingerprint, after a filter by protocol and data.

    Raises BadInput if what is left differs in the data or in the protocol: such runs cannot be ranked.
    """
    chosen = choose(records, validation, data_digest)
    if not chosen:
        raise BadInput("no finished run is of that data and protocol; leave --data-digest and --validation out to see")
    _refuse_mixtures(chosen)
    newest: dict[str, RunRecord] = {}
    for record in sorted(chosen, key=lambda r: (r.started, r.run_id)):
        newest[record.tag("fingerprint") or record.run_id] = record
    kept = list(newest.values())
    groups: dict[tuple, dict[tuple[str, int], RunRecord]] = {}
    for record in kept:
        key = (record.source, int(record.params.get("train.seed", 0)))
        groups.setdefault(_setting(record), {})[key] = record  # another split seed of the same run: the newest stands
    labels = _labels(list(groups))
    entries = [Entry(labels[setting], dict(sorted(runs.items()))) for setting, runs in groups.items()]
    used = sum(len(entry.runs) for entry in entries)
    return Grid(sorted(entries, key=lambda e: e.label), len(chosen) - used)


def _refuse_mixtures(records: Sequence[RunRecord]) -> None:
    checks = {
        f"data (tag {Tag.DATA_DIGEST})": (lambda r: r.tag("data_digest"), "--data-digest"),
        f"protocol (tag {Tag.VALIDATION})": (lambda r: r.tag("validation"), "--validation"),
        f"sample of their intervals (tag {Tag.SAMPLE})": (lambda r: sample_of(r).name, "hdmap rescore --sample"),
        "share of validation maps": (lambda r: r.params.get("data.val_fraction", "null"), "--experiment"),
    }
    for what, (of, flag) in checks.items():
        found = Counter(of(record) for record in records)
        if len(found) > 1:
            counts = ", ".join(f"{n} with {value or 'none'}" for value, n in found.most_common())
            raise BadInput(
                f"the runs differ in their {what}: {counts}; these cannot be ranked together: choose one with {flag}"
            )


def settings_of(record: RunRecord) -> dict[str, str]:
    """The settings of a run that make its entry, by dotted name; what else MLflow logs of a project is none."""
    fixed = {k: v for k, v in record.params.items() if k.startswith(("data.", "model.", "train.", "score."))}
    if fixed.get("train.budget", "null") != "null":  # it buys more epochs of a small source than of a large one
        fixed = {k: v for k, v in fixed.items() if k not in BOUGHT}
    return {k: fixed[k] for k in sorted(fixed) if k not in FREE and not unsaid(k, fixed[k])}


def _setting(record: RunRecord) -> tuple:
    return (record.tag("model"), record.tag("condition"), record.tags.get(VIEW, ""), tuple(settings_of(record).items()))


def _labels(settings: Sequence[tuple]) -> dict[tuple, str]:
    """`model/condition`, after it the adapters and the settings that tell apart entries of one name."""
    out = {}
    for setting in settings:
        model, condition, adapters, own = *setting[:3], dict(setting[3])
        same = [dict(other[3]) for other in settings if other[:3] == setting[:3]]
        differing = sorted(k for k in own if any(other.get(k) != own[k] for other in same))
        details = ", ".join(f"{key.partition('.')[2]}={own[key]}" for key in differing)
        name = f"{model}/{condition}" + (f", {adapters}" if adapters else "")
        out[setting] = name + (f" ({details})" if details else "")
    return out
