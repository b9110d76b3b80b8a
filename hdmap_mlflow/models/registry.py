"""The one table of models: where each one's class is, what it needs, its published defaults and its search space.

Adding a model is adding an entry to `one_pass` or `epochs`; a class of the user's own is named as
`package.module:Class` and needs none. Left out of anomalib 2.7: `cfm` (needs point clouds) and `vlm_ad` (asks a
language model, has no score).
"""

from __future__ import annotations

from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.models.entry import ModelEntry, Needs, Weights
from hdmap_mlflow.models.epochs import EPOCHS
from hdmap_mlflow.models.one_pass import ONE_PASS

REGISTRY: dict[str, ModelEntry] = ONE_PASS | EPOCHS


def find_model(name: str) -> ModelEntry:
    """The entry of a model, or one made on the spot for a class named `package.module:Class`.

    A class that takes `backbone` gets weights as the registry's models do, and maps normalised for them; another gets
    maps in their own unit. Raises BadInput that names the nearest known model.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if ":" not in name:
        raise BadInput(
            f"unknown model '{name}'{nearest(name, REGISTRY)}; known: {', '.join(REGISTRY)}; "
            "a class of your own is package.module:Class"
        )
    from hdmap_mlflow.models import signature

    weights = Weights() if "backbone" in signature.parameters(name) else None
    return ModelEntry(name, paper="", trains=None, weights=weights, needs=Needs(least=1, scaled=weights is not None))
