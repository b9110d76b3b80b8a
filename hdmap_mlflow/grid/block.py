"""A grid as it is asked for: blocks of a YAML file, and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hdmap_mlflow.config import DataConfig, TrainConfig, one_line
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL
from hdmap_mlflow.errors import BadInput, nearest

DATA = DataConfig()


class Block(BaseModel):
    """A product of models x conditions x sources x seeds: comma lists or sequences of names, or `all`.

    `targets` is `auto` (all other domains) or a list, from which each run's source is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    models: Any = DEFAULT_MODEL
    conditions: Any = DEFAULT_CONDITION
    condition_file: str | None = None
    sources: Any = "all"
    targets: Any = DATA.target_domains
    seeds: Any = TrainConfig().seed
    data_root: str = DATA.root
    validation: str = DATA.validation
    split_seed: int = DATA.split_seed
    overrides: str = ""


def read_blocks(flags: Mapping[str, Any], file: str | None = None) -> list[Block]:
    """The blocks of a YAML file (one mapping or a list of them; keys as in `Block`); `flags` that are given win."""
    blocks: Any = [{}]
    if file:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadInput(f"grid file {file} cannot be read: {' '.join(str(error).split())}") from None
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
            raise BadInput(f"grid {file}: {one_line(error)}") from None
    return out
