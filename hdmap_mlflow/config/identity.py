"""Which settings make a run what it is, and its fingerprint."""

from __future__ import annotations

import hashlib
import json

from hdmap_mlflow.config.settings import RunConfig

# Where a run happens and what is kept of it does not change its numbers.
NOT_IDENTITY = {
    "data.root",
    "data.workers",
    "data.packed",
    "data.feature_cache_mb",
    "data.eval_batch_size",
    "train.device",
    "evaluation.sample",
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
    return {k: v for k, v in config.flat().items() if k not in NOT_IDENTITY and not k.startswith("tracking.")}
