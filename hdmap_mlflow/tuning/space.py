"""The search space of a study: which settings are drawn and from where, and what the published ones are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput, nearest

Plain = bool | int | float | str | None
# These decide what is measured, where and on which data: a search over them would compare what cannot be compared.
NEVER = {"data.root", "data.source_domain", "data.target_domains", "data.validation", "data.val_fraction",
         "data.split_seed", "train.seed", "train.device", "model.name"}  # fmt: skip


class Dimension(BaseModel):
    """A setting's range: `low` to `high` (in steps, or drawn on a logarithmic scale), or a set of choices.

    `when` names another setting and the values of it at which this one matters; at others it is not drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["float", "int", "categorical"]
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: tuple[Plain, ...] = ()
    when: dict[str, tuple[Plain, ...]] = {}

    @model_validator(mode="after")
    def _possible(self) -> Dimension:
        numbers = (self.low, self.high, self.step)
        if self.type == "categorical":
            if not self.choices or numbers != (None, None, None) or self.log:
                raise ValueError("type categorical takes choices, at least one, and no low, high, step or log")
        elif self.choices:
            raise ValueError("choices go with type categorical")
        elif self.low is None or self.high is None:
            raise ValueError("needs low and high")
        elif self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"log needs low above 0, it is {self.low}")
        elif self.step is not None and (self.step <= 0 or (self.log and (self.type, self.step) != ("int", 1))):
            raise ValueError(f"step {self.step} must be above 0, and goes without log")
        elif self.type == "int" and any(isinstance(number, float) for number in numbers):
            raise ValueError("type int takes whole numbers")
        return self

    def suggest(self, name: str, trial: Any) -> Plain:
        """A value from an Optuna trial."""
        if self.type == "categorical":
            return trial.suggest_categorical(name, list(self.choices))
        if self.type == "int":
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value can be drawn."""
        if self.type == "categorical":
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:  # type: ignore[operator]
            return False
        step = self.step or (1 if self.type == "int" else 0)
        steps = (value - self.low) / step if step else 0.0  # type: ignore[operator]
        return abs(steps - round(steps)) < 1e-9

    def ends(self) -> tuple[Any, ...]:
        """The values to check before a search starts."""
        return self.choices if self.type == "categorical" else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """The settings that a study draws, by dotted name, and the run they are put into.

    `config` has everything else, and the published values of the settings that are searched. `follow` names settings of
    the model that follow from others and were not given.
    """

    dimensions: Mapping[str, Dimension]
    config: RunConfig
    follow: tuple[str, ...] = ()

    def draw(self, trial: Any) -> dict[str, Plain]:
        """One value for every setting that matters, from an Optuna trial."""
        return self._each(lambda name, one: one.suggest(name, trial))

    def baseline(self) -> dict[str, Plain]:
        """The published values of the settings that matter with them."""
        published = self.config.dotted()
        return self._each(lambda name, one: published[name])

    def holds(self, settings: Mapping[str, Plain]) -> bool:
        """Whether settings could have been drawn; published ones may lie outside a narrowed space."""
        return all(self.dimensions[name].holds(value) for name, value in settings.items())

    def place(self, settings: Mapping[str, Plain], **tracking: Any) -> RunConfig:
        """The run with these settings; the model's check works out again what follows from them."""
        wanted = dict(settings) | {f"tracking.{name}": value for name, value in tracking.items()}
        config = configuration.with_values(self.config, wanted)
        stale = {name for name in self.follow if f"model.{name}" not in settings}
        kept = {name: value for name, value in config.model.settings.items() if name not in stale}
        return configuration.with_settings(config, kept)

    def _each(self, value: Callable[[str, Dimension], Plain]) -> dict[str, Plain]:
        known = self.config.dotted()
        out: dict[str, Plain] = {}
        for name, one in sorted(self.dimensions.items(), key=lambda item: bool(item[1].when)):  # what others ask first
            if all((known | out).get(other) in values for other, values in one.when.items()):
                out[name] = value(name, one)
        return out


