"""Which runs a grid consists of, and what has become of each: all is checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput, nearest, one_line
from hdmap_mlflow.execution.process import is_gone
from hdmap_mlflow.files import cache_dir, write_whole
from hdmap_mlflow.names import Tag
from hdmap_mlflow.runs import setup
from hdmap_mlflow.runs.identity import identity_tags
from hdmap_mlflow.runs.setup import anchored

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Past, Store


class Block(BaseModel):
    """A product of models x conditions x sources x seeds: comma lists or sequences of names, or `all`.

    `targets` is `auto` (all other domains) or a list, from which each run's source is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    models: Any = "patchcore"
    conditions: Any = "quickstart"
    condition_file: str = ""
    sources: Any = "all"
    targets: Any = "auto"
    seeds: Any = "0"
    data_root: str = "demo"
    validation: str = "source_holdout"
    split_seed: int = 0
    overrides: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of the grid. `past` is what the store knows of it; `repeat` counts the runs of one configuration."""

    config: RunConfig
    tags: Mapping[str, str]
    repeat: int
    past: Past | None = None

    @property
    def name(self) -> str:
        return self.config.name + (f" #{self.repeat + 1}" if self.repeat else "")

    @property
    def status(self) -> str:
        """finished, failed, running (by someone else) or missing."""
        return self.past.status if self.past and self.past.status != "killed" else "missing"

    @property
    def fingerprint(self) -> str:
        return self.tags[Tag.FINGERPRINT]


def read_blocks(flags: Mapping[str, Any], file: str = "") -> list[Block]:
    """The blocks of a YAML file (one mapping or a list of them; keys as in `Block`); `flags` that are given win."""
    blocks: Any = [{}]
    if file:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
                raise BadInput(f"grid file {file}: unknown key '{key}'{nearest(str(key), known)}; "
                               f"known: {', '.join(known)}")  # fmt: skip
        try:
            out.append(Block(**{**block, **given}))
        except ValidationError as error:
            raise BadInput(f"grid {file}: {configuration.one_line(error)}") from None
    return out


def expand(blocks: Iterable[Block], repeat: int = 1) -> list[Cell]:
    """The grid's runs, every one checked and fingerprinted; the maps are read once. Raises BadInput at the first flaw.

    The order is that of the repeats, then of the blocks; a run that two blocks ask for is there once.
    """
    checked = [_check(config) for block in blocks for config in _configs(block)]
    places = {(config.tracking.uri, config.tracking.experiment) for config, _ in checked}
    if len(places) > 1:
        raise BadInput("the grid's runs go to several stores or experiments; give all one tracking.uri and experiment")
    read = _Reader([config for config, _ in checked])
    cells: dict[str, tuple[RunConfig, dict[str, str]]] = {}
    for config, code in checked:
        tags = identity_tags(config, read(config), code)
        cells.setdefault(tags[Tag.FINGERPRINT], (config, tags))
    return [Cell(config, tags, i) for i in range(repeat) for config, tags in cells.values()]


def look_up(cells: Sequence[Cell], store: Store) -> list[Cell]:
    """The cells with what the store knows of each. Runs whose process died on this machine are closed as KILLED.

    Of several runs of one fingerprint the finished count first, then those that run, then the failed.
    """
    rank = {"finished": 0, "running": 1, "failed": 2, "killed": 3}
    known: dict[str, list[Past]] = {}
    for digest in {cell.tags[Tag.DATA_DIGEST] for cell in cells}:
        for past in store.runs(data_digest=digest, kind="run"):
            if past.status == "running" and is_gone(past.process):
                store.close(past.run_id, "killed", "its process is gone")
                continue
            for fingerprint in past.fingerprints:
                known.setdefault(fingerprint, []).append(past)
    for runs in known.values():
        runs.sort(key=lambda past: rank.get(past.status, 1))
    out = []
    for cell in cells:
        runs = known.get(cell.fingerprint, [])
        found = runs[cell.repeat] if cell.repeat < len(runs) else None
        out.append(Cell(cell.config, cell.tags, cell.repeat, found))
    return out


def estimate(cells: Iterable[Cell], store: Store) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, condition) -> median seconds and largest memory in MB of its five last runs, whatever their data."""
    out = {}
    for model, condition in {(cell.config.model.name, cell.config.condition) for cell in cells}:
        past = store.runs(newest=5, model=model, condition=condition)
        if past:
            out[model, condition] = (statistics.median(p.seconds for p in past), max(p.peak_mb for p in past))
    return out


