"""What lies in a domain's folder: maps, masks and metadata.csv, what is wrong with them, and what no run reads."""

import os
from pathlib import Path

import pytest
from maps import write_domain

from hdmap_mlflow.data import layout
from hdmap_mlflow.data.folder import find_domains, look, printable
from hdmap_mlflow.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_domain(tmp_path, "domain_A", 2, 2, 2)


def touch(folder: Path, *places: str) -> None:
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"")


def test_a_good_folder_has_its_files_in_order_and_nothing_to_say(folder):
    touch(folder, "test/masks/000001.png", "test/masks/000000.npy", "metadata.csv")
    found = look(folder)
    roles = [role for role in ("train/good", "test/good", "test/fault") for _ in range(2)]
    assert list(found.maps.values()) == roles
    assert list(found.maps) == [folder / role / f"00000{i % 2}.tiff" for i, role in enumerate(roles)]
    masks = {"000000": folder / "test/masks/000000.npy", "000001": folder / "test/masks/000001.png"}
    assert found.masks == masks and found.metadata == folder / "metadata.csv"
    assert found.files == [*found.maps, *masks.values(), found.metadata]
    assert found.problems == found.unread == []


def test_hidden_files_and_folders_are_not_there(folder):
    """As the Finder, Jupyter and others leave them beside every file that they show."""
    touch(folder, "train/good/._000000.tiff", "test/good/.ipynb_checkpoints/000000.tiff", "test/masks/._000000.png")
    touch(folder, ".DS_Store", "train/.DS_Store", ".git/x.tiff")
    found = look(folder)
    assert len(found.maps) == 6 and found.masks == {} and found.problems == found.unread == []


def test_hidden_folders_and_checkpoints_are_no_domains(tmp_path):
    for name in (".hidden", ".ipynb_checkpoints", "__MACOSX", "checkpoints", "old_checkpoints", "b", "a_"):
        (tmp_path / name / "train").mkdir(parents=True)
    assert find_domains(tmp_path) == ["a_", "b"]


@pytest.mark.parametrize("part", ["train", "test", "both"])
def test_a_root_that_is_a_domain_itself_is_told_apart(tmp_path, part):
    for name in ("train", "test") if part == "both" else (part,):
        (tmp_path / name / "good").mkdir(parents=True)
    with pytest.raises(BadInput, match=f"no domain below {tmp_path}; .*; it is a domain itself, perhaps: give"):
        find_domains(tmp_path)


UNREAD = {
    "test/good holds 1.jpg, which no run reads; maps are .tiff, .tif, .png, .npy: convert": "test/good/1.jpg",
    "train/good holds a.bmp, b.gif, c.webp and 2 more, which": (
        "train/good/d.mat train/good/a.bmp train/good/c.webp train/good/b.gif train/good/e.txt"
    ),
    "train/good holds a.csv, b.csv, c.csv, which": "train/good/c.csv train/good/a.csv train/good/b.csv",
    "test/fault holds more, which no run reads; maps are": "test/fault/more/1.tiff",
    "test/masks holds 000001.bmp, which": "test/masks/000001.bmp",
    "train holds fault, which no run reads; it may hold good": "train/fault/1.tiff",
    "test holds defect, loose.tiff, which no run reads; it may hold good, fault, masks": (
        "test/defect/1.tiff test/loose.tiff"
    ),
    "domain_A holds Metadata.csv, val, x.npy, which no run reads; it may hold train, test, metadata.csv": (
        "Metadata.csv val/1.tiff x.npy"
    ),
    "masks/7.png is the mask of no map in test/fault; give it the name of its map or remove it": "test/masks/7.png",
    "masks/000001_mask.png is the mask of no map": "test/masks/000001_mask.png",
}


@pytest.mark.parametrize("says", UNREAD)
def test_what_no_run_reads_is_a_line_of_check_data_and_no_hindrance(folder, says):
    before = layout.read_domain(folder.parent, "domain_A", pack=False).digest()
    touch(folder, *UNREAD[says].split())
    found = look(folder)
    assert found.problems == [] and found.masks == {}
    [line] = found.unread
    assert says in line
    assert layout.check(folder.parent)[1] == [line]
    assert layout.read_domain(folder.parent, "domain_A", pack=False).digest() == before


