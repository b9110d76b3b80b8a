"""Does a run's checkpoint still give the scores that the run recorded? Rebuild it, score a sample, compare."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.runs import history
from hdmap_mlflow.runs.history import RunRecord
from hdmap_mlflow.runs.rescore import rescore

if TYPE_CHECKING:
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

TOLERANCE = 1e-3  # of the spread (sd) of a domain's stored scores; another device or BLAS moves the last digits


@dataclass(frozen=True)
class Verified:
    """Largest difference between a stored and a repeated score a domain, in units of the sd of its stored scores."""

    run_id: str
    maps: int
    differences: dict[str, float]

    @property
    def holds(self) -> bool:
        return all(difference <= TOLERANCE for difference in self.differences.values())


def verify(uri: str, run_id: str, maps: int = 16, data_root: str | None = None, trust_model: bool = False) -> Verified:
    """Score `maps` reported maps of every domain again and stamp the run with the tag `hdmap.verified`.

    A run of before gets the row ratio of its maps, too: no model is needed for that, but the maps are.
    `data_root` says where the data is on this machine. A class that is not of the registry is code named by whoever
    made the run: it is imported only where `trust_model` says so. Raises BadInput where the run, its checkpoint or its
    scores are missing, and where the data here is not the data that the run read.
    """
    from hdmap_mlflow import tracking
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.evaluation import scoring
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import train

    logging.getLogger("timm").setLevel(logging.ERROR)  # tells of the classifier's weights, which no backbone needs
    record = history.read_run(uri, run_id)
    config = history.read_config(uri, run_id)
    if config.model.name not in REGISTRY and not trust_model:
        raise BadInput(
            f"run {run_id[:8]} names {config.model.name}, whose module would be imported and run here; "
            "look at it, then give --trust-model"
        )
    if data_root:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": data_root})})
    checkpoint = next(tracking.artifacts(uri, run_id, Artifact.CHECKPOINT).iterdir(), None)
    if checkpoint is None:
        raise BadInput(f"run {run_id} keeps no checkpoint; train it again")
    data = dataset.read(config)
    if data.digest != record.tag("data_digest"):
        raise BadInput(
            f"the data in {data.root} (digest {data.digest}) is not what run {run_id[:8]} read "
            f"({record.tag('data_digest')}); give --data-root FOLDER"
        )
    train.seed(config.train)
    with _rebuilding(run_id, Artifact.CONFIG):
        model = builder.build(config, fetch=False)
    with _rebuilding(run_id, "its checkpoint"):
        train.load_checkpoint(model, checkpoint)
    module, device = MultiDomainHDMAPDataModule(data.domains, config.data), train.accelerator(config.train.device)
    differences = {}
    if lost := sorted(set(data.names) - set(record.scores)):
        raise BadInput(f"run {run_id[:8]} keeps no scores of {', '.join(lost)}; train it again")
    for domain in data.names:
        stored = record.scores[domain].query("split == 'test'").reset_index(drop=True)
        rows = np.unique(np.linspace(0, len(stored) - 1, maps).round().astype(int))
        with _rebuilding(run_id, Artifact.CONFIG):
            loader = module.chosen_dataloader(domain, rows.tolist())
            again = scoring.score(model, loader, domain, "test", device, False)
        kept = stored.iloc[rows]
        if not history.same_maps(again.table, kept):  # of another version, which ordered or split them otherwise
            raise BadInput(f"the reported maps of {domain} are not those that run {run_id[:8]} scored; train it again")
        gap = np.abs(again.table["score"].to_numpy(float) - kept["score"].to_numpy(float)).max()
        differences[domain] = float(gap / (stored["score"].astype(float).std() or 1.0))
    if any("image_row" not in table for table in record.scores.values()):
        _add_row_ratio(uri, record, module)
    outcome = Verified(run_id, maps, differences)
    verdict = f"{'yes' if outcome.holds else 'NO'}, {datetime.now(UTC):%Y-%m-%d}: {maps} maps per domain scored again, "
    verdict += f"largest difference {max(differences.values()):.2g} sd"
    tracking.reopen(uri, run_id).tags({Tag.VERIFIED: verdict})
    return outcome


def _add_row_ratio(uri: str, record: RunRecord, module: MultiDomainHDMAPDataModule) -> None:
    """Write the trivial score that older score tables lack, and what is measured from it."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.evaluation import scoring

    written = tracking.reopen(uri, record.run_id)
    with tempfile.TemporaryDirectory() as folder:
        for domain, table in record.scores.items():
            row = pd.Series(np.nan, table.index)
            for split, kept in table.groupby("split"):
                batches = [
                    scoring.trivial(batch.image[:, 0]) for batch in module.scoring_dataloader(domain, str(split))
                ]
                again = pd.DataFrame({name: np.concatenate([one[name] for one in batches]) for name in batches[0]})
                if not history.same_maps(again.assign(label=module.scored[domain, str(split)]["label"]), kept):
                    raise BadInput(f"the {split} maps of {domain} are not those that the run scored; train it again")
                row[kept.index] = again["image_row"].to_numpy()
            complete = table.assign(image_row=row.astype(np.float32), recording=table.get("recording", ""))[
                scoring.COLUMNS
            ]
            written.artifact(scoring.write(scoring.Scores(domain, complete), Path(folder)), Artifact.SCORES)
    rescore(uri, history.read_run(uri, record.run_id))


@contextlib.contextmanager
def _rebuilding(run_id: str, part: str) -> Iterator[None]:
    """Whatever the libraries raise of a record that does not fit together, in one line."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"run {run_id}: {part} cannot be used ({one_line(error)}); train it again") from None