def _names(value: Any) -> list[str]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    names = [str(part).strip() for part in parts if str(part).strip()]
    if not names:
        raise BadInput("the grid is empty: models, conditions, sources and seeds each need a name; e.g. --seeds 0,1,2")
    return names


def _configs(block: Block) -> list[RunConfig]:
    """The block's runs in the order models, conditions, sources, seeds; their paths are absolute."""
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.models.registry import REGISTRY

    root = layout.find_root(block.data_root)
    domains = layout.find_domains(root)
    out = []
    for model in list(REGISTRY) if block.models == "all" else _names(block.models):
        for condition in _conditions(model, block) if block.conditions == "all" else _names(block.conditions):
            for source in domains if block.sources == "all" else _names(block.sources):
                for seed in _names(block.seeds):
                    targets = block.targets
                    if targets != "auto":
                        targets = [name for name in _names(targets) if name != source]
                    flags = {
                        "data.root": str(root),
                        "data.source_domain": source,
                        "data.target_domains": targets,
                        "data.validation": block.validation,
                        "data.split_seed": block.split_seed,
                        "train.seed": seed,
                    }
                    config = setup.compose(model, condition, block.condition_file or None, flags, block.overrides)
                    out.append(anchored(config))
    return out


def _conditions(model: str, block: Block) -> list[str]:
    file = block.condition_file
    return list(configuration.load_conditions(Path(file)) if file else configuration.packaged_conditions(model))


class _Reader:
    """The maps of each run, though every domain is read once."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        from hdmap_mlflow.data import layout

        self.domains: dict[tuple[str, str], layout.Domain] = {}
        for root in {config.data.root for config in configs}:
            names = {name: None for c in configs if c.data.root == root for name in self._chosen(c)}
            self.domains |= {(root, domain.name): domain for domain in layout.read_domains(Path(root), list(names))}
        self.read: dict[tuple[str, ...], dataset.Dataset] = {}

    @staticmethod
    def _chosen(config: RunConfig) -> list[str]:
        from hdmap_mlflow.data import layout

        return layout.choose_domains(Path(config.data.root), config.data.source_domain, config.data.target_domains)

    def __call__(self, config: RunConfig) -> dataset.Dataset:
        from hdmap_mlflow.data import layout, simulate

        root, names = Path(config.data.root), self._chosen(config)
        key = (config.data.root, *names)
        if key not in self.read:
            domains = [self.domains[config.data.root, name] for name in names]
            self.read[key] = dataset.Dataset(root, domains, layout.digest(domains), simulate.is_simulated(root))
        return self.read[key]


def _check(config: RunConfig) -> tuple[RunConfig, str]:
    """The checked configuration and the digest of its model's code.

    The check needs the model's class, and that costs the import of torch; so what it said is kept until this package,
    a library or a file of the model's code changes.
    """
    from hdmap_mlflow.models import signature

    identity = [config.model_dump(mode="json"), signature.versions(), _own_code()]
    kept = cache_dir() / "checked" / f"{_sha(json.dumps(identity, sort_keys=True).encode())[:32]}.json"
    if kept.exists():
        known = json.loads(kept.read_text())
        if known["sources"] == _digests(known["sources"]):
            return RunConfig.model_validate(known["config"]), known["code"]
    from hdmap_mlflow.models import builder, registry

    path = registry.find_model(config.model.name).path
    checked, code = builder.check(config), signature.code_digest(path)
    sources = _digests(map(str, signature.sources(path)))
    known = {"config": checked.model_dump(mode="json"), "sources": sources, "code": code}
    write_whole(kept, json.dumps(known))
    return RunConfig.model_validate(known["config"]), code


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
