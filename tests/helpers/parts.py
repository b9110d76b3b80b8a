"""Stand-ins for the parts of a model under test."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BARE: dict[str, Any] = {"pre_processor": False, "post_processor": False, "visualizer": False, "evaluator": False}


class Called(nn.Module):
    """A network replaced by a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Any) -> Any:
        return self.function(*given)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def logs(model: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What a model logs from now on, and how."""
    values: dict[str, float] = {}
    how: list[dict[str, Any]] = []
    model.log = lambda name, value, **given: (values.update({name: float(value)}), how.append(given))
    model.log_dict = lambda parts, **given: (values.update({k: float(v) for k, v in parts.items()}), how.append(given))
    return values, how
