"""One map or mask from one file: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from maps import write_domain

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import formats, layout
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput

GREY = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equal_channels_are_one_map_whatever_the_transparency(tmp_path, channels):
    pixels = np.stack([GREY] * channels, axis=-1)
    pixels[..., 3:] = 9
    np.save(tmp_path / "a.npy", pixels)
    np.testing.assert_array_equal(formats.read_map(tmp_path / "a.npy"), GREY)


REFUSED = {
    "two channels": np.stack([GREY, GREY], axis=-1),
    "one line": GREY[0],
    "a stack": np.stack([GREY] * 5),
    "empty": GREY[:, :0],
    "words": np.array([["a", "b"]]),
    "yes and no": GREY > 3,
    "objects": np.array([[{}]]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_map_of_numbers_is_refused_by_name(tmp_path, what):
    np.save(tmp_path / "a.npy", REFUSED[what], allow_pickle=True)
    with pytest.raises(BadInput, match="a.npy"):
        formats.read_map(tmp_path / "a.npy")


class Trap:
    """Runs when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_code_of_a_file_is_run(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Trap(tmp_path / "ran")]]), allow_pickle=True)
    with pytest.raises(BadInput, match="a.npy cannot be read as a map"):
        formats.read_map(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


def test_a_picture_that_is_not_whole_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    with pytest.raises(BadInput, match=r"a.png cannot be read as a map \(not a whole PNG\); replace or remove it"):
        formats.read_map(tmp_path / "a.png")


@pytest.mark.parametrize("last", [0, 1, 2])
def test_channels_that_differ_are_no_map(tmp_path, last):
    pixels = np.stack([GREY] * 3, axis=-1)
    pixels[2, 3, last] += 1
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(BadInput, match="a.npy has 3 different channels"):
        formats.read_map(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.float32])
def test_a_mask_marks_what_is_not_zero_whatever_its_numbers(tmp_path, kind):
    np.save(tmp_path / "a.npy", (GREY % 3).astype(kind))
    np.testing.assert_array_equal(formats.read_mask(tmp_path / "a.npy"), GREY % 3 > 0)


def test_one_row_of_the_table_is_a_format_of_maps_and_masks_everywhere(tmp_path, monkeypatch):
    folder = write_domain(tmp_path, "domain_A", train=2, good=1, fault=1)
    marked = np.zeros((31, 95))
    marked[3, 4] = 1
    (folder / "test/masks").mkdir()
    np.savetxt(folder / "test/masks/000000.csv", marked, delimiter=",")
    for file in folder.rglob("*.tiff"):
        np.savetxt(file.with_suffix(".CSV"), formats.read_map(file), delimiter=",")
        file.unlink()
    with pytest.raises(BadInput, match=r"holds no map \(\.tiff, \.tif, \.png, \.npy\)"):
        layout.read_domain(tmp_path, "domain_A")
    monkeypatch.setitem(formats.READERS, ".csv", formats.Reader(lambda path: np.loadtxt(path, delimiter=",")))
    domain = layout.read_domain(tmp_path, "domain_A")
    assert domain.size == (31, 95) and len(domain.table) == 4
    found, problems = layout.check(tmp_path)
    assert found["maps"].tolist() == [2, 1, 1] and found["masks"].tolist() == [0, 0, 1] and problems == []
    module = MultiDomainHDMAPDataModule([domain, domain], DataConfig(validation="source_test"))
    masks = [item.gt_mask for item in module.scoring_dataloader("domain_A", "test").dataset]
    assert sum(int(mask.sum()) for mask in masks) == 1 and any(bool(mask[3, 4]) for mask in masks)
