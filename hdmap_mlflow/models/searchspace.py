"""Search spaces as they stand beside a model's defaults: settings by dotted name, each with the values to draw from."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

Plain = bool | int | float | str | None
Number = TypeVar("Number", bound=int | float)


class _Dimension(BaseModel):
    """What a setting is drawn from.

    `when` names other settings and the values of them at which this one matters; at others it is not drawn. `holds`
    says whether a value can be drawn, `ends` are the values to check before a search starts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    when: dict[str, tuple[Plain, ...]] = {}

    def describe(self) -> str:
        """As a person writes it; without pipes, for it stands in Markdown tables."""
        at = [f"{name} = {' or '.join(map(str, values))}" for name, values in self.when.items()]
        return str(self) + (f" (when {' and '.join(at)})" if at else "")


class Categorical(_Dimension):
    """A set of choices."""

    type: Literal["categorical"] = "categorical"
    choices: Annotated[tuple[Plain, ...], Field(min_length=1)]

    @field_validator("choices")
    @classmethod
    def _distinct(cls, choices: tuple[Plain, ...]) -> tuple[Plain, ...]:
        for i, one in enumerate(choices):
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{one} is no choice")
            if any(type(one) is type(other) and one == other for other in choices[:i]):
                raise ValueError(f"{one!r} stands twice")
        return choices

    def __str__(self) -> str:
        return " or ".join(map(str, self.choices))

    def holds(self, value: object) -> bool:
        return value in self.choices

    def ends(self) -> tuple[Plain, ...]:
        return self.choices


class _Range(_Dimension, Generic[Number]):
    """`low` to `high`, both included, in steps or drawn on a logarithmic scale."""

    unit: ClassVar[int] = 0  # the step where none is given
    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @field_validator("low", "high", "step", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, bool | str):
            raise ValueError("Input should be a number")
        return value

    @model_validator(mode="after")
    def _possible(self) -> _Range:
        if self.low > self.high:  # type: ignore[operator]
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, it is {self.low}")
        if self.step is not None and (self.step <= 0 or (self.log and self.step != self.unit)):
            raise ValueError(f"step {self.step} must be above 0, and goes without log")
        if not self.holds(self.high):
            raise ValueError(f"step {self.step} from low {self.low} never reaches high {self.high}")
        return self

    def __str__(self) -> str:
        step = f", step {self.step:g}" if (self.step or 1) != 1 else ""
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "") + step

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        step = self.step or self.unit
        steps = (value - self.low) / step if step else 0.0
        return abs(steps - round(steps)) < 1e-9

    def ends(self) -> tuple[Plain, ...]:
        return self.low, self.high


class Float(_Range[int | float]):
    """A real number; without steps where it is drawn on a logarithmic scale."""

    type: Literal["float"] = "float"


class Int(_Range[Annotated[int, Field(strict=True)]]):
    """A whole number."""

    unit: ClassVar[int] = 1
    type: Literal["int"] = "int"


Dimension = Float | Int | Categorical
Dimensions = dict[str, Dimension]
DIMENSION: TypeAdapter[Dimension] = TypeAdapter(Annotated[Dimension, Field(discriminator="type")])


def rate(published: float) -> Dimensions:
    """The learning rate, ten times less to four times more than published."""
    return {"train.learning_rate": Float(low=published / 10, high=published * 4, log=True)}


def among(setting: str, *choices: Plain) -> Dimensions:
    return {f"model.{setting}": Categorical(choices=choices)}


def whole(setting: str, low: int, high: int, step: int = 1) -> Dimensions:
    return {f"model.{setting}": Int(low=low, high=high, step=step)}


def real(setting: str, low: float, high: float, log: bool = False) -> Dimensions:
    return {f"model.{setting}": Float(low=low, high=high, log=log)}


def only(setting: str, values: tuple[Plain, ...], dimensions: Dimensions) -> Dimensions:
    """What matters only at some values of another setting."""
    return {name: one.model_copy(update={"when": {f"model.{setting}": values}}) for name, one in dimensions.items()}
