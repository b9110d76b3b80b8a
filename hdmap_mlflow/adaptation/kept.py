"""Features of a run's maps, computed once for the scores of the run, for all k and draws. Heavy: imports torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from hdmap_mlflow.adaptation.maps import Maps, batches
from hdmap_mlflow.annotations import Model

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

ROOM = 2**30  # bytes of features that are kept; those of a map that finds none are computed each time

Name = tuple[str, int]  # of a map: its path and its label


def named(rows: pd.DataFrame) -> list[Name]:
    """The names of maps by which a datamodule has them, from their rows in a table of scores."""
    return list(zip(rows["path"], rows["label"], strict=True))


class Kept:
    """The features of a model's maps, which depend on neither k nor a draw, by their domain and name."""

    def __init__(self, model: Model, module: MultiDomainHDMAPDataModule, device: str) -> None:
        self.model, self.module, self.device, self.room = model, module, device, ROOM
        self.maps: dict[tuple[str, Name], Maps] = {}

    @contextlib.contextmanager
    def watching(self, domain: str, loader: DataLoader) -> Iterator[None]:
        """Keep the features of a loader's maps, in its order, while the model scores them.

        They are those that pass its module `patch_features`; a model that has none computes them again later.
        """
        tap = getattr(self.model, "patch_features", None)
        if tap is None:
            yield
            return
        data: Any = loader.dataset
        names, size = iter(named(data.table)), data[0].image.shape[-2:]

        def take(_module: nn.Module, _given: object, features: Tensor) -> None:
            for one, name in zip(_by_patch(features), names, strict=False):  # a batch, and as many of the names
                self._keep(domain, name, Maps(one, size))

        hook = tap.register_forward_hook(take)
        try:
            yield
        finally:
            hook.remove()

    def read(self, domain: str, split: str, names: Sequence[Name]) -> Maps:
        """Of some maps, in their order."""
        found = {name: one for name in names if (one := self.maps.get((domain, name))) is not None}
        if new := [name for name in names if name not in found]:
            computed = batches(self.model, self.module.named_dataloader(domain, new, split), self.device)
            maps = (Maps(one, part.size) for part in computed for one in _by_patch(part.features))
            found |= {name: self._keep(domain, name, one) for name, one in zip(new, maps, strict=True)}
        rows = torch.stack([found[name].features.movedim(0, -1) for name in names])
        return Maps(rows.movedim(-1, 1), found[names[0]].size)

    def _keep(self, domain: str, name: Name, one: Maps) -> Maps:
        """While there is room."""
        if (domain, name) not in self.maps and one.features.nbytes <= self.room:
            self.room -= one.features.nbytes
            self.maps[domain, name] = one
        return one


def _by_patch(features: Tensor) -> Tensor:
    """Features (B, C, h, w) whose channels lie side by side, as a search wants them: laid so once, not each time."""
    return features.contiguous(memory_format=torch.channels_last)


class Featured:
    """A loader of maps that are features by now: of one split of a domain, rows of its table of scores."""

    def __init__(self, kept: Kept, domain: str, rows: pd.DataFrame) -> None:
        self.kept, self.domain, self.split = kept, domain, str(rows["split"].iloc[0])
        self.dataset = named(rows)

    def __iter__(self) -> Iterator[Maps]:
        step = self.kept.module.eval_batch_size  # as a pass has them: batches of other sizes round otherwise
        for at in range(0, len(self.dataset), step):
            yield self.kept.read(self.domain, self.split, self.dataset[at : at + step])
