"""The tags by which a run is found and compared."""

from __future__ import annotations

from hdmap_mlflow import config as configuration
from hdmap_mlflow.adaptation import chain
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data.dataset import Dataset
from hdmap_mlflow.names import Tag


def identity_tags(config: RunConfig, data: Dataset, code: str = "") -> dict[str, str]:
    """The tags by which runs are found and compared; `code` is the model's digest where it is known already."""
    from hdmap_mlflow.models import registry, signature

    code = code or signature.code_digest(registry.find_model(config.model.name).path)
    return {
        Tag.MODEL: config.model.name,
        Tag.CONDITION: config.condition,
        Tag.SOURCE: config.data.source_domain,
        Tag.VALIDATION: config.data.validation,
        Tag.PROTOCOL: chain.protocol(config.adapt.adapters, config.adapt.k),
        Tag.FINGERPRINT: configuration.fingerprint(config, data.by_name, code),
        Tag.DATA_DIGEST: data.digest,
        Tag.SIMULATED: str(data.simulated).lower(),
        **({Tag.BUILT: data.built} if data.built else {}),
    }
