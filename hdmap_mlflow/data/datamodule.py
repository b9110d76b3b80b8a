"""Maps for anomalib: one source to train and validate on, and a test set for every domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, ImageBatch, ImageItem
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _BaseDataLoaderIter
from torchvision.transforms.v2 import InterpolationMode, Resize

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data.faults import NATIVE, CutPaste
from hdmap_mlflow.data.formats import read_map, read_mask
from hdmap_mlflow.data.layout import Domain
from hdmap_mlflow.data.packed import Packed
from hdmap_mlflow.data.padding import Padded
from hdmap_mlflow.data.sources import Balanced, Packs, join
from hdmap_mlflow.data.splits import split
from hdmap_mlflow.names import REFERENCE

HELD = 10**9  # bytes of resized maps that a set holds, or else none: each worker process has its own
COLUMNS = ["file", "path", "mask", "label", "synthetic", "pixels", "digest"]  # of a table, what an item needs


def resize(config: DataConfig) -> Resize | Padded:
    """The one resize of a run, for the maps that train and for those that are scored."""
    if config.resize != "stretch":
        return Padded(config.image_size, config.interpolation, noise=config.resize == "pad_noise")
    return Resize(config.image_size, InterpolationMode(config.interpolation), antialias=True)


def on_device(images: torch.Tensor, device: str) -> torch.Tensor:
    """Maps (B, 3, H, W), one channel repeated, on a device: one channel travels, and shows itself as three there."""
    one = images[:, :1].pin_memory() if device == "cuda" else images[:, :1]  # it is copied while a GPU computes
    return one.to(device, non_blocking=True).expand_as(images)


def spread(table: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """At most `count` maps, evenly from all of a table by label: of both classes, where it has both and count > 1."""
    if count is None or count >= len(table):
        return table
    rows = np.linspace(0, len(table) - 1, count).round().astype(int)
    return table.sort_values("label", kind="stable").iloc[rows].reset_index(drop=True)


class MapDataset(Dataset):
    """Maps of a table as anomalib items: float32 (3, H, W), one channel repeated, never clipped.

    Rows marked `synthetic` get a scaled-CutPaste fault at native size, the same one every time for a seed and a number
    in the table's index. `transform` (a resize) comes last. At native size the fault mask comes along, (H, W) bool,
    where any map has one: empty for good maps, and for fault maps that lack theirs. Maps are taken from `packed`, where
    it is given; those are resized once and held for the next epoch, where all of them fit HELD bytes. What is read from
    files must be what the domain's digest was made of: BadInput.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        seed: int = 0,
        transform: Resize | Padded | None = None,
        packed: Packed | Packs | None = None,
        fault: CutPaste = NATIVE,
    ) -> None:
        self.table = table
        # Plain tuples: a row of a table costs more than a map, and does not reach a worker process that is spawned.
        self.rows = list(table[COLUMNS].itertuples(index=False, name=None))
        self.numbers = table.index.tolist()
        self.places = table["row"].tolist() if packed else []
        self.origin = dict(zip(table["file"], table["domain"], strict=True)) if "domain" in table else {}  # of a file
        self.packed = packed
        self.seed = seed
        self.transform = transform
        self.fault = fault
        self.held: dict[int, torch.Tensor] = {}
        # What is read from files is looked at anew each time: it may have changed.
        self.holds = transform is not None and packed is not None and 4 * len(table) * math.prod(transform.size) <= HELD
        self.masks = transform is None and bool((table["mask"] != "").any())

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> ImageItem:
        file, path, marked, label, synthetic, content, with_mask = self.rows[index]
        if index in self.held:
            return ImageItem(image=self.held[index].repeat(3, 1, 1), gt_label=torch.tensor(label), image_path=file)
        pixels = self.packed[self.places[index]] if self.packed else read_map(Path(file), content)
        image = torch.from_numpy(pixels)[None]
        if synthetic:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.numbers[index])
            image, _, _ = self.fault.paste(image, generator)
        mask = None
        if self.masks:
            mask = torch.zeros(image.shape[1:], dtype=torch.bool)
            if marked and not synthetic:
                folder = Path(file).parents[path.count("/")]
                mask = torch.from_numpy(read_mask(folder / marked, with_mask, pixels))
        if self.transform:
            image = self.transform(image)
            if self.holds:
                self.held[index] = image
        return ImageItem(image=image.repeat(3, 1, 1), gt_label=torch.tensor(label), gt_mask=mask, image_path=file)


def loose_loader(files: Sequence[Path], batch_size: int) -> DataLoader:
    """Maps of no domain, all of one size, in the order given and at native size; nothing else is known of them."""
    unknown: Document = {
        "mask": "",
        "label": 0,
        "synthetic": False,
        "pixels": "",
        "digest": "",
        "group": "",
        "recording": "",
    }
    paths = [str(file) for file in files]
    table = pd.DataFrame({"file": paths, "path": paths, "severity": np.nan}).assign(**unknown)
    return DataLoader(MapDataset(table), batch_size, collate_fn=ImageBatch.collate)


