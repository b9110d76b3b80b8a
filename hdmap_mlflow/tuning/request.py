"""A search as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL


@dataclass(frozen=True)
class SearchRequest:
    """A search as it is asked for.

    `objective` is val_auroc, val_auroc with seconds or memory behind a comma, or target_mean (an oracle). `timeout` is
    in seconds, None for no limit; `pruner` None is the one that suits; `study` None is named after model, condition and
    source; `refit_seeds` is a comma list, empty for no refit.
    """

    model: str = DEFAULT_MODEL
    condition: str = DEFAULT_CONDITION
    condition_file: str | None = None
    flags: Mapping[str, object] = field(default_factory=dict)
    overrides: str = ""
    objective: str = "val_auroc"
    trials: int = 20
    timeout: float | None = None
    sampler: str = "tpe"
    pruner: str | None = None
    storage: str = "sqlite:///optuna.db"
    study: str | None = None
    refit_seeds: str = "0,1,2"
