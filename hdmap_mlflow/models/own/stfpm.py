"""Student-Teacher Feature Pyramid Matching, whose frozen teacher looks at a map once for all epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.models.image import Stfpm as _Stfpm
from torch import Tensor, nn

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.models.parts.features import Features

TEACHER = "teacher_model."


class Stfpm(_Stfpm):
    """Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021."""

    model: Model

    def __init__(
        self, backbone: str = "resnet18", layers: Sequence[str] = ("layer1", "layer2", "layer3"), **components: Any
    ) -> None:
        super().__init__(backbone, layers, **components)
        self.model.teacher_model = Features(self.model.teacher_model)
        self.model.student_model.to(memory_format=torch.channels_last)
        self.model.register_load_state_dict_pre_hook(_of_before)


def _of_before(_model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Checkpoints of before have the teacher's weights without the name of the part that now keeps its features."""
    before, now = prefix + TEACHER, f"{prefix}{TEACHER}extractor."
    for name in [name for name in state if name.startswith(before) and not name.startswith(now)]:
        state[now + name.removeprefix(before)] = state.pop(name)
