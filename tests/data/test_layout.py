"""Maps on disk: read as they are, checked one by one, digested by content."""

import os
import re
import shutil
from hashlib import blake2b

import cv2
import numpy as np
import pytest
import tifffile
from maps import write_domain
from pydantic import ValidationError

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import formats, layout
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import domain_flaw


def test_float_maps_arrive_unclipped_and_non_zero(tmp_path):
    stored = np.array([[0.1, 2.94], [-0.5, 0.0]], np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", stored)
    np.save(tmp_path / "b.npy", stored.astype(np.float64))
    for name in ("a.tiff", "b.npy"):
        read = formats.read_map(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, stored)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_integer_png_is_scaled_by_its_types_range(tmp_path, kind):
    top = np.iinfo(kind).max
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, top], [top // 5, 1]], kind))
    read = formats.read_map(tmp_path / "a.png")
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
        ("domain_A", ("domain_B", "domain_B"), "^a domain stands twice"),
    ],
)
def test_a_wrong_choice_of_domains_is_named(maps, source, targets, says):
    with pytest.raises(BadInput, match=says.replace("(", r"\(")):
        layout.choose_domains(maps, source, targets)


def test_a_missing_root_says_what_to_give():
    with pytest.raises(BadInput, match="data_root=demo"):
        layout.find_root("/no/such/folder")


def test_a_root_is_found_by_tilde_and_links_and_demo_is_the_simulated_set(tmp_path, monkeypatch):
    (tmp_path / "maps").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "maps")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "maps"), "~/maps", str(tmp_path / "link"), "maps"):
        assert layout.find_root(name) == (tmp_path / "maps").resolve()
    monkeypatch.setattr("hdmap_mlflow.data.simulate.demo", lambda: tmp_path / "simulated")
    assert layout.find_root("demo") == tmp_path / "simulated"
    with pytest.raises(BadInput, match="/nowhere is not a folder.*data_root=demo"):
        layout.find_root("/nowhere")


def test_a_folder_with_train_or_with_test_is_a_domain_and_a_root_without_one_is_refused(tmp_path):
    with pytest.raises(BadInput, match=f"no domain below {tmp_path}.*{{train/good,test/good,test/fault}}"):
        layout.find_domains(tmp_path)
    for path in ("b/train", "a/test", "c/Train/good", "d/other"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "e").write_text("a file")
    assert layout.find_domains(tmp_path) == ["a", "b"]


def test_an_unknown_domain_is_told_which_there_are(maps):
    with pytest.raises(BadInput, match="known: domain_A, domain_B, domain_C$"):
        layout.choose_domains(maps, "elsewhere", "auto")


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
    assert any(
        str(tmp_path / "domain_B/test/fault") in problem and "AUROC is undefined" in problem for problem in problems
    )
    assert dict(zip(table["domain"] + "/" + table["split"], table["maps"], strict=True)) == {
        "domain_A/train/good": 12,
        "domain_A/test/good": 7,
        "domain_A/test/fault": 7,
        "domain_B/train/good": 12,
        "domain_B/test/good": 8,
    }


