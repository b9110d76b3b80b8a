"""Which runs a grid consists of, and what has become of each: all is checked before anything starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.annotations import Content
from hdmap_mlflow.config import CheckedConfig, DataConfig, RunConfig, Seed, TrainConfig
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL
from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput, nearest, one_line, quoted
from hdmap_mlflow.files import cache_dir, expanded, read_kept, write_kept
from hdmap_mlflow.grid.adaptations import Adaptation, combine
from hdmap_mlflow.names import Tag, sources_of
from hdmap_mlflow.runs import setup, workdir
from hdmap_mlflow.runs.identity import identity_tags
from hdmap_mlflow.runs.setup import anchored

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Past, Store


DATA = DataConfig()
ALL, LEAVE_ONE_OUT = "all", "leave-one-out"
MOST, MANY = 10_000, 500  # runs in one grid; runs whose check takes seconds


class Block(BaseModel):
    """A product of models x conditions x sources x seeds: comma lists or sequences of names, or `all`.

    Among `sources`, `A+B` is one of two domains, and `leave-one-out` of each domain all others.
    `targets` is `auto` (all other domains) or a list, from which each run's source is left out. `adapters` x `k` are no
    runs: each run is trained once, source only, and adapted with all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    models: object = DEFAULT_MODEL
    conditions: object = DEFAULT_CONDITION
    condition_file: str | None = None
    sources: object = "all"
    targets: object = DATA.target_domains
    seeds: object = TrainConfig().seed
    data_root: str = DATA.root
    validation: str = DATA.validation
    split_seed: Seed = DATA.split_seed
    overrides: str = ""
    experiment: str | None = None
    budget: str | None = None
    adapters: object = None
    k: object = None

    def adaptations(self) -> tuple[Adaptation, ...]:
        """What every run of the block is adapted with."""
        if self.adapters is None and self.k is None:
            return ()
        chains = "z" if self.adapters is None else self.adapters
        return combine(_names(chains, "adapters"), _names(0 if self.k is None else self.k, "k"))


@dataclass(frozen=True)
class Cell:
    """One run of the grid. `past` is what the store knows of it; `repeat` counts the runs of one configuration.

    `skipped` says why it cannot be run on this machine; such a cell has no tags, and nobody has checked its settings.
    """

    config: RunConfig
    tags: Mapping[str, str]
    repeat: int
    past: Past | None = None
    skipped: str | None = None
    seen: tuple[str, ...] = ()  # all runs of its fingerprint that the store has
    adaptations: tuple[Adaptation, ...] = ()

    @property
    def name(self) -> str:
        return self.config.name + (f" #{self.repeat + 1}" if self.repeat else "")

    @property
    def checked(self) -> CheckedConfig:
        """The configuration of a cell that can be run."""
        assert isinstance(self.config, CheckedConfig)
        return self.config

    @property
    def status(self) -> str:
        """finished, failed, running (by someone else), missing or skipped."""
        if self.skipped:
            return "skipped"
        return self.past.status if self.past and self.past.status != "killed" else "missing"

    @property
    def fingerprint(self) -> str:
        return self.tags.get(Tag.FINGERPRINT, "")


