"""The tags by which a run is found and compared."""

from __future__ import annotations

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data.dataset import Dataset


def identity_tags(config: RunConfig, data: Dataset, code: str = "") -> dict[str, str]:
    """The tags by which runs are found and compared; `code` is the model's digest where it is known already."""
    from hdmap_mlflow.models import registry, signature

    code = code or signature.code_digest(registry.find_model(config.model.name).path)
    return {
        "hdmap.model": config.model.name,
        "hdmap.condition": config.condition,
        "hdmap.source": config.data.source_domain,
        "hdmap.validation": config.data.validation,
        "hdmap.fingerprint": configuration.fingerprint(config, data.by_name, code),
        "hdmap.data_digest": data.digest,
        "hdmap.simulated": str(data.simulated).lower(),
    }
