"""The one table of models: where each one's class is, what it needs, its published defaults and its search space.

Adding a model is adding an entry; a class of the user's own is named as `package.module:Class` and needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hdmap_mlflow.config import nearest
from hdmap_mlflow.errors import BadInput


@dataclass(frozen=True)
class ModelEntry:
    """What the flow must know of a model.

    `path` is `module:Class`; `trains` says whether epochs of gradient descent improve it (else one pass fits it);
    `weights` is `backbone` where the class takes `backbone` and `pre_trained`, `none` where it starts from scratch;
    `defaults` are the published settings, flat or dotted as in a condition file; `space` is the search space, a
    setting to `{"type", "low", "high", "log", "step"}` or `{"type": "categorical", "choices"}`.
    """

    path: str
    paper: str
    trains: bool
    weights: Literal["backbone", "none"] = "backbone"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backbones: str = ""  # prefix of the architectures that it takes, where it does not take all of timm
    size_multiple: int = 1  # height and width of its input are multiples of this


REGISTRY: dict[str, ModelEntry] = {
    "patchcore": ModelEntry(
        path="anomalib.models:Patchcore",
        paper="Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
        trains=False,
        defaults={"backbone": "wide_resnet50_2", "layers": ["layer2", "layer3"]}
        | {"coreset_sampling_ratio": 0.1, "num_neighbors": 9},
        space={
            "model.coreset_sampling_ratio": {"type": "float", "low": 0.01, "high": 0.25, "log": True},
            "model.num_neighbors": {"type": "int", "low": 1, "high": 15},
        },
    ),
    "padim": ModelEntry(
        path="anomalib.models:Padim",
        paper="Defard et al., PaDiM: a Patch Distribution Modeling Framework, ICPR 2021",
        trains=False,
        defaults={"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"], "n_features": 100},
        space={"model.n_features": {"type": "int", "low": 30, "high": 120, "step": 10}},
    ),
    "reverse_distillation": ModelEntry(
        path="anomalib.models:ReverseDistillation",
        paper="Deng and Li, Anomaly Detection via Reverse Distillation from One-Class Embedding, CVPR 2022",
        trains=True,
        defaults={"backbone": "wide_resnet50_2", "layers": ["layer1", "layer2", "layer3"], "anomaly_map_mode": "add"}
        | {"max_epochs": 200, "learning_rate": 0.005, "batch_size": 16},
        space={
            "train.learning_rate": {"type": "float", "low": 1e-4, "high": 2e-2, "log": True},
            "model.anomaly_map_mode": {"type": "categorical", "choices": ["add", "multiply"]},
        },
        backbones="resnet resnext wide_resnet",
        size_multiple=32,
    ),
}


def find_model(name: str) -> ModelEntry:
    """The entry of a model, or one made on the spot for a class named `package.module:Class`.

    Raises BadInput that names the nearest known model.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    raise BadInput(f"unknown model '{name}'{nearest(name, REGISTRY)}; known: {', '.join(REGISTRY)}")
