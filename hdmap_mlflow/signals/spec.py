"""The spec of `hdmap build-maps`: which gears, which records with which phase reference, and how maps are made."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from hdmap_mlflow.config import Count, DomainName
from hdmap_mlflow.config.settings import Real, Whole
from hdmap_mlflow.config.spec import Part
from hdmap_mlflow.signals.gears import Pair, Planetary

EXAMPLE = Path(__file__).with_name("build_maps.yaml")
Place = Annotated[Whole, Field(ge=0)]


def _ratio(given: object) -> object:
    """`31/126` is exact, as no decimal number of it is."""
    if isinstance(given, str) and "/" in given:
        try:
            return float(Fraction(given.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{given!r:.60} is no ratio; write a number or two whole ones, as 31/126") from None
    return given


Ratio = Annotated[Real, BeforeValidator(_ratio), Field(gt=0)]


# ---------------------------------------------------------------------------------------------- channels
class Channel(Part):
    """One row of numbers in a file; a word alone is its variable, a number alone its column.

    `variable`: of .mat, .npz and .h5 the array (`group/name` where nested), of .csv and .parquet the column's name, of
    .tdms `group/channel`; nothing for .npy and .wav. `column`: the place, from 0, in an array of several channels
    (either way round: the longer side is time), in a table without names, or in a .wav.
    """

    variable: str = ""
    column: Place | None = None

    def __str__(self) -> str:
        return f"{self.variable}{'' if self.column is None else f'[{self.column}]'}" or "[0]"


def _channel(given: object) -> object:
    if isinstance(given, str):
        return {"variable": given}
    return {"column": given} if isinstance(given, int) and not isinstance(given, bool) else given


AChannel = Annotated[Channel, BeforeValidator(_channel)]


# ------------------------------------------------------------------------------------------------- phase
class _Shaft(Part):
    """`ratio`: turns of the reference shaft (see the gears) in one turn of the shaft that is measured."""

    ratio: Ratio = 1.0


class Pulses(_Shaft):
    """An encoder or a tachometer: `per_turn` pulses in one turn of its shaft.

    A pulse is where the channel rises past `high` after it was below `low` (found in the record where not given), or
    falls the other way round. `repair`: the largest share of pulses that may be missing or too many.
    """

    kind: Literal["pulses"]
    channel: AChannel
    per_turn: Count = 1
    edge: Literal["rising", "falling"] = "rising"
    low: Real | None = None
    high: Real | None = None
    repair: Annotated[Real, Field(ge=0, le=0.2)] = 0.01

    @model_validator(mode="after")
    def _apart(self) -> Pulses:
        if (self.low is None) != (self.high is None) or (self.low or 0) > (self.high or 0):
            raise ValueError("low and high go together, low below high: give both or neither")
        return self


class Angle(_Shaft):
    """The angle of a shaft as a channel; whether it wraps is seen in it."""

    kind: Literal["angle"]
    channel: AChannel
    unit: Literal["turns", "degrees", "radians"] = "turns"


class Even(_Shaft):
    """A record that was sampled at even angles: `per_turn` samples in one turn of the shaft."""

    kind: Literal["even"]
    per_turn: Annotated[Real, Field(gt=0)]


class MeshLine(Part):
    """No reference: the phase of a harmonic of the mesh, whose line lies `between` two frequencies in Hz.

    `channel`: where it is seen; the record's first signal where not given.
    """

    kind: Literal["mesh_line"]
    between: tuple[Annotated[Real, Field(gt=0)], Annotated[Real, Field(gt=0)]]
    harmonic: Annotated[Whole, Field(ge=1, le=20)] = 1
    channel: AChannel | None = None

    @model_validator(mode="after")
    def _rises(self) -> MeshLine:
        if self.between[0] >= self.between[1]:
            raise ValueError(f"between {self.between[0]:g} and {self.between[1]:g} Hz lies nothing; lower one first")
        return self


Phase = Annotated[Pulses | Angle | Even | MeshLine, Field(discriminator="kind")]


# ----------------------------------------------------------------------------------------------- records
class Record(Part):
    """Files that are alike, each a recording: what is in them, and what their maps are of."""

    files: Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)]
    signals: dict[DomainName, AChannel] = Field(min_length=1)  # domain -> channel
    rate: Annotated[Real, Field(gt=0)] | str | None = None  # Hz, or the variable that holds it; None: the file says
    phase: Phase
    role: Literal["train/good", "test/good", "test/fault"]
    recording: str = ""  # the file's name without its suffix where not given
    group: str = ""  # a state, such as cold
    severity: Real | None = None
    seconds: tuple[Annotated[Real, Field(ge=0)], Annotated[Real, Field(gt=0)]] | None = None  # the piece that is used
    first: tuple[Place, Place] = (0, 0)  # row and column of the tooth pair at the reference's zero

    @model_validator(mode="after")
    def _sound(self) -> Record:
        if self.seconds and self.seconds[0] >= self.seconds[1]:
            raise ValueError(f"seconds {self.seconds[0]:g} to {self.seconds[1]:g} hold nothing; the earlier one first")
        if self.severity is not None and self.role != "test/fault":
            raise ValueError(f"severity {self.severity:g} of {self.role}; leave it out, or correct the role")
        return self


class Spec(Part):
    """What to build. A map is the average of `averages` periods: the meshes until the same teeth meet again.

    `samples` a mesh, of which `orders` mesh harmonics are kept (a quarter of the samples where not given).
    `difference`: `turns` takes away the mean over the turns of the ring or wheel in a period, with it all that repeats
    each such turn; `narrow` the mesh harmonics and `sidebands` lines of either gear on both sides; `none` nothing.
    `pixel`: root mean square or largest magnitude of a mesh. `planet`: the one whose teeth are the rows.
    `align`: `rows` moves the maps of a recording on by so many rows that its healthy teeth lie where those of the first
    do, for a reference that tells the turn of the carrier does not tell which planet tooth comes first; `none`: as
    `first` says. `overlap`: the share of its samples that a map has in common with the next. `closure`: meshes by which
    the reference may drift against the vibration in a record; null where that has no mesh line to check it by.
    """

    gears: Annotated[Planetary | Pair, Field(discriminator="kind")]
    records: tuple[Record, ...] = Field(min_length=1)
    averages: Count = 4
    samples: Annotated[Whole, Field(ge=8, le=1024)] = 32
    orders: Annotated[Real, Field(gt=1)] | None = None
    difference: Literal["turns", "narrow", "none"] = "turns"
    sidebands: Annotated[Whole, Field(ge=0, le=100)] = 2
    pixel: Literal["rms", "peak"] = "rms"
    planet: Place = 0
    align: Literal["none", "rows"] = "none"
    overlap: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    closure: Annotated[Real, Field(gt=0)] | None = 0.1

    @property
    def kept_orders(self) -> float:
        return self.orders or self.samples / 4

    @property
    def hop(self) -> int:
        """Periods from the beginning of a map to that of the next."""
        return max(1, round(self.averages * (1 - self.overlap)))

    def maps(self, periods: int) -> int:
        """How many maps there are of so many periods."""
        return max(0, (periods - self.averages) // self.hop + 1)

    @model_validator(mode="after")
    def _sound(self) -> Spec:
        if self.align == "rows" and not any(one.role == "train/good" for one in self.records):
            raise ValueError("align: rows needs healthy records (role train/good), whose pattern it aligns by")
        if self.overlap and self.hop == self.averages:
            raise ValueError(f"overlap {self.overlap:g} of {self.averages} periods is none; raise overlap or averages")
        fewest = min(self.gears.rows, self.gears.columns)
        if self.difference == "narrow" and 2 * self.sidebands + 1 >= fewest:
            raise ValueError(f"sidebands {self.sidebands} leave nothing of a gear of {fewest} teeth; lower sidebands")
        planets = self.gears.planets if isinstance(self.gears, Planetary) else 1
        if self.planet >= planets:
            raise ValueError(f"planet {self.planet} of {planets}; the first is 0")
        if self.kept_orders >= self.samples / 2:
            raise ValueError(
                f"{self.kept_orders:g} orders need more than {2 * self.kept_orders:g} samples a mesh, not "
                f"{self.samples}; raise samples or lower orders"
            )
        return self
