"""A trial that is given up early: the pruners, and the hook in a trial's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import optuna
from optuna.trial import Trial

from hdmap_mlflow.errors import Pruned
from hdmap_mlflow.tuning.storage import StudyStorage

PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "none": lambda epochs: optuna.pruners.NopPruner(),
    "median": lambda epochs: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 5)),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
}


def pruning(
    storage: str, study: str, trial_id: int, pruner: str, epochs: int
) -> Callable[[Mapping[str, float], int], None]:
    """A child's hook: reports every epoch's validation AUROC to the study, and stops the run that it gives up."""
    found = optuna.load_study(
        study_name=study,
        storage=StudyStorage.of(storage).open(),
        pruner=PRUNERS[pruner](epochs),
        sampler=optuna.samplers.RandomSampler(),
    )
    trial = Trial(found, trial_id)

    def on_epoch(values: Mapping[str, float], epoch: int) -> None:
        trial.report(values["val_image_AUROC"], epoch)
        if trial.should_prune():
            raise Pruned(f"pruned at epoch {epoch} by {pruner}: validation AUROC {values['val_image_AUROC']:.4f}")

    return on_epoch
