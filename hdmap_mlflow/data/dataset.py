"""The maps of a run: its source and its targets, read and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hdmap_mlflow.config import RunConfig

if TYPE_CHECKING:
    from hdmap_mlflow.data.layout import Domain


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The maps of a run, read and checked: the sources first, then the targets."""

    root: Path
    domains: list[Domain]
    digest: str
    simulated: bool
    built: str = ""  # how, where the maps were built from vibration (see `built`)

    @property
    def names(self) -> list[str]:
        return [domain.name for domain in self.domains]

    @cached_property
    def by_name(self) -> str:
        """Which content each domain has. `digest` is the same for two domains whose names were exchanged."""
        return json.dumps(sorted((domain.name, domain.digest()) for domain in self.domains))


def read(config: RunConfig, read_domain: Callable[[Path, str, bool], Domain] | None = None) -> Dataset:
    """Read and check every map that the run will use. Raises BadInput for the first that is not whole.

    `read_domain` stands for `layout.read_domain`, where many runs share what was read.
    """
    from hdmap_mlflow.data import built, layout, simulate

    root = layout.find_root(config.data.root)
    names = layout.choose_domains(root, config.data.source_domain, config.data.target_domains)
    read_domain = read_domain or layout.read_domain
    domains = layout.read_domains(root, names, config.data.packed, read_domain, len(config.data.sources))
    return Dataset(root, domains, layout.digest(domains), simulate.is_simulated(root), built.built(root))