def read_blocks(flags: Mapping[str, object], file: str | None = None) -> list[Block]:
    """The blocks of a YAML file (one mapping or a list of them; keys as in `Block`); `flags` that are given win."""
    blocks: list[object] = [{}]
    if file:
        try:
            content = configuration.read_yaml(expanded(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"grid file {file} cannot be read: {one_line(error, 500)}") from None
        blocks = content if isinstance(content, list) else [content]
    given = {key: value for key, value in flags.items() if value is not None}
    out = []
    for block in blocks:
        if not isinstance(block, dict):
            raise BadInput(f"grid file {file}: expected {', '.join(Block.model_fields)}, or a list of such")
        for key in block:
            if key not in Block.model_fields:
                known = Block.model_fields
                raise BadInput(
                    f"grid file {file}: unknown key '{key}'{nearest(str(key), known)}; known: {', '.join(known)}"
                )
        try:
            out.append(Block.model_validate({**block, **given}))
        except ValidationError as error:
            raise BadInput(f"grid {file}: {configuration.one_line(error)}") from None
    return out


def expand(blocks: Iterable[Block], repeat: int = 1, composed: Callable[[], None] | None = None) -> list[Cell]:
    """The grid's runs, every one checked and fingerprinted; the maps are read once. Raises BadInput at the first flaw.

    The order is that of the repeats, then of the blocks; a run that two blocks ask for is there once. Last come those
    of models that this machine cannot run; there must be others. `composed` is called when the settings can be read,
    before the models' classes check them, which costs the import of torch.
    """
    from hdmap_mlflow import tracking
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.models.registry import find_model

    configs = [
        (config, find_model(config.model.name), adaptations)
        for block in blocks
        for adaptations in [block.adaptations()]
        for config in _configs(block, repeat)
    ]
    skipped = {
        config.name: Cell(config, {}, 0, skipped=reason)
        for config, entry, _ in configs
        if (reason := entry.needs.missing(config.model.name))
    }
    if composed:
        composed()
    for config, _, adaptations in configs:
        if config.name not in skipped:
            setup.check_adapters(config, (config.adapt.adapters, *(one.chain for one in adaptations)))
    checked = [(*_check(config), adaptations) for config, _, adaptations in configs if config.name not in skipped]
    if not checked:
        raise BadInput("; ".join(dict.fromkeys(str(cell.skipped) for cell in skipped.values())))
    places = {(str(config.tracking.uri), config.tracking.experiment) for config, *_ in checked}
    if len(places) > 1:
        raise BadInput("the grid's runs go to several stores or experiments; give all one tracking.uri and experiment")
    tracking.check_store(*places.pop())
    for config in {config.tracking.output_dir: config for config, *_ in checked}.values():
        workdir.check(config)
    builder.reach(config for config, *_ in checked if config.model.weights != "hub")  # which only a launch needs
    read_domain, read, enough = cache(layout.read_domain), {}, set()
    cells: dict[str, Cell] = {}
    for config, code, adaptations in checked:
        data = config.data
        key = (data.root, data.source_domain, data.target_domains, data.packed)
        if key not in read:
            read[key] = dataset.read(config, read_domain)
        if (same := (config.model.model_dump_json(), data, adaptations)) not in enough:
            for one in (config, *(adapted.of(config) for adapted in adaptations)):
                setup.check_maps(one, read[key])
            enough.add(same)
        config = setup.spend(config, read[key])
        tags = identity_tags(config, read[key], code)
        cell = cells.setdefault(tags[Tag.FINGERPRINT], Cell(config, tags, 0))
        union = tuple(dict.fromkeys((*cell.adaptations, *adaptations)))
        cells[tags[Tag.FINGERPRINT]] = replace(cell, adaptations=union)
    return [replace(cell, repeat=i) for i in range(repeat) for cell in cells.values()] + list(skipped.values())


def look_up(cells: Sequence[Cell], store: Store) -> list[Cell]:
    """The cells with what the store knows of each. Runs whose process died on this machine are closed as KILLED.

    Of several runs of one fingerprint the finished count first, then those that run, then the failed.
    """
    rank = {"finished": 0, "running": 1, "failed": 2, "killed": 3}
    known: dict[str, list[Past]] = {}
    for digest in {cell.tags[Tag.DATA_DIGEST] for cell in cells if not cell.skipped}:
        for past in store.runs(data_digest=digest, kind="run"):
            for fingerprint in () if past.is_gone else past.fingerprints:
                known.setdefault(fingerprint, []).append(past)
    store.close_gone()
    for runs in known.values():
        runs.sort(key=lambda past: rank.get(past.status, 1))
    return [
        replace(cell, past=next(iter(runs[cell.repeat :]), None), seen=tuple(past.run_id for past in runs))
        for cell in cells
        for runs in [known.get(cell.fingerprint, [])]
    ]


def estimate(cells: Iterable[Cell], store: Store) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, condition) -> median seconds and largest memory in MB of its five last runs, whatever their data."""
    out = {}
    for model, condition in {(cell.config.model.name, cell.config.condition) for cell in cells}:
        past = store.runs(newest=5, model=model, condition=condition)
        if past:
            out[model, condition] = (statistics.median(p.seconds for p in past), max(p.peak_mb for p in past))
    return out


def _names(value: object, key: str = "models") -> list[str]:
    """The names in a block's value for a key."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int):
            raise BadInput(f"grid: {key} holds {quoted(part)}, which is no name; e.g. {key}: [a, b]")
    names = [str(part).strip() for part in parts if str(part).strip()]
    if not names:
        raise BadInput(
            f"the grid is empty: models, conditions, sources and seeds each need a name, --{key} has none; "
            "e.g. --seeds 0,1,2"
        )
    return names


