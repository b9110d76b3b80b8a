"""The data digest: any one ingredient of what was read changes it, and nothing else does."""

import os
from hashlib import blake2b, sha256
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from maps import write_domain

from hdmap_mlflow.data import formats, layout
from hdmap_mlflow.errors import BadInput

ROLES = {"train/good": "train|0", "test/good": "test|0", "test/fault": "test|1"}
FIRST = "test/fault/000000"


def mark(file: Path, value: int = 255, rows: slice = slice(3, 5)) -> None:
    mask = np.zeros((31, 95), np.uint8)
    mask[rows, :40] = value
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(cv2.imencode(".png", mask)[1].tobytes())  # OpenCV knows no suffix in capitals


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two maps of each kind, a mask for one, a group and a severity for another."""
    folder = write_domain(tmp_path / "root", "domain_A", 2, 2, 2)
    mark(folder / "test/masks/000001.png")
    (folder / "metadata.csv").write_text(f"path,group,severity\n{FIRST}.tiff,warm,1.5\ntest/good/000000.tiff,cold,\n")
    return folder


def digest(folder: Path) -> str:
    return layout.read_domain(folder.parent, folder.name, pack=False).digest()


def by_hand(folder: Path) -> str:
    known = pd.read_csv(folder / "metadata.csv").set_index("path")
    lines = []
    for role, words in ROLES.items():
        for file in (folder / role).iterdir():
            content = blake2b(tifffile.imread(file).tobytes(), digest_size=16)
            mask = folder / "test/masks" / f"{file.stem}.png"
            if role == "test/fault" and mask.exists():
                content.update((cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) > 0).tobytes())
            path = f"{role}/{file.name}"
            group, severity = known.loc[path] if path in known.index else ("", float("nan"))
            lines.append(f"{words}|{group}|{severity}|{content.hexdigest()}")
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()


def test_the_digest_is_the_same_as_ever(folder):
    """Recorded runs and studies are found again by it."""
    assert digest(folder) == by_hand(folder)
    write_domain(folder.parent, "domain_B", 2, 2, 2)
    domains = layout.read_domains(folder.parent, ["domain_A", "domain_B"], pack=False)
    both = sorted(domain.digest() for domain in domains)
    assert layout.digest(domains) == layout.digest(domains[::-1]) == sha256("".join(both).encode()).hexdigest()[:16]
    assert layout.digest(domains[:1]) != layout.digest(domains)


def change_pixel(folder: Path) -> None:
    pixels = tifffile.imread(folder / f"{FIRST}.tiff")
    pixels[30, 94] = np.nextafter(pixels[30, 94], np.float32(2))
    tifffile.imwrite(folder / f"{FIRST}.tiff", pixels)


def metadata(old: str, new: str):
    def change(folder: Path) -> None:
        file = folder / "metadata.csv"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


def move(old: str, new: str):
    return lambda folder: (folder / old).rename(folder / new)


def add(folder: Path) -> None:
    tifffile.imwrite(folder / "test/good/new.tiff", tifffile.imread(folder / f"{FIRST}.tiff") * 2)


MATTERS = {
    "one pixel by one bit": change_pixel,
    "a mask is added": lambda folder: mark(folder / "test/masks/000000.png"),
    "a mask is removed": lambda folder: (folder / "test/masks/000001.png").unlink(),
    "a mask changes": lambda folder: mark(folder / "test/masks/000001.png", rows=slice(3, 6)),
    "a mask goes to another map": move("test/masks/000001.png", "test/masks/000000.png"),
    "a group": metadata("warm", "hot"),
    "a group is gone": metadata("cold", ""),
    "a severity": metadata("1.5", "1.25"),
    "a severity is gone": metadata("1.5", ""),
    "from train to test": move("train/good/000000.tiff", "test/good/moved.tiff"),
    "from good to fault": move("test/good/000001.tiff", "test/fault/moved.tiff"),
    "from fault to good": move("test/fault/000001.tiff", "test/good/moved.tiff"),
    "a map more": add,
    "a map less": lambda folder: (folder / "test/good/000001.tiff").unlink(),
}


@pytest.mark.parametrize("what", MATTERS)
def test_any_one_ingredient_changes_the_digest(folder, what):
    before = digest(folder)
    MATTERS[what](folder)
    assert digest(folder) != before


def suffixes(folder: Path) -> None:
    np.save(folder / "train/good/000000.npy", tifffile.imread(folder / "train/good/000000.tiff").astype(np.float64))
    (folder / "train/good/000000.tiff").unlink()
    move("train/good/000001.tiff", "train/good/000001.TIF")(folder)
    move("test/fault/000001.tiff", "test/fault/000001.TifF")(folder)
    mask = cv2.imread(str(folder / "test/masks/000001.png"), cv2.IMREAD_UNCHANGED)
    np.save(folder / "test/masks/000001.npy", mask > 0)
    (folder / "test/masks/000001.png").unlink()


def rename(folder: Path) -> None:
    for role in ROLES:
        for file in sorted((folder / role).iterdir(), reverse=True):
            file.rename(file.with_stem(f"{9 - int(file.stem)}x"))
    move("test/masks/000001.png", "test/masks/8x.png")(folder)
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.replace("000000", "9x"))


def reorder(folder: Path) -> None:
    first, *lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\n".join([first, *reversed(lines)]))


DOES_NOT = {
    "names": rename,
    "suffixes of the same pixels": suffixes,
    "times": lambda folder: [os.utime(file, ns=(1, 1)) for file in folder.rglob("*")],
    "order of the metadata": reorder,
    "the grey of a mask": lambda folder: mark(folder / "test/masks/000001.png", value=1),
    "a mask of no fault map": lambda folder: mark(folder / "test/masks/none.png"),
    "a file that is no map": lambda folder: (folder / "test/good/notes.txt").write_text("x"),
}


@pytest.mark.parametrize("what", DOES_NOT)
def test_what_is_not_read_does_not_change_the_digest(folder, what):
    before = digest(folder)
    DOES_NOT[what](folder)
    assert digest(folder) == before


def test_the_digest_does_not_depend_on_the_folder_its_name_or_packing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    before = digest(folder)
    other = folder.rename(tmp_path / "renamed")
    assert digest(other) == before == layout.read_domain(tmp_path, "renamed").digest()
    assert layout.read_domain(tmp_path, "renamed").digest() == before  # as it was packed


# ------------------------------------------------------------------------------------- suffixes in capitals
@pytest.mark.parametrize("suffix", [".TIF", ".TIFF", ".Tiff", ".NPY", ".PNG", ".Png"])
def test_maps_and_masks_with_a_suffix_in_capitals_are_found_and_read(tmp_path, suffix):
    folder = tmp_path / "domain_A"
    rng = np.random.default_rng(0)
    for role in ROLES:
        (folder / role).mkdir(parents=True)
        stored = rng.integers(1, 255, (4, 6)).astype(np.uint8)
        _write(folder / role / f"one{suffix}", stored)
        if role == "test/fault":
            (folder / "test/masks").mkdir()
            _write(folder / "test/masks" / f"one{suffix}", (stored > 100).astype(np.uint8))
    domain = layout.read_domain(tmp_path, "domain_A", pack=False)
    assert sorted(domain.table["path"]) == sorted(f"{role}/one{suffix}" for role in ROLES)
    [row] = domain.table.query("label == 1").to_dict("records")
    scale = 255 if suffix.lower() == ".png" else 1
    np.testing.assert_allclose(formats.read_map(domain.folder / row["path"]), stored / scale, rtol=1e-6)
    np.testing.assert_array_equal(formats.read_mask(domain.folder / row["mask"]), stored > 100)
    plain = blake2b((stored / np.float32(scale)).astype(np.float32).tobytes(), digest_size=16)
    assert row["pixels"] == plain.hexdigest()
    plain.update((stored > 100).tobytes())
    assert row["digest"] == plain.hexdigest()


def _write(file: Path, pixels: np.ndarray) -> None:
    match file.suffix.lower():
        case ".npy":
            with file.open("wb") as stream:
                np.save(stream, pixels)
        case ".png":
            file.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        case _:
            tifffile.imwrite(file, pixels)


def test_a_map_is_the_same_map_with_a_mask_or_without(folder):
    """The same pixels in test/good and, with a mask, in test/fault would be reported under both labels."""
    (folder / "test/good/again.tiff").write_bytes((folder / "test/fault/000001.tiff").read_bytes())
    with pytest.raises(BadInput, match="same map"):
        digest(folder)