def test_check_tells_of_every_part_what_its_files_hold(tmp_path):
    folder = write_domain(tmp_path, "domain_A", train=3, good=3, fault=3)
    lines = ["path,group,severity", "test/good/000000.tiff,warm,", "test/good/000002.tiff,warm,0"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    (folder / "test/good/000001.tiff").unlink()
    whole = np.arange(31 * 95, dtype=np.uint16).reshape(31, 95) * 20
    tifffile.imwrite(folder / "test/good/000001.tiff", whole)
    (folder / "test/masks").mkdir()
    for i in (0, 2):
        cv2.imwrite(str(folder / f"test/masks/00000{i}.png"), np.eye(31, 95, dtype=np.uint8))
    table, problems = layout.check(tmp_path)
    assert problems == []
    for row, (role, masks, groups, dtype) in zip(
        table.to_dict("records"),
        (
            ("train/good", 0, "none", "float32"),
            ("test/good", 0, "2 of warm, 1 of no group", "float32/uint16"),
            ("test/fault", 2, "none", "float32"),
        ),
        strict=True,
    ):
        pixels = np.stack([tifffile.imread(file).astype(np.float64) for file in (folder / role).iterdir()])
        expected = {"domain": "domain_A", "split": role, "maps": 3, "size": "31x95", "dtype": dtype}
        expected |= {"min": pixels.min(), "mean": pytest.approx(pixels.mean()), "max": pixels.max()}
        assert row == expected | {"masks": masks, "groups": groups}


def test_check_goes_on_after_a_part_and_a_domain_without_maps(tmp_path):
    roles = ("train/good", "test/good", "test/fault")
    for name, emptied in (("a", roles[:1]), ("b", roles), ("c", ()), ("d", roles[1:])):
        folder = write_domain(tmp_path, name, train=1, good=2, fault=2)
        for role in emptied:
            for file in (folder / role).iterdir():
                file.unlink()
    table, problems = layout.check(tmp_path)
    assert (table["domain"] + "/" + table["split"] + " " + table["size"]).tolist() == [
        f"{part} 31x95"
        for part in ("a/test/good", "a/test/fault", "c/train/good", "c/test/good", "c/test/fault", "d/train/good")
    ]
    assert [problem.split(" holds no map")[0] for problem in problems] == [
        str(tmp_path / part) for part in ("a/train/good", "b/train/good", "b/test/good", "d/test/good", "d/test/fault")
    ]


def test_the_table_of_a_domain_holds_what_its_files_hold_ordered_by_content(tmp_path):
    folder = write_domain(tmp_path, "domain_A", train=3, good=2, fault=4)
    (folder / "test/masks").mkdir()
    mask = np.eye(31, 95, dtype=np.uint8)
    cv2.imwrite(str(folder / "test/masks/000001.png"), mask)
    (folder / "metadata.csv").write_text("path,group,severity\ntest/fault/000001.tiff,7,2\n")
    table = layout.read_domain(tmp_path, "domain_A", pack=False).table
    parts = ["test/good"] * 2 + ["test/fault"] * 4 + ["train/good"] * 3
    assert [path.rpartition("/")[0] for path in table["path"]] == parts
    assert table["split"].tolist() == ["test"] * 6 + ["train"] * 3
    assert table["label"].tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0]
    for _, part in table.groupby(["split", "label"]):
        assert part["digest"].tolist() == sorted(part["digest"])
    for row in table.to_dict("records"):
        pixels = tifffile.imread(folder / row["path"])
        marked = row["path"] == "test/fault/000001.tiff"
        content = blake2b(pixels.tobytes(), digest_size=16)
        assert row["pixels"] == content.hexdigest()
        content.update((mask > 0).tobytes() if marked else b"")
        assert row["digest"] == content.hexdigest()
        assert (row["height"], row["width"], row["dtype"]) == (31, 95, "float32")
        assert (row["minimum"], row["maximum"]) == (pixels.min(), pixels.max())
        assert row["mean"] == pixels.astype(np.float64).mean()
        assert (row["group"], row["mask"]) == (("7", "test/masks/000001.png") if marked else ("", ""))
        assert row["severity"] == 2.0 if marked else np.isnan(row["severity"])
    assert set(table) == {
        "path",
        "split",
        "label",
        "group",
        "severity",
        "mask",
        "recording",
        "height",
        "width",
        "dtype",
        "minimum",
        "mean",
        "maximum",
        "pixels",
        "digest",
    }


@pytest.mark.parametrize("pack", [True, False])
def test_the_first_problem_is_told_and_how_many_more_there_are(tmp_path, monkeypatch, pack):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    folder = write_domain(tmp_path, "domain_A", train=2, good=2, fault=2)
    broken = [folder / role / "000001.tiff" for role in ("train/good", "test/good", "test/fault")]
    for file in broken:
        file.write_text("no image")
    for more in (f"and 2 more: `hdmap check-data {tmp_path}`", f"and 1 more: `hdmap check-data {tmp_path}`", "it$"):
        with pytest.raises(BadInput, match=f"train/good/000001.tiff cannot be read.*{more}"):
            layout.read_domain(tmp_path, "domain_A", pack)
        broken.pop().unlink()


