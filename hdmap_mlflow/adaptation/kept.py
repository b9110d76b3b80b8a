"""Features of a run's maps, computed once for all k and draws. Heavy: imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from hdmap_mlflow.adaptation.maps import Maps, batches
from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

ROOM = 2**30  # bytes of features that are kept; those of a map that finds none are computed each time

Name = tuple[str, int]  # of a map: its path and its label


def named(rows: pd.DataFrame) -> list[Name]:
    """The names of maps by which a datamodule has them, from their rows in a table of scores."""
    return list(zip(rows["path"], rows["label"], strict=True))


class Kept:
    """The features of a model's maps, which depend on neither k nor a draw, by their domain, split and name."""

    def __init__(self, model: Model, module: MultiDomainHDMAPDataModule, device: str) -> None:
        self.model, self.module, self.device, self.room = model, module, device, ROOM
        self.features: dict[tuple[str, str, Name], Tensor] = {}
        self.size: Sequence[int] = ()

    def read(self, domain: str, split: str, names: Sequence[Name]) -> Maps:
        """Of some maps, in their order."""
        new = [name for name in names if (domain, split, name) not in self.features]
        found = {name: one for name in names if (one := self.features.get((domain, split, name))) is not None}
        if new:
            computed = [*batches(self.model, self.module.named_dataloader(domain, new, split), self.device)]
            self.size = computed[0].size
            for name, one in zip(new, (one for part in computed for one in part.features), strict=True):
                found[name] = one
                if one.nbytes <= self.room:
                    self.room -= one.nbytes
                    self.features[domain, split, name] = one
        return Maps(torch.stack([found[name] for name in names]), self.size)


class Featured:
    """A loader of maps that are features by now: of one split of a domain, rows of its table of scores."""

    def __init__(self, kept: Kept, domain: str, rows: pd.DataFrame) -> None:
        self.kept, self.domain, self.split = kept, domain, str(rows["split"].iloc[0])
        self.dataset = named(rows)

    def __iter__(self) -> Iterator[Maps]:
        step = self.kept.module.eval_batch_size  # as a pass has them: batches of other sizes round otherwise
        for at in range(0, len(self.dataset), step):
            yield self.kept.read(self.domain, self.split, self.dataset[at : at + step])