def read(model: str, condition: Mapping[str, Any], flags: Mapping[str, Any], overrides: str = "") -> Space:
    """The space of a model with a condition's `search` applied, its range ends checked against the model's class.

    `search` maps a setting to a value (then it is fixed), to a narrower range (`{"low": .., "high": ..}` or
    `{"choices": [..]}`), or, with a `type`, to a range of its own. An override fixes a setting, too. Raises BadInput
    for a setting or type that does not exist, for a range that is impossible or too wide, and for an empty space.
    """
    from hdmap_mlflow.models import builder, registry

    entry = registry.find_model(model)
    dimensions = {name: Dimension(**law) for name, law in entry.space.items()}
    fixed = {configuration.dotted_key(key) for key in configuration.parse_overrides(overrides)}
    values: dict[str, Any] = {}
    for key, law in (condition.get("search") or {}).items():
        name = configuration.dotted_key(key)
        if name in NEVER or name.startswith("tracking."):
            raise BadInput(f"search: {name} decides what is measured, not how; it cannot be searched")
        if isinstance(law, dict):
            dimensions[name] = _dimension(name, law, dimensions)
        else:
            values[name] = law
            fixed.add(name)
    searched = {name: one for name, one in dimensions.items() if name not in fixed}
    if not searched:
        raise BadInput(f'{model} has nothing to tune; give its condition a "search": {{setting: range}}')
    kept = {k: v for k, v in condition["config"].items() if configuration.dotted_key(k) not in searched}
    config = configuration.build_config(
        model, {**condition, "config": kept | values}, defaults=entry.defaults, flags=flags, overrides=overrides
    )

    def check(config: RunConfig) -> RunConfig:
        entry.check_new(config)
        return builder.check(config)

    space = Space(searched, check(config), tuple(name for name in entry.derived if name not in config.model.settings))
    _check(space, check)
    return space


def _dimension(name: str, law: Mapping[str, Any], known: Mapping[str, Dimension]) -> Dimension:
    """A range that replaces the registry's (with a type) or lies within it (without)."""
    before = known.get(name)
    if "type" not in law and before is None:
        raise BadInput(f"search: {name} has no range of its own{nearest(name, known)}; give its type (float, int or "
                       f"categorical) as well; known: {', '.join(known) or 'none'}")  # fmt: skip
    whole = dict(law) if before is None or "type" in law else before.model_dump() | dict(law)
    try:
        found = Dimension(**whole)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = " ".join(filter(None, (where, first["msg"].removeprefix("Value error, "))))
        raise BadInput(f"search: the range of {name} is impossible: {told}, got {dict(law)}") from None
    if "type" not in law and not all(before is None or before.holds(end) for end in found.ends()):
        raise BadInput(f"search: {name} {dict(law)} does not lie within {describe(before)}; give a type to replace "  # type: ignore[arg-type]
                       "that range")  # fmt: skip
    return found


def _check(space: Space, check: Callable[[RunConfig], RunConfig]) -> None:
    known = space.config.dotted()
    for name, one in space.dimensions.items():
        if not name.startswith("model.") and name not in known:
            raise BadInput(f"search: unknown setting '{name}'{nearest(name, known)}")
        for other in one.when:
            if other not in known:
                raise BadInput(f"search: {name} asks for '{other}', which does not exist{nearest(other, known)}")
        for end in one.ends():
            try:
                check(space.place({name: end}))
            except BadInput as problem:
                raise BadInput(f"search: {name} cannot be {end!r}: {problem}") from None


def describe(one: Dimension) -> str:
    """A range as a person writes it."""
    if one.type == "categorical":
        told = " or ".join(map(str, one.choices))  # no pipes: it stands in Markdown tables
    else:
        step = f", step {one.step:g}" if (one.step or 1) != 1 else ""
        told = f"{one.low:g} to {one.high:g}" + (", log" if one.log else "") + step
    at = [f"{name} = {' or '.join(map(str, values))}" for name, values in one.when.items()]
    return told + (f" (when {' and '.join(at)})" if at else "")
