"""The gears of a spec, and which of their teeth meet when."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hdmap_mlflow.config.settings import Whole
from hdmap_mlflow.config.spec import Part

Teeth = Annotated[Whole, Field(ge=3, le=2000)]


class _Gears(Part):
    """Two gears that mesh: the map's rows are the teeth of the one, its columns those of the other."""

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @property
    @abstractmethod
    def columns(self) -> int: ...

    @property
    @abstractmethod
    def per_turn(self) -> int:
        """Meshes in one turn of the reference shaft."""

    @property
    def period(self) -> int:
        """Meshes until the same two teeth meet again."""
        return math.lcm(self.rows, self.columns)

    @model_validator(mode="after")
    def _all_cells_meet(self) -> _Gears:
        if (common := math.gcd(self.rows, self.columns)) > 1:
            raise ValueError(
                f"{self.rows} and {self.columns} teeth share the factor {common}: only {self.period:,} of "
                f"{self.rows * self.columns:,} pairs of teeth ever meet, where row - column is a multiple of {common} "
                f"(row 0 never meets column 1), so that no whole map can be built"
            )
        return self


class Planetary(_Gears):
    """A planetary stage with a fixed ring. Rows: teeth of a planet. Columns: teeth of the ring. Reference: carrier."""

    kind: Literal["planetary"]
    planet: Teeth
    ring: Teeth
    sun: Teeth
    planets: Annotated[Whole, Field(ge=1, le=20)]

    @property
    def rows(self) -> int:
        return self.planet

    @property
    def columns(self) -> int:
        return self.ring

    @property
    def per_turn(self) -> int:
        return self.ring

    @model_validator(mode="after")
    def _fits(self) -> Planetary:
        if (self.ring + self.sun) % self.planets:
            raise ValueError(
                f"{self.planets} evenly spaced planets do not fit between ring {self.ring} and sun {self.sun} "
                f"(their sum is no multiple of {self.planets}); correct the numbers of teeth"
            )
        return self


class Pair(_Gears):
    """Two gears on fixed axes. Rows: teeth of the pinion. Columns: teeth of the wheel. Reference: the pinion's."""

    kind: Literal["pair"]
    pinion: Teeth
    wheel: Teeth

    @property
    def rows(self) -> int:
        return self.pinion

    @property
    def columns(self) -> int:
        return self.wheel

    @property
    def per_turn(self) -> int:
        return self.pinion