@pytest.mark.parametrize("pack", [True, False])
def test_maps_are_read_in_the_order_asked_for(maps, tmp_path, monkeypatch, pack):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    [domain] = layout.read_domains(maps, ["domain_B"], pack)
    again = layout.read_domain(maps, "domain_B") if pack else domain
    assert domain.folder == again.folder == maps / "domain_B" and (domain.packed is not None) == pack
    assert list(tmp_path.glob("maps/*/pixels.npy")) != [] if pack else not list(tmp_path.iterdir())
    for rows in (domain.table.iloc[[9, 0, 20]], domain.table.iloc[:1]):
        stored = [tifffile.imread(maps / "domain_B" / path) for path in rows["path"]]
        np.testing.assert_array_equal(domain.read(rows), stored)


def test_the_odd_map_of_another_size_is_named_with_the_counts(tmp_path):
    folder = write_domain(tmp_path, "domain_A", train=2, good=2, fault=2)
    for path, pixels in (("test/good/000001", np.eye(31, 94)), ("train/good/000000", np.eye(30, 95))):
        tifffile.imwrite(folder / f"{path}.tiff", pixels.astype(np.float32))
        with pytest.raises(BadInput, match="1 of .*, 5 of 31x95.*a domain has one size" if "test" in path else "4 of"):
            layout.read_domain(tmp_path, "domain_A", pack=False)
    (folder / "train/good/000000.tiff").unlink()
    with pytest.raises(BadInput, match="test/good/000001.tiff: .*1 of 31x94, 4 of 31x95"):
        layout.read_domain(tmp_path, "domain_A", pack=False)


def test_the_same_map_twice_is_no_problem_within_one_part_and_names_both_places_across(tmp_path):
    folder = write_domain(tmp_path, "domain_A", train=2, good=2, fault=2)
    copy = (folder / "test/good/000000.tiff").read_bytes()
    (folder / "test/good/000009.tiff").write_bytes(copy)
    assert len(layout.read_domain(tmp_path, "domain_A", pack=False).table) == 7
    (folder / "test/fault/000008.tiff").write_bytes(copy)
    with pytest.raises(BadInput, match="test/good/000000.tiff is the same map as test/fault/000008.tiff"):
        layout.read_domain(tmp_path, "domain_A", pack=False)
    (folder / "train/good/000007.tiff").write_bytes(copy)
    with pytest.raises(BadInput, match="train/good/000007.tiff is the same map as test/good/000000.tiff"):
        layout.read_domain(tmp_path, "domain_A", pack=False)


def test_metadata_that_cannot_be_used_is_a_problem_each(tmp_path):
    folder = write_domain(tmp_path, "domain_A", train=1, good=1, fault=1)

    def problems(text):
        (folder / "metadata.csv").write_text(text)
        return layout.inspect_domain(tmp_path, "domain_A")[1]

    [problem] = problems("")
    assert "metadata.csv cannot be read (No columns" in problem and "path,group,severity" in problem
    [problem] = problems("path,speed\nx,1\n")
    assert "path, speed" in problem and "path,group,severity" in problem
    assert len(problems("group\nx\n")) == 1
    (folder / "notes.txt").write_text("there, but no map")
    assert ["notes.txt" in problem for problem in problems("path\ntest/good/000000.tiff\nnotes.txt\nno.tiff\n")] == [
        True,
        False,
    ]
    assert len(problems("path\n" + "\n".join(f"{i}.tiff" for i in range(9)))) == 9
    (folder / "test/good/000000.tiff").write_text("no image")
    assert len(problems("path,group\ntest/good/000000.tiff,a\n")) == 1  # its map is the problem, not its line


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


@pytest.mark.parametrize(
    ("text", "group", "severity"),
    [
        ("path\n{0}\n{1}", "", None),
        ("path,group\n{0},a\n{1},", "a", None),
        ("path,severity\n{0},2\n{1},", "", 2.0),
        ("severity,group,path\nNaN,07,{0}\n1,,{1}", "07", None),
    ],
)
def test_metadata_without_a_column_or_a_cell_says_nothing_of_it(tmp_path, text, group, severity):
    folder = write_domain(tmp_path, "domain_A", train=2, good=2, fault=2)
    told, silent = "test/fault/000001.tiff", "test/good/000001.tiff"
    (folder / "metadata.csv").write_text(text.format(told, silent))
    table = layout.read_domain(tmp_path, "domain_A", pack=False).table.set_index("path")
    assert table.loc[told, "group"] == group and set(table["group"].drop(told)) == {""}
    assert table.loc[told, "severity"] == severity or (severity is None and np.isnan(table.loc[told, "severity"]))


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


