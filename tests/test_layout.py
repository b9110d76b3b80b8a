"""Maps on disk: read as they are, checked one by one, digested by content."""

import cv2
import numpy as np
import pytest
import tifffile
from conftest import write_domain

from hdmap_mlflow.data import layout
from hdmap_mlflow.errors import BadInput


def test_float_maps_arrive_unclipped_and_non_zero(tmp_path):
    stored = np.array([[0.1, 2.94], [-0.5, 0.0]], np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", stored)
    np.save(tmp_path / "b.npy", stored.astype(np.float64))
    for name in ("a.tiff", "b.npy"):
        read = layout.read_map(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_integer_png_is_scaled_by_its_types_range(tmp_path, kind):
    top = np.iinfo(kind).max
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, top], [top // 5, 1]], kind))
    read = layout.read_map(tmp_path / "a.png")
    np.testing.assert_allclose(read, [[0, 1], [0.2, 1 / top]], rtol=1e-4)


def test_any_domain_names_and_map_sizes_are_found(tmp_path):
    for name in ("north sensor", "B-2"):
        write_domain(tmp_path, name)
    (tmp_path / "notes").mkdir()
    assert layout.find_domains(tmp_path) == ["B-2", "north sensor"]
    assert layout.choose_domains(tmp_path, "B-2", "auto") == ["B-2", "north sensor"]
    assert layout.read_domain(tmp_path, "B-2").size == (31, 95)


@pytest.mark.parametrize(
    ("source", "targets", "says"),
    [
        ("domain_X", "auto", "unknown domain 'domain_X'"),
        ("domain_A", ("domain_B", "domainC"), "did you mean 'domain_C'"),
        ("domain_A", ("domain_A",), "also among the targets"),
        ("domain_A", ("domain_B", "domain_B"), "twice"),
    ],
)
def test_a_wrong_choice_of_domains_is_named(maps, source, targets, says):
    with pytest.raises(BadInput, match=says.replace("(", r"\(")):
        layout.choose_domains(maps, source, targets)


def test_a_missing_root_says_what_to_give():
    with pytest.raises(BadInput, match="data_root=demo"):
        layout.find_root("/no/such/folder")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:200])


def _replace(pixels):
    return lambda path: tifffile.imwrite(path, pixels)


SPOILED = {
    "truncated": (_truncate, "cannot be read"),
    "no image": (lambda path: path.write_text("hello"), "cannot be read"),
    "NaN": (_replace(np.full((31, 95), np.nan, np.float32)), "NaN"),
    "infinite": (_replace(np.where(np.eye(31, 95) > 0, np.inf, 1).astype(np.float32)), "infinite"),
    "constant": (_replace(np.ones((31, 95), np.float32)), "constant"),
    "another size": (_replace(np.random.default_rng(0).random((32, 95), np.float32)), "map sizes differ"),
    "colours": (_replace(np.random.default_rng(0).random((31, 95, 3), np.float32)), "different channels"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_map_is_named_with_the_way_out(tmp_path, how):
    spoil, says = SPOILED[how]
    folder = write_domain(tmp_path, "domain_A")
    spoil(folder / "test/good/000003.tiff")
    with pytest.raises(BadInput, match="000003.tiff") as caught:
        layout.read_domain(tmp_path, "domain_A")
    assert says in str(caught.value)


def test_domains_of_different_map_sizes_do_not_mix(maps, tmp_path):
    folder = write_domain(tmp_path, "domain_A")
    write_domain(tmp_path, "domain_B")
    for path in folder.rglob("*.tiff"):
        tifffile.imwrite(path, tifffile.imread(path)[:30])
    with pytest.raises(BadInput, match="domain_A is 30x95, domain_B is 31x95"):
        layout.read_domains(tmp_path, ["domain_A", "domain_B"])


def test_the_same_map_in_train_and_test_is_a_problem(tmp_path):
    folder = write_domain(tmp_path, "domain_A")
    (folder / "test/good/copy.tiff").write_bytes((folder / "train/good/000000.tiff").read_bytes())
    with pytest.raises(BadInput, match="same map"):
        layout.read_domain(tmp_path, "domain_A")


def test_check_counts_every_problem_and_every_map(tmp_path):
    folder = write_domain(tmp_path, "domain_A")
    write_domain(tmp_path, "domain_B", fault=0)
    _truncate(folder / "test/good/000000.tiff")
    _truncate(folder / "test/fault/000000.tiff")
    table, problems = layout.check(tmp_path)
    assert len(problems) == 3
    assert any("domain_B" in problem and "AUROC is undefined" in problem for problem in problems)
    assert dict(zip(table["domain"] + "/" + table["split"], table["maps"], strict=True)) == {
        "domain_A/train/good": 12,
        "domain_A/test/good": 7,
        "domain_A/test/fault": 7,
        "domain_B/train/good": 12,
        "domain_B/test/good": 8,
    }


def test_digest_follows_content_not_names_formats_or_times(tmp_path):
    one, other = write_domain(tmp_path / "1", "domain_A"), write_domain(tmp_path / "2", "domain_A")
    before = layout.read_domain(tmp_path / "1", "domain_A").digest()
    for i, path in enumerate(sorted((other / "train/good").iterdir(), reverse=True)):
        np.save(path.with_name(f"renamed_{i}.npy"), tifffile.imread(path))
        path.unlink()
    assert layout.read_domain(tmp_path / "2", "domain_A").digest() == before
    (one / "test/good/000000.tiff").rename(one / "test/fault/moved.tiff")
    assert layout.read_domain(tmp_path / "1", "domain_A").digest() != before


def test_metadata_gives_group_and_severity_and_its_mistakes_are_problems(tmp_path):
    folder = write_domain(tmp_path, "domain_A")
    (folder / "metadata.csv").write_text("path,group,severity\ntest/fault/000001.tiff,warm,1.5\n")
    table = layout.read_domain(tmp_path, "domain_A").table.set_index("path")
    assert table.loc["test/fault/000001.tiff", ["group", "severity"]].tolist() == ["warm", 1.5]
    assert table.loc["test/fault/000002.tiff", "group"] == ""
    (folder / "metadata.csv").write_text("path,group\ntest/fault/none.tiff,warm\n")
    with pytest.raises(BadInput, match="none.tiff"):
        layout.read_domain(tmp_path, "domain_A")
    (folder / "metadata.csv").write_text("file,group\na,b\n")
    with pytest.raises(BadInput, match="expected path,group,severity"):
        layout.read_domain(tmp_path, "domain_A")


def test_masks_are_found_by_stem_and_must_fit(tmp_path):
    folder = write_domain(tmp_path, "domain_A")
    (folder / "test/masks").mkdir()
    cv2.imwrite(str(folder / "test/masks/000002.png"), np.eye(31, 95, dtype=np.uint8) * 255)
    table = layout.read_domain(tmp_path, "domain_A").table.set_index("path")
    assert table.loc["test/fault/000002.tiff", "mask"] == "test/masks/000002.png"
    assert table.loc["test/fault/000001.tiff", "mask"] == ""
    cv2.imwrite(str(folder / "test/masks/000002.png"), np.eye(3, dtype=np.uint8) * 255)
    with pytest.raises(BadInput, match="its map's size"):
        layout.read_domain(tmp_path, "domain_A")
