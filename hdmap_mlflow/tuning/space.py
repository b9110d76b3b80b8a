"""The search space of a study: which settings are drawn and from where, and what the published ones are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.annotations import Settings
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput, nearest, quoted
from hdmap_mlflow.models.searchspace import DIMENSION, Dimension, Plain

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


# These decide what is measured, where and on which data: a search over them would compare what cannot be compared.
NEVER = {
    "data.root",
    "data.source_domain",
    "data.target_domains",
    "data.validation",
    "data.val_fraction",
    "data.split_seed",
    "train.seed",
    "train.device",
    "model.name",
    "adapt.draws",
    "adapt.seed",
    "adapt.pool",
    "adapt.from",
}


def suggest(one: Dimension, name: str, trial: BaseTrial) -> Plain:
    """A value from an Optuna trial."""
    law = one.model_dump(exclude={"type", "when"}, exclude_none=True)
    return getattr(trial, f"suggest_{one.type}")(name, **law)


@dataclass(frozen=True)
class Space:
    """The settings that a study draws, by dotted name, and the run they are put into.

    `config` has everything else, and the published values of the settings that are searched. `follow` names settings of
    the model that follow from others and were not given.
    """

    dimensions: Mapping[str, Dimension]
    config: RunConfig
    follow: tuple[str, ...] = ()

    def draw(self, trial: BaseTrial) -> dict[str, Plain]:
        """One value for every setting that matters, from an Optuna trial."""
        return self._each(lambda name, one: suggest(one, name, trial))

    def baseline(self) -> dict[str, Plain]:
        """The published values of the settings that matter with them."""
        published = self.config.dotted()
        return self._each(lambda name, one: published[name])

    def holds(self, settings: Mapping[str, Plain]) -> bool:
        """Whether settings could have been drawn; published ones may lie outside a narrowed space."""
        return all(self.dimensions[name].holds(value) for name, value in settings.items())

    def place(self, settings: Mapping[str, Plain], **tracking: object) -> RunConfig:
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


def read(model: str, condition: Settings, flags: Mapping[str, object], overrides: str = "") -> Space:
    """The space of a model with a condition's `search` applied, its range ends checked against the model's class.

    `search` maps a setting to a value (then it is fixed), to a narrower range (`{"low": .., "high": ..}` or
    `{"choices": [..]}`), or, with a `type`, to a range of its own. An override fixes a setting, too. Raises BadInput
    for a setting or type that does not exist, for a range that is impossible or too wide, and for an empty space.
    """
    from hdmap_mlflow.models import builder, registry

    entry = registry.find_model(model)
    dimensions = dict(entry.space)
    fixed = {configuration.dotted_key(key) for key in configuration.parse_overrides(overrides)}
    values: dict[str, object] = {}
    for name, law in configuration.dotted(condition.get("search") or {}).items():
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

    space = Space(searched, check(config), tuple(sorted(entry.follow - set(config.model.settings))))
    _check(space, check)
    return space


def _dimension(name: str, law: Mapping[str, object], known: Mapping[str, Dimension]) -> Dimension:
    """A range that replaces the registry's (with a type) or lies within it (without)."""
    before = known.get(name)
    if "type" not in law and before is None:
        raise BadInput(
            f"search: {name} has no range of its own{nearest(name, known)}; give its type (float, int or "
            f"categorical) as well; known: {', '.join(known) or 'none'}"
        )
    try:
        found = DIMENSION.validate_python(law if before is None or "type" in law else before.model_dump() | dict(law))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = " ".join(filter(None, (where, first["msg"].removeprefix("Value error, "))))
        raise BadInput(f"search: the range of {name} is impossible: {problem}, got {quoted(dict(law))}") from None
    if before and "type" not in law and not all(map(before.holds, found.ends())):
        raise BadInput(
            f"search: {name} {quoted(dict(law))} does not lie within {before.describe()}; "
            "give a type to replace that range"
        )
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