# -------------------------------------------------------------------------------------------------- names of domains
@pytest.mark.parametrize("name", ["A", "domain_A", "north sensor", "B-2", "v1.2", "7", "_", "ü", "드라이브", "a" * 100])
def test_a_name_that_mlflow_takes_is_a_name_of_a_domain(name):
    from mlflow.utils.validation import _validate_metric_name

    assert domain_flaw(name) == ""
    for metric in (f"target/{name}/image_AUROC", f"cross/{name}-{name}/image_TPR_at_1FPR"):
        _validate_metric_name(metric)
        assert len(metric) <= 250
    assert DataConfig(source_domain=name, target_domains=[name]).source_domain == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "A (1)",
        "A%",
        "A#",
        "A+",
        "A'",
        'A"',
        "A,B",
        "A;",
        "A=",
        "A?",
        "A:",
        "A/B",
        "A\\B",
        ".",
        "..",
        ".A",
        "-A",
        " A",
    ]
    + [" A", "A ", "A.", "A\n", "\nA", "e\u0301", os.fsdecode(b"A\xff")],
)
def test_a_name_that_a_metric_or_a_file_cannot_bear_is_refused_as_source_as_target_and_as_folder(tmp_path, name):
    says = "is no name of a domain: letters, digits, spaces and _ - . only, the last no space or dot"
    assert domain_flaw(name) == says
    given_so = [{"source_domain": [name]}, {"target_domains": ["domain_B", name]}]
    given_so += [{"source_domain": name}] if name != "A,B" else []  # which are two
    for given in given_so:
        with pytest.raises(ValidationError) as caught:
            DataConfig(**given)
        assert says in caught.value.errors()[0]["msg"]
    if name.strip("./\n") == name and "/" not in name and name:
        write_domain(tmp_path, "domain_A", 1, 1, 1)
        write_domain(tmp_path, "other", 1, 1, 2).rename(tmp_path / name)
        with pytest.raises(BadInput, match=re.escape(f"{says}; rename the folder or leave it out of target_domains")):
            layout.choose_domains(tmp_path, "domain_A", "auto")
        assert layout.choose_domains(tmp_path, "domain_A", []) == ["domain_A"]
        table, [problem] = layout.check(tmp_path)
        assert problem.endswith(f"{says}; rename the folder") and problem.isprintable()
        assert len(table) == 6


@pytest.mark.parametrize("name", ["a" * 101, "드" * 34])
def test_a_name_of_more_than_100_bytes_is_refused(name):
    assert domain_flaw(name) == "is no name of a domain: longer than 100 bytes"
    assert domain_flaw(name[:-1]) == ""


@pytest.mark.parametrize("pair", [("domain_A", "Domain_a"), ("ü", "u\u0308")], ids=["case", "normal form"])
def test_two_names_that_some_disks_take_for_one_are_refused(tmp_path, pair):
    for number, name in enumerate(pair, 1):
        write_domain(tmp_path, name, 1, 1, number)
    one, other = sorted(pair)
    told = layout.check(tmp_path)[1]
    assert any("no name of a domain" in line or f"{other} differs from {one} in nothing" in line for line in told)
    source = pair[0]
    with pytest.raises(BadInput, match="rename the folder or leave it out of target_domains"):
        layout.choose_domains(tmp_path, source, "auto")


def test_of_many_domains_some_are_named(tmp_path):
    for i in range(22):
        (tmp_path / f"d{i:02d}" / "train").mkdir(parents=True)
    with pytest.raises(BadInput, match="known: d00, d01, .*, d19 and 2 more$"):
        layout.choose_domains(tmp_path, "elsewhere", "auto")


