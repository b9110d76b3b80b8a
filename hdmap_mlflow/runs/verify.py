"""Does a run's checkpoint still give the scores that the run recorded? Rebuild it, score a sample, compare."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.process import using_cache
from hdmap_mlflow.runs import history, trained
from hdmap_mlflow.runs.history import RunRecord
from hdmap_mlflow.runs.rescore import rescore
from hdmap_mlflow.runs.trained import rebuilding

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


@using_cache()
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

    run = trained.load(uri, run_id, trust_model)
    record, config, model = run.record, run.config, run.model
    data = run.data(data_root)
    module, device = MultiDomainHDMAPDataModule(data.domains, config.data), run.device
    differences = {}
    if lost := sorted(set(data.names) - set(record.scores)):
        raise BadInput(f"run {run_id[:8]} keeps no scores of {', '.join(lost)}; train it again")
    for domain in data.names:
        stored = record.scores[domain].query("split == 'test'").reset_index(drop=True)
        rows = np.unique(np.linspace(0, len(stored) - 1, maps).round().astype(int))
        with rebuilding(run_id, Artifact.CONFIG):
            loader = module.chosen_dataloader(domain, rows.tolist())
            again = scoring.score(model, loader, domain, "test", device, False)
        chosen = stored.iloc[rows]
        if not history.same_maps(again.table, chosen):  # of another version, which ordered or split them otherwise
            raise BadInput(f"the reported maps of {domain} are not those that run {run_id[:8]} scored; train it again")
        gap = np.abs(again.table["score"].to_numpy(float) - chosen["score"].to_numpy(float)).max()
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
            complete = table.assign(image_row=row.astype(np.float32), recording=table.get("recording", ""))
            complete = complete[scoring.COLUMNS + [name for name in table if name not in scoring.COLUMNS]]
            written.artifact(scoring.write(scoring.Scores(domain, complete), Path(folder)), Artifact.SCORES)
    rescore(uri, history.read_run(uri, record.run_id))
