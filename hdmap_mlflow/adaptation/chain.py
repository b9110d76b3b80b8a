"""Adapters one after another: one of the model at most, then those of scores."""

from __future__ import annotations

from collections.abc import Sequence

from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.annotations import Model
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.names import K_NORMALS, SOURCE_ONLY

Chain = tuple[str, ...]


def words(chain: Sequence[str]) -> str:
    """`merge+z`, as people and flags write it; `source_only` for none."""
    return "+".join(chain) or SOURCE_ONLY


def parse(text: str) -> Chain:
    """The adapters that a text names: `merge+z` or `merge,z`. Raises BadInput for one that is none."""
    chain = AdaptConfig(adapters=text).adapters  # type: ignore[arg-type,call-arg]
    check(chain, 0)
    return chain


def model_adapter(chain: Sequence[str]) -> str | None:
    """The adapter of the chain that changes the model, if it has one; it is the first."""
    return next((name for name in chain if not ADAPTERS[name].of_scores), None)


def protocol(chain: Sequence[str], k: int) -> str:
    """Whether healthy maps of the target are used: `k_normals` or `source_only`. The two are never ranked together."""
    return K_NORMALS if k and any(ADAPTERS[name].protocol == K_NORMALS for name in chain) else SOURCE_ONLY


def working(chain: Sequence[str], k: int) -> Chain:
    """The adapters that change anything: with k = 0 those that take no map of the target, and else all."""
    return tuple(name for name in chain if k or ADAPTERS[name].protocol == SOURCE_ONLY)


def changes(chain: Sequence[str], k: int) -> bool:
    return bool(working(chain, k))


def check(chain: Sequence[str], k: int) -> None:
    """Raise BadInput for an adapter that is none, an order that is none, and for fewer maps than an adapter takes."""
    for name in chain:
        if name not in ADAPTERS:
            raise BadInput(f"unknown adapter '{name}'{nearest(name, ADAPTERS)}; known: {', '.join(ADAPTERS)}")
        if 0 < k < ADAPTERS[name].least:
            raise BadInput(f"{name} needs adapt.k={ADAPTERS[name].least} or more, got {k}")
    if twice := next((name for name in chain if list(chain).count(name) > 1), None):
        raise BadInput(f"adapter {twice} stands twice in {words(chain)}; name it once")
    late = next((name for name in chain[1:] if not ADAPTERS[name].of_scores), None)
    if late:
        raise BadInput(
            f"{words(chain)}: {late} changes the model, and only the first of a chain may; "
            f"give {words([late, *(name for name in chain if ADAPTERS[name].of_scores)])}"
        )
    if k and chain and protocol(chain, k) == SOURCE_ONLY:
        raise BadInput(f"{words(chain)} takes no map of the target: give adapt.k=0, or add z")


def check_model(chain: Sequence[str], model: Model, name: str) -> None:
    """Raise BadInput where a model, or the class of one, cannot have an adapter of the chain; it lists those it can."""
    if lost := next((one for one in chain if not _can(ADAPTERS[one].needs, model)), None):
        able = [one for one, adapter in ADAPTERS.items() if _can(adapter.needs, model)]
        what = {"features": "features (a method `features`)", "network": "a network with BatchNorm"}[
            ADAPTERS[lost].needs
        ]
        raise BadInput(f"{lost} needs {what}, which {name} has not; it can have: {', '.join(able)}")


def _can(needs: str, model: Model) -> bool:
    """Of a class it is not known yet which layers its networks have."""
    if needs == "network" and not isinstance(model, type):
        return any("BatchNorm" in type(part).__name__ for part in model.modules())
    return needs != "features" or callable(getattr(model, "features", None))
