"""Packed maps: read once, the same numbers after, and never a stale or damaged copy."""

import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import write_domain

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import layout, store
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    write_domain(tmp_path / "maps", "domain_A")
    return tmp_path / "maps"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded from now on."""
    seen: list[Path] = []
    decode = layout._decode
    monkeypatch.setattr(layout, "_decode", lambda path: seen.append(path) or decode(path))
    return seen


def same(one: layout.Domain, other: layout.Domain) -> bool:
    return one.table.drop(columns="row").equals(other.table.drop(columns="row", errors="ignore"))


def test_a_domain_is_decoded_once_and_then_the_same(root: Path, decoded: list[Path]) -> None:
    first = layout.read_domain(root, "domain_A")
    assert len(decoded) == len(first.table) == 28
    again = layout.read_domain(root, "domain_A")
    assert len(decoded) == 28 and same(again, first) and again.digest() == first.digest()
    assert same(first, layout.read_domain(root, "domain_A", pack=False))
    assert again.packed is not None
    for _, row in again.table.iterrows():
        np.testing.assert_array_equal(again.packed[row["row"]], layout.read_map(again.folder / row["path"]))
    plain = layout.read_domain(root, "domain_A", pack=False)
    np.testing.assert_array_equal(again.read(again.table.iloc[3:7]), plain.read(plain.table.iloc[3:7]))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_the_loaders_give_the_same_batches_packed_or_not(root: Path, part: str) -> None:
    batches = []
    for pack in (True, False):
        domains = layout.read_domains(root, ["domain_A"], pack)
        module = MultiDomainHDMAPDataModule(domains, DataConfig(image_size=(40, 60), validation="synthetic"))
        loader = getattr(module, f"{part}_dataloader")()
        batches.append([loader.dataset[i] for i in range(len(loader.dataset))])
    assert len(batches[0]) > 0
    for packed, plain in zip(*batches, strict=True):
        np.testing.assert_array_equal(packed.image, plain.image)
        assert packed.image_path == plain.image_path and packed.gt_label == plain.gt_label


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


def rewrite(file: Path) -> None:
    tifffile.imwrite(file, tifffile.imread(file) * 2)


@pytest.mark.parametrize("change", [touch, rewrite, Path.unlink], ids=["time", "content", "gone"])
def test_a_changed_file_is_noticed(root: Path, decoded: list[Path], change) -> None:
    before = layout.read_domain(root, "domain_A")
    change(root / "domain_A/train/good/000003.tiff")
    decoded.clear()
    after = layout.read_domain(root, "domain_A")
    assert decoded and (after.digest() == before.digest()) == (change is touch)
    assert len([path for path in store.cache_dir().glob("maps/*") if path.is_dir()]) == 1  # the stale one is gone


@pytest.mark.parametrize("file", ["pixels.npy", "table.parquet", "sums.json"])
@pytest.mark.parametrize("harm", [lambda b: b[:-9], lambda b: b[:200] + bytes([b[200] ^ 4]) + b[201:]])
def test_a_damaged_entry_is_read_anew(root: Path, decoded: list[Path], file: str, harm) -> None:
    before = layout.read_domain(root, "domain_A")
    [entry] = [path for path in store.cache_dir().glob("maps/*") if path.is_dir()]
    content = (entry / file).read_bytes()
    (entry / file).write_bytes(harm(content) if len(content) > 200 else content[:-9])
    decoded.clear()
    after = layout.read_domain(root, "domain_A")
    assert len(decoded) == 28 and same(after, before)
    decoded.clear()
    layout.read_domain(root, "domain_A")
    assert not decoded


def test_starts_at_the_same_time_pack_once(root: Path, decoded: list[Path]) -> None:
    found: list[layout.Domain] = []
    starts = [threading.Thread(target=lambda: found.append(layout.read_domain(root, "domain_A"))) for _ in range(4)]
    [start.start() for start in starts]
    [start.join() for start in starts]
    assert len(found) == 4 and len(decoded) == 28 and all(same(one, found[0]) for one in found)


def test_a_full_disk_says_so_and_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 5))  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="the disk is full.*data.packed=false"):
        layout.read_domain(root, "domain_A")
    assert not [path for path in (store.cache_dir() / "maps").iterdir() if path.is_dir()]
    assert layout.read_domain(root, "domain_A", pack=False).packed is None


def test_a_cache_that_cannot_be_written_says_so(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match="cannot be packed.*data.packed=false"):
        layout.read_domain(root, "domain_A")


def test_bad_maps_are_refused_and_nothing_is_packed(root: Path) -> None:
    (root / "domain_A/test/good/000001.tiff").write_bytes(b"no image")
    with pytest.raises(BadInput, match="cannot be read as a map"):
        layout.read_domain(root, "domain_A")
    assert not [path for path in (store.cache_dir() / "maps").iterdir() if path.is_dir()]


def test_a_worker_process_gets_the_place_of_the_maps_not_the_maps(root: Path) -> None:
    packed = layout.read_domain(root, "domain_A").packed
    assert packed is not None
    expected = packed[3]
    sent = pickle.dumps(packed)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[3], expected)
