"""Search spaces as they stand beside a model's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Space = dict[str, Mapping[str, Any]]


def rate(published: float) -> Space:
    """The learning rate, ten times less to four times more than published."""
    return {"train.learning_rate": {"type": "float", "low": published / 10, "high": published * 4, "log": True}}


def among(setting: str, *choices: Any) -> Space:
    return {f"model.{setting}": {"type": "categorical", "choices": list(choices)}}


def whole(setting: str, low: int, high: int, step: int = 1) -> Space:
    return {f"model.{setting}": {"type": "int", "low": low, "high": high, "step": step}}


def real(setting: str, low: float, high: float, log: bool = False) -> Space:
    return {f"model.{setting}": {"type": "float", "low": low, "high": high, "log": log}}


def only(setting: str, values: tuple[Any, ...], space: Space) -> Space:
    """What matters only at some values of another setting."""
    return {name: {**law, "when": {f"model.{setting}": list(values)}} for name, law in space.items()}