def loose_batch(maps: np.ndarray) -> ImageBatch:
    """Maps in memory, float32 (n, H, W), as a model gets them."""
    return ImageBatch(image=torch.from_numpy(np.ascontiguousarray(maps))[:, None].repeat(1, 3, 1, 1))


class _Loader(DataLoader):
    """A loader whose shuffles are the same for any number of workers.

    Each epoch draws a seed for the workers, even where there are none, before the seed of its shuffle; kept workers
    draw theirs in the first epoch only, and all later shuffles would be others.
    """

    def __iter__(self) -> _BaseDataLoaderIter:
        if self.persistent_workers and self._iterator is not None:
            torch.empty((), dtype=torch.int64).random_()
        return super().__iter__()


class MultiDomainHDMAPDataModule(AnomalibDataModule):
    """Source train, validation by the configured strategy, the reported source test, and a test set a target.

    Several sources are trained on in batches that hold as many maps of each; their maps can be had under the name of
    each, and joined under that of all (`A,B`).

    What the Engine trains and validates on is resized here, since some models read the loaders past their
    pre-processor. What is scored for the record comes at native size from `scoring_dataloader`.

    Args:
        domains: the sources first, then the targets, as `layout.read_domains` returns them.
        config: strategy, seeds, batch sizes and workers.
        val_batches: of the validation maps that the Engine sees; None: all.
    """

    def __init__(self, domains: Sequence[Domain], config: DataConfig, val_batches: int | None = None) -> None:
        super().__init__(config.batch_size, config.validation_batch, config.workers, seed=config.split_seed)
        self.source_domain = config.source_domain if len(config.sources) > 1 else domains[0].name
        splits = split(domains, config)
        # anomalib's own splitting is by-passed: it would halve every target's test set.
        self.train_maps = splits.train
        self.scored = {(self.source_domain, "val"): splits.val, (self.source_domain, "test"): splits.source_test}
        self.val_maps = spread(splits.val, val_batches and val_batches * config.validation_batch)
        for name, (_, val, test) in splits.of_sources.items():
            self.scored |= {(name, "val"): val, (name, "test"): test}
        self.scored |= {(name, "test"): table for name, table in splits.targets.items()}
        self.scored |= {(name, REFERENCE): table for name, table in splits.healthy.items()}
        self.transform = resize(config)
        self.packed: dict[str, Packed | Packs | None] = {domain.name: domain.packed for domain in domains}
        if len(splits.of_sources) > 1:
            healthy = {name: splits.healthy[name] for name in splits.of_sources}
            self.scored[self.source_domain, REFERENCE] = join(healthy)
            packed = {one.name: one.packed for one in domains[: len(healthy)] if one.packed}
            self.packed[self.source_domain] = Packs(packed) if packed else None

    def setup(self, stage: str | None = None) -> None:
        """Nothing is left to do: the sets are made with the module."""

    def _setup(self, _stage: str | None = None) -> None:
        """Required by the base class, called by nobody."""

    def train_dataloader(self) -> DataLoader:
        data = MapDataset(self.train_maps, 0, self.transform, self.packed[self.source_domain])
        several = "domain" in self.train_maps
        return self._loader(
            data, self.train_batch_size, shuffle=True, sampler=Balanced(self.train_maps["domain"]) if several else None
        )

    def val_dataloader(self) -> DataLoader:
        data = MapDataset(self.val_maps, self.seed or 0, self.transform, self.packed[self.source_domain])
        return self._loader(data, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self.scoring_dataloader(self.source_domain, "test", self.transform)

    def scoring_dataloader(self, domain: str, split: str, transform: Resize | Padded | None = None) -> DataLoader:
        """All maps of a split (val, test, reference) in the order of its table, at native size unless transformed."""
        data = MapDataset(self.scored[domain, split], self.seed or 0, transform, self.packed[domain])
        return self._loader(data, self.eval_batch_size)

    def chosen_dataloader(self, domain: str, rows: Sequence[int], split: str = "test") -> DataLoader:
        """Some maps of a domain, by their place in the table of a split, in the order given and at native size."""
        table = self.scored[domain, split].iloc[list(rows)]
        return self._loader(MapDataset(table, self.seed or 0, packed=self.packed[domain]), self.eval_batch_size)

    def named_dataloader(self, domain: str, maps: Sequence[tuple[str, int]], split: str) -> DataLoader:
        """The same by path and label: a healthy map and the fault that was drawn on it for validation share a path."""
        known = pd.MultiIndex.from_frame(self.scored[domain, split][["path", "label"]])
        places = known.get_indexer(pd.MultiIndex.from_tuples(maps))
        return self.chosen_dataloader(domain, places.tolist(), split)

    def _loader(
        self, data: MapDataset, batch_size: int, shuffle: bool = False, sampler: Balanced | None = None
    ) -> DataLoader:
        return _Loader(
            data,
            batch_size,
            shuffle=shuffle and sampler is None,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=ImageBatch.collate,
            persistent_workers=shuffle and self.num_workers > 0,
        )