def _configs(block: Block, repeat: int = 1) -> list[RunConfig]:
    """The block's runs in the order models, conditions, sources, seeds; their paths are absolute."""
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.models.registry import REGISTRY

    root = layout.find_root(block.data_root)
    sources = _sources(block.sources, layout.find_domains(root))
    models = list(REGISTRY) if block.models == "all" else _names(block.models, "models")
    pairs = [(model, condition) for model in models for condition in _conditions(model, block)]
    seeds, targets = _names(block.seeds, "seeds"), block.targets
    if targets != "auto":
        targets = _names(block.targets, "targets")
    for source in sources:
        layout.choose_domains(root, source, _without(source, targets))
    if (count := len(pairs) * len(sources) * len(seeds) * repeat) > MOST:
        raise BadInput(
            f"the grid has {count:,} runs ({len(pairs):,} of models and conditions x {len(sources):,} sources x "
            f"{len(seeds):,} seeds, --repeat {repeat:,}); at most {MOST:,} in one: divide it"
        )
    if count > MANY:
        print(f"checking {count:,} runs ...", flush=True)
    out, alone = [], block.adapters is not None or block.k is not None
    for (model, condition), source, seed in product(pairs, sources, seeds):
        flags = {
            "data.root": str(root),
            "data.source_domain": source,
            "data.target_domains": _without(source, targets),
            "data.validation": block.validation,
            "data.split_seed": block.split_seed,
            "train.seed": seed,
            "tracking.experiment": block.experiment,
            "train.budget": block.budget,
            "adapt.k": 0 if alone else None,
        }
        config = setup.compose(model, condition, block.condition_file, flags, block.overrides)
        out.append(anchored(config))
    return out


def _sources(value: object, domains: Sequence[str]) -> list[str]:
    """The sources of the runs: `all` domains, `leave-one-out` (of each all others), names, or several as `A+B`."""
    words = {ALL: [*domains], LEAVE_ONE_OUT: [",".join(d for d in domains if d != out) for out in domains]}
    names = _names(value, "sources")
    if LEAVE_ONE_OUT in names and len(domains) < 3:
        raise BadInput(
            f"sources {LEAVE_ONE_OUT} needs three domains, here are {', '.join(domains)}; give --sources all"
        )
    chosen = [one for name in names for one in words.get(name, [name])]
    return [*dict.fromkeys(DataConfig(source_domain=one).source_domain for one in chosen)]


def _without(source: str, targets: Content) -> Content:
    """The targets of a source; `auto` leaves it out by itself."""
    return targets if targets == "auto" else [name for name in targets if name not in sources_of(source)]


def _conditions(model: str, block: Block) -> list[str]:
    if block.conditions != "all":
        return _names(block.conditions, "conditions")
    file = block.condition_file
    return list(configuration.load_conditions(Path(file)) if file else configuration.packaged_conditions(model))


def _check(config: RunConfig) -> tuple[CheckedConfig, str]:
    """The checked configuration and the digest of its model's code.

    The check needs the model's class, and that costs the import of torch; so what it said is kept until this package,
    a library or a file of the model's code changes.
    """
    from hdmap_mlflow.models import signature

    identity = [config.model_dump(mode="json"), signature.versions(), _own_code()]
    kept = cache_dir() / "checked" / f"{_sha(json.dumps(identity, sort_keys=True).encode())[:32]}.json"
    if text := read_kept(kept):
        known = json.loads(text)
        if known["sources"] == _digests(known["sources"]):
            checked = CheckedConfig.model_validate(known["config"])
            return checked.model_copy(update={"tracking": config.tracking}), known["code"]
    from hdmap_mlflow.models import builder, registry

    path = registry.find_model(config.model.name).path
    checked, code = builder.check(config), signature.code_digest(path)
    sources = _digests(map(str, signature.sources(path)))
    known = {"config": checked.model_dump(mode="json"), "sources": sources, "code": code}
    with contextlib.suppress(OSError):  # a full disk costs the check again, not the grid
        write_kept(kept, json.dumps(known))
    return checked, code


def _digests(files: Iterable[str]) -> dict[str, str]:
    """File -> digest; empty for one that is gone."""
    return {file: _sha(path.read_bytes()) if (path := Path(file)).is_file() else "" for file in files}


@cache
def _own_code() -> str:
    """Digest of this package's source."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return _sha(b"".join(file.read_bytes() for file in files))


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
