"""A run's model into the registry, once it is verified, and only if it may be used."""

from __future__ import annotations

from dataclasses import dataclass

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import PREFIX, Tag
from hdmap_mlflow.runs import history, verify
from hdmap_mlflow.runs.history import RunRecord

NOTED = (*history.PROTOCOL, Tag.FINGERPRINT)  # tags of the run that its version has, too


@dataclass(frozen=True)
class Promoted:
    """A registered version: `models:/<name>@<alias>`, and what speaks against its use, if it was registered anyway."""

    name: str
    version: int
    alias: str
    objections: list[str]


def promote(
    uri: str,
    run_id: str,
    name: str,
    alias: str = "champion",
    data_root: str | None = None,
    anyway: bool = False,
    trust_model: bool = False,
) -> Promoted:
    """Verify a run and register its model. Raises BadInput for one that should not be used, unless `anyway`.

    Nor is a run registered that does not verify, or whose data is not that of the other versions of the name.
    """
    from hdmap_mlflow import tracking

    if not name.strip() or set(name) & set("/:"):
        raise BadInput(f"MLflow does not register '{name:.120}'; give --name a word without / and :")
    record = history.read_run(uri, run_id, scores=False)
    if record.status != "FINISHED":
        raise BadInput(f"run {run_id[:8]} is {record.status.lower()}; promote one that finished")
    against = objections(record)
    if against and not anyway:
        raise BadInput(f"run {run_id[:8]} {'; it '.join(against)}: it should not be used; promote another, or --anyway")
    if not (done := verify.verify(uri, run_id, data_root=data_root, trust_model=trust_model)).holds:
        worst = max(done.differences.values())
        raise BadInput(f"run {run_id[:8]} is not verified: its scores differ by {worst:.2g} sd; train it again")
    tags = {one: record.tags[one] for one in NOTED if one in record.tags}
    version = tracking.model.register(uri, record.run_id, name, alias, tags, anyway)
    return Promoted(name, version, alias, against)


def objections(record: RunRecord) -> list[str]:
    """What speaks against the use of a run's model, in words that follow `it`."""
    values = {
        Tag.ORACLE: ("true", "was chosen on its targets (an oracle)"),
        Tag.VALIDATION: ("source_test", "was validated on the maps that it reports (source_test)"),
        Tag.SIMULATED: ("true", "learned from simulated maps"),
        Tag.WEIGHTS: ("random", "has random weights where pretrained ones belong"),
    }
    said = {tag: record.tag(tag.removeprefix(PREFIX)).partition(":")[0] for tag in values}
    return [words for tag, (value, words) in values.items() if said[tag] == value]
