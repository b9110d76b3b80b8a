"""Which settings make a run what it is, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from functools import cache

from hdmap_mlflow.config.settings import ModelConfig, RunConfig

# Where a run happens and what is kept of it does not change its numbers.
NOT_IDENTITY = {
    "data.root",
    "data.workers",
    "data.packed",
    "data.feature_cache_mb",
    "data.eval_batch_size",
    "train.device",
    "train.engine",
    "evaluation.sample",
}
# Settings of later versions: at their defaults a run is the one that it was before.
LATER = ("adapt.", "score.", "train.budget", "train.frozen_precision", "data.resize")
OF_MODELS = {  # settings of a model, with the value that they then had
    "model.row_context": "[]",
    "model.topk_ratio": "1.0",
    "model.row_dropout": "0.0",
    "model.kv_dropout": "0.0",
}


def fingerprint(config: RunConfig, data: str, code: str) -> str:
    """Identity of a run, 16 hex digits: its settings, the content of its data and the code of its model.

    `data` is the content of every domain by its name; `code` is `signature.code_digest`: of the model's source, of
    this package's version and the libraries'. Two runs with one fingerprint are the same run: relaunching is safe.
    """
    text = json.dumps([identifying(config), data, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identifying(config: RunConfig) -> dict[str, str]:
    """The settings that change a run's numbers, as they are logged."""
    return {
        name: value
        for name, value in config.flat().items()
        if name not in NOT_IDENTITY and not name.startswith("tracking.") and not unsaid(name, value)
    }


def unsaid(name: str, value: str) -> bool:
    """Whether a setting, as it is logged, is one of a later version at its default: older runs do not have it."""
    return value == OF_MODELS.get(name) or name.startswith(LATER) and value == _defaults().get(name)


@cache
def _defaults() -> dict[str, str]:
    return RunConfig(condition="", model=ModelConfig(name="")).flat()