def test_notes_beside_a_domains_folders_are_nobodys_business(folder):
    touch(folder, "README.md", "LICENSE")
    assert look(folder).unread == []


def test_masks_that_more_than_one_map_or_mask_could_have_are_problems(folder):
    touch(folder, "test/masks/000000.png", "test/masks/000000.npy", "test/fault/000001.npy", "test/masks/000001.png")
    touch(folder, "test/masks/none.npy", "test/masks/none.png")
    found = look(folder)
    masks = folder / "test/masks"
    assert found.problems == [
        f"{masks / '000000.png'} and 000000.npy are masks of the same map; keep the right one",
        f"{masks / '000001.png'} may be the mask of 2 maps; give each map a name of its own",
    ]
    assert len(found.unread) == 2 and set(found.masks) == {"000000", "000001"}


def test_maps_of_one_name_are_told_apart_where_there_is_no_mask(folder):
    touch(folder, "test/fault/000001.npy", "test/good/000001.npy")
    assert look(folder).problems == []


IRREGULAR = {
    "a pipe": (os.mkfifo, "it is no file"),
    "a folder": (os.mkdir, "it is no file"),
    "a link to nothing": (lambda path: os.symlink("nowhere", path), "No such file or directory"),
    "a link to itself": (lambda path: os.symlink(path.name, path), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("place", ["train/good/x.tiff", "test/fault/x.npy", "test/masks/000001.png", "metadata.csv"])
@pytest.mark.parametrize("what", IRREGULAR)
def test_what_is_no_file_is_a_problem_and_not_waited_for(folder, what, place):
    make, says = IRREGULAR[what]
    (folder / "test/masks").mkdir()
    make(folder / place)
    found = look(folder)
    assert found.problems == [f"{folder / place} cannot be read ({says}); replace or remove it"]
    assert len(found.files) == 6
    with pytest.raises(BadInput, match="cannot be read"):
        layout.read_domain(folder.parent, "domain_A")
    assert layout.check(folder.parent)[1] == found.problems


def test_a_link_to_a_map_is_a_map(folder):
    (folder / "test/good/x.tiff").symlink_to(folder / "train/good/000000.tiff")
    assert len(look(folder).maps) == 7 and look(folder).problems == []


@pytest.mark.parametrize("place", ["", "train/good", "test/fault", "test/masks"])
def test_a_folder_that_may_not_be_read_is_a_problem(folder, monkeypatch, place):
    (folder / "test/masks").mkdir()
    listed = os.listdir

    def refuse(path):
        if Path(path) == folder / place:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)
    line = f"{folder / place} cannot be read (Permission denied); make it a folder that you may read"
    found = look(folder)
    assert found.problems == [line] and layout.check(folder.parent)[1][0] == line
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\)"):
        layout.read_domain(folder.parent, "domain_A")


def test_a_root_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(BadInput, match=r"data root .* cannot be read \(Permission denied\); change its permissions"):
        find_domains(tmp_path)


def test_a_name_that_is_not_utf_8_is_a_problem_that_a_console_can_show(folder):
    spoilt = os.fsdecode(b"\xff\xfe.tiff")
    touch(folder, f"test/good/{spoilt}", "test/good/ü.tiff")
    found = look(folder)
    assert found.problems == [f"{folder}/test/good/\\udcff\\udcfe.tiff has a name that is not UTF-8; rename it"]
    assert folder / "test/good/ü.tiff" in found.maps and len(found.maps) == 7
    assert printable("ü") == "ü" and printable(spoilt) == "\\udcff\\udcfe.tiff"


@pytest.mark.parametrize("part", ["train", "test/good"])
def test_a_file_in_place_of_a_folder_is_a_problem(folder, part):
    (folder / part).rename(folder.parent / "away")
    touch(folder, part)
    assert any(f"{part}" in line and "cannot be read (Not a directory)" in line for line in look(folder).problems)