@pytest.mark.parametrize(
    "root",
    ["x" * 5000, "x/" * 3000, "~no such user/maps", "a\0b"],
    ids=["a long name", "a long path", "no such user", "a zero byte"],
)
def test_a_root_that_cannot_be_is_no_folder(root):
    with pytest.raises(BadInput, match="is not a folder; give -P data_root=FOLDER") as caught:
        layout.find_root(root)
    assert len(str(caught.value)) < 300


def test_a_root_whose_name_is_not_utf_8_is_refused(tmp_path):
    root = tmp_path / os.fsdecode(b"\xff")
    write_domain(root, "domain_A", 1, 1, 1)
    with pytest.raises(BadInput, match=r"\\udcff has a name that is not UTF-8; rename it"):
        layout.find_root(str(root))


# ------------------------------------------------------------------------------------------- one map in two domains
COPIES = {
    "a training map of the source in a target's test": ("domain_A/train/good", "domain_B/test/good", "domain_B", 1),
    "a training map of the source in a target's faults": (
        "domain_A/train/good",
        "domain_C/test/fault",
        "domain_C",
        1,
    ),
    "a test map of the source in a target's test": ("domain_A/test/good", "domain_B/test/good", "domain_B", 1),
    "a test map of two targets": ("domain_B/test/good", "domain_C/test/good", "domain_C", 1),
    "a training map of both": ("domain_A/train/good", "domain_B/train/good", "", 1),
    "a training map of a target": ("domain_B/train/good", "domain_A/train/good", "", 1),
    "a training map of a target in another's test": ("domain_B/train/good", "domain_C/test/good", "", 1),
    "two maps": ("domain_A/test/fault", "domain_B/test/fault", "domain_B", 2),
}


@pytest.mark.parametrize("what", COPIES)
def test_a_map_that_would_count_twice_is_refused_and_every_copy_is_told_by_check(tmp_path, what):
    one, other, refused, count = COPIES[what]
    names = ["domain_A", "domain_B", "domain_C"]
    for name in names:
        write_domain(tmp_path, name, 2, 2, 2)
    for i in range(count):
        shutil.copy(tmp_path / one / f"00000{i}.tiff", tmp_path / other / f"copy{i}.tiff")
    [line] = layout.check(tmp_path)[1]
    assert f"({count} such); keep each map in one domain" in line
    if refused:
        with pytest.raises(BadInput) as caught:
            layout.read_domains(tmp_path, names, pack=False)
        told = str(caught.value)
        assert told.startswith(f"{tmp_path / other}/copy") and f"is the same map as {one}/00000" in told
        assert f"({count} such in {refused}); leave {refused} out of target_domains" in told
        names.remove(refused)
    assert len(layout.read_domains(tmp_path, names, pack=False)) == len(names)


def test_check_names_the_copy_and_what_it_copies(tmp_path):
    write_domain(tmp_path, "A", 2, 2, 2)
    shutil.copytree(tmp_path / "A", tmp_path / "A - Copy")
    write_domain(tmp_path, "B", 2, 2, 2)
    [line] = layout.check(tmp_path)[1]
    one, _, other = line.partition(" (6 such)")[0].partition(" is the same map as ")
    assert one.removeprefix(f"{tmp_path}/A - Copy/") == other.removeprefix(f"{tmp_path}/A/")


def test_check_says_that_domains_differ_in_size(tmp_path):
    for name in ("A", "B", "C"):
        write_domain(tmp_path, name, 1, 1, 1)
    for path in (tmp_path / "B").rglob("*.tiff"):
        tifffile.imwrite(path, tifffile.imread(path)[:30])
    assert layout.check(tmp_path)[1] == [
        f"map sizes differ below {tmp_path}: 31x95 in A, C; 30x95 in B; a run takes one size"
    ]


@pytest.mark.parametrize("pack", [True, False])
def test_a_domain_with_a_problem_beside_its_maps_is_not_packed(tmp_path, monkeypatch, pack):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    folder = write_domain(tmp_path, "domain_A", 1, 1, 1)
    os.mkfifo(folder / "test/good/pipe.tiff")
    (folder / "test/good/bad.tiff").write_bytes(b"")
    with pytest.raises(BadInput, match=r"pipe.tiff cannot be read .* \(and 1 more: `hdmap check-data"):
        layout.read_domain(tmp_path, "domain_A", pack)
    assert not (tmp_path / "cache").exists()
