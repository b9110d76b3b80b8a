"""Packed maps: read once, the same numbers after, and never a stale or damaged copy."""

import errno
import json
import os
import pickle
import shutil
import threading
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from filelock import FileLock, Timeout
from maps import write_domain

from hdmap_mlflow import files
from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import formats, layout
from hdmap_mlflow.data import packed as store
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
    decode = formats.READERS[".tiff"].decode
    counting = formats.Reader(lambda path: seen.append(path) or decode(path))
    monkeypatch.setitem(formats.READERS, ".tiff", counting)
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
        np.testing.assert_array_equal(again.packed[row["row"]], formats.read_map(again.folder / row["path"]))
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
@pytest.mark.parametrize(
    "harm",
    [
        lambda b: b[:-9],
        lambda b: b[:200] + bytes([b[200] ^ 4]) + b[201:] if len(b) > 200 else b"[]",
        lambda b: b"{}",
        lambda b: b"",
    ],
)
def test_a_damaged_entry_is_read_anew(root: Path, decoded: list[Path], file: str, harm) -> None:
    before = layout.read_domain(root, "domain_A")
    [entry] = [path for path in store.cache_dir().glob("maps/*") if path.is_dir()]
    content = (entry / file).read_bytes()
    (entry / file).write_bytes(harm(content))
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


# ------------------------------------------------------------------------------------------------ one entry
MAPS = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


def packed(path: Path, maps: np.ndarray = MAPS) -> store.Packed:
    packer = store.Packer(path, len(maps))
    rows = [packer.put(pixels) for pixels in maps]
    assert rows == list(range(len(maps)))
    return packer.finish(pd.DataFrame({"row": rows}))[1]


def test_an_entry_is_named_by_its_folder_and_by_names_sizes_and_times_of_its_files(root: Path, tmp_path: Path) -> None:
    folder = root / "domain_A"
    files = sorted(folder.rglob("*.tiff"))
    first = store.entry(folder, files)
    assert first.parent == tmp_path / "cache" / "maps" and store.entry(folder, files) == first
    where, _, what = first.name.partition("-")
    assert (len(where), len(what)) == (12, 24)
    (tmp_path / "link").symlink_to(folder)
    linked = [tmp_path / "link" / file.relative_to(folder) for file in files]
    assert store.entry(tmp_path / "link", linked) == first
    seen = {first.name, store.entry(folder, files[1:]).name}
    touch(files[0])
    seen.add(store.entry(folder, files).name)
    files[0].write_bytes(files[0].read_bytes() + b"more")
    touch(files[0])
    seen.add(store.entry(folder, files).name)
    files[0] = files[0].rename(files[0].with_name("other.tiff"))
    seen.add(store.entry(folder, files).name)
    assert len(seen) == 5 and {name[:13] for name in seen} == {f"{where}-"}
    shutil.copytree(folder, tmp_path / "copy")  # with its times
    copied = store.entry(tmp_path / "copy", [tmp_path / "copy" / file.relative_to(folder) for file in files])
    assert copied.name[13:] in {name[13:] for name in seen} and copied.name[:13] != first.name[:13]


def test_what_was_packed_by_another_format_is_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.entry(root, [])
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert store.entry(root, []).name != before.name


def test_maps_come_back_as_they_were_put_as_copies_of_one_mapped_file(tmp_path: Path) -> None:
    found = packed(tmp_path / "a-1")
    for row, pixels in enumerate(MAPS):
        np.testing.assert_array_equal(found[row], pixels)
        found[row][:] = -1  # what is done to a map stays with it
        np.testing.assert_array_equal(found[row], pixels)
    assert isinstance(found._pixels, np.memmap)
    assert np.load(tmp_path / "a-1/pixels.npy").dtype == np.float32
    table, again = store.load(tmp_path / "a-1")  # type: ignore[misc]
    assert table["row"].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(again[2], MAPS[2])


def test_a_map_of_another_size_takes_no_row(tmp_path: Path) -> None:
    packer = store.Packer(tmp_path / "a-1", 3)
    assert [packer.put(np.ones(size)) for size in ((2, 3), (3, 2), (2, 3))] == [0, -1, 1]
    packer.discard()
    assert not list(tmp_path.iterdir())


def test_check_sums_are_those_of_the_whole_file_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK", 100)
    packed(tmp_path / "a-1")
    sums = json.loads((tmp_path / "a-1/sums.json").read_text())
    assert sums == {
        name: zlib.crc32((tmp_path / "a-1" / name).read_bytes()) for name in ("pixels.npy", "table.parquet")
    }


def test_only_older_entries_of_the_same_folder_go(tmp_path: Path) -> None:
    for name in ("a-1", "b-1"):
        packed(tmp_path / name)
    (tmp_path / "a-2.lock").write_text("")
    packed(tmp_path / "a-2")
    assert {path.name for path in tmp_path.iterdir()} == {"a-2", "a-2.lock", "b-1"}


def test_an_entry_that_is_not_whole_is_none_and_goes(tmp_path: Path) -> None:
    packed(tmp_path / "a-1")
    (tmp_path / "a-1/pixels.npy").unlink()
    assert store.load(tmp_path / "a-1") is None and not (tmp_path / "a-1").exists()
    assert store.load(tmp_path / "never") is None


@pytest.mark.parametrize("step", ["put", "finish"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_fails_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    packer = store.Packer(tmp_path / "a-1", 2)
    packer.put(MAPS[0])
    if step == "put":
        packer.pixels = None
        monkeypatch.setattr(np.lib.format, "open_memmap", fail)
    else:
        monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    why = "the disk is full" if number == errno.ENOSPC else os.strerror(number)
    with pytest.raises(BadInput, match=f"in {tmp_path} \\({why}\\).*HDMAP_CACHE.*data.packed=false"):
        packer.put(MAPS[1]) if step == "put" else packer.finish(pd.DataFrame({"row": [0]}))
    assert not list(tmp_path.iterdir())


def test_maps_that_just_fit_the_disk_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def usage(folder: Path):  # noqa: ANN202
        asked.append(folder)
        return shutil._ntuple_diskusage(10**6, 10**6, free)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)
    free = MAPS.nbytes
    packed(tmp_path / "a-1")
    assert [folder.parent for folder in asked] == [tmp_path]
    free = MAPS.nbytes - 1
    with pytest.raises(BadInput, match="the disk is full"):
        packed(tmp_path / "a-2")


def test_an_entry_is_locked_while_it_is_made_and_free_after_even_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a-1"
    with pytest.raises(ZeroDivisionError), store.lock(path):
        with pytest.raises(Timeout):
            FileLock(f"{path}.lock").acquire(timeout=0)
        raise ZeroDivisionError
    with store.lock(path):
        pass
    FileLock(f"{path}.lock").acquire(timeout=0)


def test_maps_in_use_stay_readable_when_the_cache_is_deleted(root: Path) -> None:
    """A second launch on changed data removes the entry, or a user empties the cache, while a run goes on."""
    packed = layout.read_domain(root, "domain_A").packed
    assert packed is not None
    kept = layout.read_domain(root, "domain_A").packed
    assert kept is not None
    expected = kept[3]
    shutil.rmtree(store.cache_dir() / "maps")
    np.testing.assert_array_equal(packed[3], expected)
    if Path("/proc/self/fd").exists():  # and in a worker that was not forked
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(packed))[3], expected)
