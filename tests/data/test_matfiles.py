"""Raw MATLAB files, written here as MATLAB lays them out, to the folder layout."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
import yaml

from hdmap_mlflow import __version__
from hdmap_mlflow.data import layout, matfiles
from hdmap_mlflow.data.matfiles import EXAMPLE_SPEC, Spec, import_mat, load_spec
from hdmap_mlflow.errors import BadInput

H, W = 3, 5


def numbered(n: int, start: float = 0.0) -> np.ndarray:
    """(n, H, W): every pixel says its map, row and column, so a swapped axis or a wrong order shows."""
    k, r, c = np.meshgrid(np.arange(n), np.arange(H), np.arange(W), indexing="ij")
    return start + k + r / 10 + c / 100


def matlab_axes(maps: np.ndarray) -> np.ndarray:
    """(N, H, W) as MATLAB's H x W x 1 x N; for N = 1 it drops the last two axes."""
    return maps[0] if len(maps) == 1 else maps.transpose(1, 2, 0)[:, :, None, :]


def save_5(path: Path, maps: np.ndarray, name: str = "Xdata", compressed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {name: matlab_axes(maps)}, do_compression=compressed)


def save_73(path: Path, maps: np.ndarray, name: str = "Xdata", **options: object) -> None:
    """HDF5 behind MATLAB's 512-byte user block, axes reversed, with the group MATLAB adds for cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_group("#refs#")
        data = file.create_dataset(name, data=matlab_axes(maps).T, **options)
        data.attrs["MATLAB_class"] = np.bytes_("double")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as raw:
        raw.write(header)


def save_5_compressed(path: Path, maps: np.ndarray) -> None:
    save_5(path, maps, compressed=True)


def save_73_compressed(path: Path, maps: np.ndarray) -> None:
    save_73(path, maps, chunks=True, compression="gzip")


FORMATS = [save_5, save_5_compressed, save_73, save_73_compressed]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw tree of one domain: 7 train, 4 good and 3 fault maps that start at 0, 100 and 200."""
    for name, n, start in (("train", 7, 0), ("good", 4, 100), ("fault", 3, 200)):
        save_5(tmp_path / "raw" / f"{name}.mat", numbered(n, start))
    return tmp_path / "raw"


@pytest.fixture
def spec(tmp_path: Path):
    """Writes a spec: the keys given, over one domain of train.mat, good.mat and fault.mat."""

    def write(domain: dict | None = None, **keys: object) -> Path:
        files = {"train": "train.mat", "good": "good.mat", "fault": "fault.mat"} | (domain or {})
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump({"domains": {"domain_A": files}} | keys))
        return path

    return write


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Three maps a block, so that seven take three blocks and a sample has gaps within one."""
    monkeypatch.setattr(matfiles, "BLOCK_BYTES", 3 * 8 * H * W)
    return 3


def maps_of(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): tifffile.imread(path) for path in sorted(folder.glob("*.tiff"))}


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def fails(spec_path: Path, source: Path, out: Path) -> str:
    """The one line of a refused import, which must leave nothing behind."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(BadInput) as caught:
        import_mat(spec_path, source, out)
    assert "\n" not in str(caught.value)
    if before is not None:
        assert sorted(out.parent.iterdir()) == before
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ maps
@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_maps_keep_rows_columns_and_order_in_every_format(tmp_path, raw, spec, small_blocks, save, n):
    save(raw / "train.mat", numbered(n))
    counts = import_mat(spec(), raw, tmp_path / "out")
    maps = maps_of(tmp_path / "out/domain_A/train/good")
    assert list(maps) == list(range(n))
    for k, image in maps.items():
        np.testing.assert_array_equal(image, numbered(n)[k].astype(np.float32))
    assert counts == {"domain_A": {"train/good": n, "test/good": 4, "test/fault": 3}}


def test_each_split_comes_from_its_own_file(tmp_path, raw, spec):
    import_mat(spec(), raw, tmp_path / "out")
    firsts = [maps_of(tmp_path / "out/domain_A" / role)[0][0, 0] for role in layout.ROLES]
    assert firsts == [0, 100, 200]


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", "int16"])
@pytest.mark.parametrize("save", [save_5, save_73])
def test_any_real_type_becomes_single_channel_float32(tmp_path, raw, spec, save, dtype):
    save(raw / "train.mat", numbered(7).astype(dtype))
    import_mat(spec(), raw, tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out/domain_A/train/good/000003.tiff") as file:
        assert len(file.pages) == 1
        assert (file.pages[0].shape, file.pages[0].dtype, file.pages[0].samplesperpixel) == ((H, W), np.float32, 1)
        np.testing.assert_array_equal(file.asarray(), numbered(7).astype(dtype)[3].astype(np.float32))


@pytest.mark.parametrize("size", [(3, 5), (4, 3), (1, 6), (6, 1)])
def test_small_maps_are_not_taken_for_colour(tmp_path, spec, size):
    maps = np.random.default_rng(0).normal(size=(2, *size))
    for name in ("train", "good", "fault"):
        save_73(tmp_path / f"raw/{name}.mat", maps)
    import_mat(spec(), tmp_path / "raw", tmp_path / "out")
    np.testing.assert_array_equal(maps_of(tmp_path / "out/domain_A/test/fault")[1], maps[1].astype(np.float32))


def test_the_layout_module_reads_what_was_imported_without_a_problem(tmp_path, raw, spec):
    import_mat(spec(), raw, tmp_path / "out")
    table, problems = layout.check(tmp_path / "out")
    assert problems == []
    assert list(table["maps"]) == [7, 4, 3]


# --------------------------------------------------------------------------------------------- scaling
@pytest.mark.parametrize("save", FORMATS)
def test_zscore_takes_mean_and_sd_of_all_train_maps_even_if_few_are_drawn(tmp_path, raw, spec, small_blocks, save):
    train = np.random.default_rng(1).lognormal(size=(7, H, W)) + 1000  # a large offset: naive sums of squares fail
    save(raw / "train.mat", train)
    import_mat(spec(scaling="zscore", samples={"train": 2}), raw, tmp_path / "out")
    for role, original in (("train/good", train), ("test/good", numbered(4, 100)), ("test/fault", numbered(3, 200))):
        for k, image in maps_of(tmp_path / "out/domain_A" / role).items():
            np.testing.assert_allclose(image, (original[k] - train.mean()) / train.std(), rtol=1e-5, atol=1e-6)
    record = json.loads((tmp_path / "out/IMPORTED.json").read_text())["domains"]["domain_A"]["scaling"]
    assert record["offset"] == pytest.approx(train.mean(), rel=1e-12)
    assert record["span"] == pytest.approx(train.std(), rel=1e-12)
    assert record["train"]["pixels"] == train.size


@pytest.mark.parametrize(
    ("ends", "low", "high"),
    [({"user_min": 0, "user_max": 2.5}, 0, 2.5), ({}, 1, 7.24), ({"user_max": 3}, 1, 3), ({"user_min": -1}, -1, 7.24)],
)
def test_minmax_takes_the_given_ends_or_else_the_train_ends_and_never_clips(
    tmp_path, raw, spec, small_blocks, ends, low, high
):
    train = numbered(7, 1.0)[[2, 0, 4, 6, 1, 3, 5]]  # neither end stands in the last block
    save_5(raw / "train.mat", train)
    import_mat(spec(ends, scaling="minmax"), raw, tmp_path / "out")
    for role, original in (("train/good", train), ("test/fault", numbered(3, 200))):
        for k, image in maps_of(tmp_path / "out/domain_A" / role).items():
            np.testing.assert_allclose(image, (original[k] - low) / (high - low), rtol=1e-6, atol=1e-6)
    assert maps_of(tmp_path / "out/domain_A/test/fault")[0].min() > 20


def test_each_domain_is_scaled_by_its_own_train_maps(tmp_path, raw):
    for name in ("train", "good", "fault"):
        save_73(raw / f"loud_{name}.mat", 4 * numbered(4) + 8)
    files = {key: f"{key}.mat" for key in ("train", "good", "fault")}
    loud = {key: f"loud_{key}.mat" for key in files}
    spec_path = tmp_path / "spec.yaml"
    spec_path.write_text(yaml.safe_dump({"scaling": "minmax", "domains": {"quiet": files, "loud": loud}}))
    import_mat(spec_path, raw, tmp_path / "out")
    for domain in ("quiet", "loud"):
        train = np.stack(list(maps_of(tmp_path / "out" / domain / "train/good").values()))
        assert (train.min(), train.max()) == (0, 1)


# ---------------------------------------------------------------------------------------------- sample
@pytest.mark.parametrize("save", FORMATS)
def test_a_sample_keeps_file_order_and_each_maps_own_number(tmp_path, raw, spec, small_blocks, save):
    save(raw / "train.mat", numbered(40))
    import_mat(spec(samples={"train": 9}), raw, tmp_path / "out")
    maps = maps_of(tmp_path / "out/domain_A/train/good")
    assert len(maps) == 9 and list(maps) != list(range(9))
    assert all(image[0, 0] == k for k, image in maps.items())
    assert len(maps_of(tmp_path / "out/domain_A/test/good")) == 4


def test_the_seed_decides_the_sample_and_another_domain_does_not(tmp_path, raw, spec):
    save_5(raw / "train.mat", numbered(40))
    files = {key: f"{key}.mat" for key in ("train", "good", "fault")}
    two = {"domain_0": files, "domain_A": files}

    def drawn(out: str, **keys: object) -> list[int]:
        import_mat(spec(samples={"train": 9}, **keys), raw, tmp_path / out)
        return list(maps_of(tmp_path / out / "domain_A/train/good"))

    first = drawn("first", seed=3)
    assert drawn("again", seed=3) == first
    assert drawn("other", seed=4) != first
    assert drawn("two", seed=3, domains=two) == first
    assert list(maps_of(tmp_path / "two/domain_0/train/good")) != first


def test_several_files_of_a_split_are_joined_in_their_order(tmp_path, raw, spec, small_blocks):
    save_73(raw / "more.mat", numbered(3, 7.0))
    save_5(raw / "last.mat", numbered(1, 10.0))
    domain = {"train": ["train.mat", "more.mat", "last.mat"]}
    import_mat(spec(domain, scaling="zscore"), raw, tmp_path / "out")
    maps = maps_of(tmp_path / "out/domain_A/train/good")
    whole = numbered(11)
    assert list(maps) == list(range(11))
    np.testing.assert_allclose(np.stack(list(maps.values())), (whole - whole.mean()) / whole.std(), atol=1e-6)


@pytest.mark.parametrize(
    ("recordings", "train", "fault"),
    [("files", [0] * 7 + [1] * 3 + [2], [0, 0, 0]), (4, [0] * 4 + [1] * 4 + [2] * 3, [0, 0, 0]), (2, None, [0, 0, 1])],
)
def test_recordings_are_files_or_so_many_maps_in_a_row(tmp_path, raw, spec, small_blocks, recordings, train, fault):
    save_73(raw / "more.mat", numbered(3, 7.0))
    save_5(raw / "last.mat", numbered(1, 10.0))
    import_mat(spec({"train": ["train.mat", "more.mat", "last.mat"]}, recordings=recordings), raw, tmp_path / "out")
    found = layout.read_domain(tmp_path / "out", "domain_A").table.sort_values("path")
    for folder, numbers in (("train/good", train), ("test/fault", fault)):
        own = found[found["path"].str.startswith(folder)]["recording"].tolist()
        assert numbers is None or own == [f"{folder.replace('/', '-')}-{number:03d}" for number in numbers]


def test_a_sample_keeps_the_recordings_of_its_maps(tmp_path, raw, spec):
    import_mat(spec(recordings=2, samples={"train": 3}), raw, tmp_path / "out")
    found = layout.read_domain(tmp_path / "out", "domain_A").table.sort_values("path")
    for path, recording in found[["path", "recording"]].itertuples(index=False):
        assert int(recording[-3:]) == int(Path(path).stem) // 2


# ------------------------------------------------------------------------------------- memory, record
def test_a_matlab_5_file_is_loaded_once_though_statistics_are_needed(tmp_path, raw, spec, monkeypatch):
    loaded, load = [], scipy.io.loadmat
    monkeypatch.setattr(scipy.io, "loadmat", lambda path, **keys: loaded.append(Path(path).name) or load(path, **keys))
    import_mat(spec(scaling="zscore"), raw, tmp_path / "out")
    assert loaded == ["train.mat", "good.mat", "fault.mat"]


@pytest.mark.parametrize(("scaling", "reads"), [("original", 2), ("zscore", 14 + 2)])
def test_a_matlab_73_file_is_read_in_blocks_and_only_where_a_map_is_wanted(
    tmp_path, raw, spec, small_blocks, monkeypatch, scaling, reads
):
    save_73(raw / "train.mat", numbered(40))
    lengths, get = [], h5py.Dataset.__getitem__

    def spy(self, key, *rest, **keys):
        block = get(self, key, *rest, **keys)
        lengths.append(len(block))
        return block

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    import_mat(spec(scaling=scaling, samples={"train": 2}), raw, tmp_path / "out")
    assert max(lengths) <= small_blocks
    assert len(lengths) <= reads


def test_the_record_says_what_was_imported_from_where_and_how(tmp_path, raw, spec):
    save_73(raw / "good.mat", numbered(4, 100))
    import_mat(spec({"user_max": 5}, scaling="minmax", seed=11, samples={"test_good": 2}), raw, tmp_path / "out")
    record = json.loads((tmp_path / "out/IMPORTED.json").read_text())
    assert record["package_version"] == __version__
    assert record["source"] == str(raw)
    assert record["spec"]["seed"] == 11 and record["spec"]["domains"]["domain_A"]["train"] == ["train.mat"]
    domain = record["domains"]["domain_A"]
    assert (domain["scaling"]["method"], domain["scaling"]["offset"], domain["scaling"]["span"]) == ("minmax", 0, 5)
    assert domain["written"] == {"train/good": 7, "test/good": 2, "test/fault": 3}
    assert domain["files"]["test/good"] == [
        {
            "path": str(raw / "good.mat"),
            "bytes": (raw / "good.mat").stat().st_size,
            "maps": 4,
            "height": H,
            "width": W,
            "matlab": "7.3",
        }
    ]


def test_the_same_spec_gives_the_same_bytes(tmp_path, raw, spec):
    for out in ("one", "two"):
        import_mat(spec(scaling="zscore", samples={"train": 3}), raw, tmp_path / out)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# ------------------------------------------------------------------------------------------------ spec
def test_the_example_spec_imports_a_raw_tree_of_the_published_shape(tmp_path):
    example = load_spec(EXAMPLE_SPEC, Spec, EXAMPLE_SPEC)
    maxima = {name: domain.user_max for name, domain in example.domains.items()}
    assert maxima == {"domain_A": 0.324670, "domain_B": 1.324418, "domain_C": 0.087341, "domain_D": 0.418999}
    top = tmp_path / "KRISS_share_nipa2023"
    for letter, (condition, sensor) in {"A": (1, 3), "B": (1, 1), "C": (3, 3), "D": (3, 1)}.items():
        gain = maxima[f"domain_{letter}"]
        for part, state in enumerate(("Normal/Normal2_LSSm0.3_HSS0", "Planet_fault_ring/1.42_LSSm0.3_HSS0")):
            folder = top / state / f"Class{condition}/1/HDMap_train_test"
            save_5(folder / f"{sensor}_TSA_DIF_train.mat", np.full((2, 31, 95), (1 + 10 * part) * gain))
            save_73(folder / f"{sensor}_TSA_DIF_test.mat", np.full((2, 31, 95), (2 + 10 * part) * gain))
    import_mat(EXAMPLE_SPEC, tmp_path, tmp_path / "out")
    for name in maxima:
        for role, level in (("train/good", 1), ("test/good", 2), ("test/fault", 12)):
            maps = maps_of(tmp_path / "out" / name / role)
            assert len(maps) == 2 and maps[0].shape == (31, 95)
            np.testing.assert_allclose(maps[0], level, rtol=1e-6)


def test_json_indented_by_tabs_says_the_same_as_yaml(tmp_path, spec):
    as_yaml = spec({"user_max": 1e-3}, scaling="minmax", samples={"train": 2})
    as_json = tmp_path / "spec.json"
    as_json.write_text(json.dumps(yaml.safe_load(as_yaml.read_text()), indent="\t"), encoding="utf-8")
    assert load_spec(as_json, Spec, as_json) == load_spec(as_yaml, Spec, as_yaml)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["mapping", "domains"]),
        ("- a\n- b\n", ["mapping"]),
        ("domains: {", ["YAML"]),
        ("domains: {}", ["domains", "at least 1"]),
        ("scalling: zscore\ndomains: {A: {train: a, good: b, fault: c}}", ["'scalling'", "mean 'scaling'"]),
        ("scaling: zcore\ndomains: {A: {train: a, good: b, fault: c}}", ["scaling", "'zscore'", "'zcore'"]),
        ("seed: -1\ndomains: {A: {train: a, good: b, fault: c}}", ["seed", "-1"]),
        ("samples: {test_god: 3}\ndomains: {A: {train: a, good: b, fault: c}}", ["samples.test_god", "'test_good'"]),
        ("samples: {train: 0}\ndomains: {A: {train: a, good: b, fault: c}}", ["samples.train", "got 0"]),
        ("domains: {A: {trian: a, good: b, fault: c}}", ["domains.A.trian", "mean 'train'"]),
        ("domains: {A: {train: a, good: b}}", ["domains.A.fault", "required"]),
        ("domains: {A: {train: [], good: b, fault: c}}", ["domains.A.train", "at least 1"]),
        ("domains: {A: {train: a, good: [b, ./a], fault: c}}", ["domains.A", "a is listed twice"]),
        ("domains: {A: {train: a, good: b, fault: c, user_max: .inf}}", ["user_max", "finite"]),
        ("domains: {A: {train: a, good: b, fault: c, user_min: 2, user_max: 1}}", ["user_max 1", "user_min 2"]),
        ("domains: {../A: {train: a, good: b, fault: c}}", ["../A"]),
        ("domains: {A (1): {train: a, good: b, fault: c}}", ["'A (1)' is no name of a domain: letters, digits"]),
        ("domains: {A: {train: a, good: b, fault: c}, A: {train: d, good: e, fault: f}}", ["'A' stands twice"]),
    ],
)
def test_a_wrong_spec_is_one_line_that_names_the_key(tmp_path, text, words):
    (tmp_path / "spec.yaml").write_text(text)
    line = fails(tmp_path / "spec.yaml", tmp_path, tmp_path / "out")
    assert str(tmp_path / "spec.yaml") in line
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize("name", ["nothing.yaml", "folder.yaml", "latin.yaml"])
def test_a_spec_that_cannot_be_read_names_itself(tmp_path, name):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes(b"variable: \xe9\xff")
    assert name in fails(tmp_path / name, tmp_path, tmp_path / "out")


# ----------------------------------------------------------------------------------------- wrong files
def test_a_missing_source_folder_or_file_is_named(tmp_path, raw, spec):
    assert str(tmp_path / "nowhere") in fails(spec(), tmp_path / "nowhere", tmp_path / "out")
    line = fails(spec({"fault": "sub/gone.mat"}), raw, tmp_path / "out")
    assert "domain_A.fault" in line and str(raw / "sub/gone.mat") in line


@pytest.mark.parametrize("save", [save_5, save_73])
def test_a_missing_variable_is_answered_with_those_present(tmp_path, raw, spec, save):
    save(raw / "good.mat", numbered(4), name="Ydata")
    line = fails(spec(), raw, tmp_path / "out")
    assert "good.mat" in line and "'Xdata'" in line and "Ydata" in line and "#refs#" not in line
    save(raw / "train.mat", numbered(4), name="Ydata")
    save(raw / "fault.mat", numbered(4), name="Ydata")
    assert import_mat(spec(variable="Ydata"), raw, tmp_path / "out")["domain_A"]["test/good"] == 4


@pytest.mark.parametrize("shape", [(H, W, 4), (H, W, 2, 4), (H, W, 1, 4, 2), (H, W, 1, 0)])
@pytest.mark.parametrize("version", ["5", "7.3"])
def test_another_rank_is_answered_with_the_shape_found(tmp_path, raw, spec, version, shape):
    if version == "5":
        scipy.io.savemat(raw / "good.mat", {"Xdata": np.zeros(shape)})
    else:
        with h5py.File(raw / "good.mat", "w") as file:
            file["Xdata"] = np.zeros(shape[::-1])
    line = fails(spec(), raw, tmp_path / "out")
    assert "good.mat" in line and " x ".join(map(str, shape)) in line and "H x W x 1 x N" in line


@pytest.mark.parametrize("value", ["text", {"a": 1.0}, np.full((H, W), 1j), np.full((H, W), True)])
def test_a_variable_that_is_not_real_numbers_is_refused(tmp_path, raw, spec, value):
    scipy.io.savemat(raw / "good.mat", {"Xdata": value})
    line = fails(spec(), raw, tmp_path / "out")
    assert "good.mat" in line and "numbers" in line


@pytest.mark.parametrize("kind", ["char", "logical"])
def test_letters_and_truth_values_of_73_are_no_numbers_though_held_as_such(tmp_path, raw, spec, kind):
    save_73(raw / "good.mat", numbered(3).astype(np.uint16))
    with h5py.File(raw / "good.mat", "a") as file:
        file["Xdata"].attrs["MATLAB_class"] = np.bytes_(kind)
    line = fails(spec(), raw, tmp_path / "out")
    assert f"good.mat: Xdata is {kind} of {H} x {W} x 1 x 3, not numbers" in line


@pytest.mark.parametrize("kind", ["group", "complex", "text", "empty"])
def test_a_73_variable_that_is_not_real_numbers_is_refused(tmp_path, raw, spec, kind):
    with h5py.File(raw / "good.mat", "w") as file:
        if kind == "group":
            file.create_group("Xdata")
        elif kind == "empty":  # as MATLAB writes zeros(0, 5)
            file["Xdata"] = np.array([0, 5], np.uint64)
            file["Xdata"].attrs["MATLAB_empty"] = np.uint8(1)
        else:
            file["Xdata"] = np.full((W, H), 1j) if kind == "complex" else "words"
    line = fails(spec(), raw, tmp_path / "out")
    assert "good.mat" in line and "numbers" in line


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("save", [save_5, save_73])
def test_a_map_that_is_not_finite_is_named_by_file_and_place(tmp_path, raw, spec, small_blocks, save, bad):
    maps = numbered(6)
    maps[4, 1, 2] = bad
    save(raw / "more.mat", maps)
    line = fails(spec({"good": ["good.mat", "more.mat"]}), raw, tmp_path / "out")
    assert f"{raw / 'more.mat'}: map 4 " in line


def test_a_train_map_that_is_not_finite_spoils_no_statistics_though_it_is_not_drawn(tmp_path, raw, spec):
    maps = numbered(40)
    path = spec(scaling="zscore", samples={"train": 1})
    save_5(raw / "train.mat", maps)
    import_mat(path, raw, tmp_path / "whole")
    drawn = next(iter(maps_of(tmp_path / "whole/domain_A/train/good")))
    maps[(drawn + 1) % 40] = np.nan
    save_5(raw / "train.mat", maps)
    assert f"map {(drawn + 1) % 40} " in fails(path, raw, tmp_path / "out")


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("fraction", [0, 0.01, 0.1, 0.3, 0.6, 0.9])
def test_a_file_cut_short_anywhere_is_named(tmp_path, raw, spec, save, fraction):
    save(raw / "good.mat", np.random.default_rng(0).normal(size=(200, H, W)))
    whole = (raw / "good.mat").read_bytes()
    (raw / "good.mat").write_bytes(whole[: int(fraction * len(whole))])
    assert str(raw / "good.mat") in fails(spec(), raw, tmp_path / "out")


@pytest.mark.parametrize("junk", [b"not a mat file, but long enough to be one" * 9, bytes(600), b"\x89HDF\r\n\x1a\n"])
def test_a_file_of_another_kind_is_named(tmp_path, raw, spec, junk):
    (raw / "good.mat").write_bytes(junk)
    assert str(raw / "good.mat") in fails(spec(), raw, tmp_path / "out")


def test_maps_of_another_size_within_a_domain_are_refused(tmp_path, raw, spec):
    save_5(raw / "fault.mat", numbered(3).transpose(0, 2, 1))
    line = fails(spec(), raw, tmp_path / "out")
    assert "fault.mat are 5 x 3" in line and "3 x 5" in line


@pytest.mark.parametrize(("key", "present"), [("train", 7), ("test_good", 4), ("test_fault", 3)])
def test_asking_for_more_maps_than_present_says_how_many_there_are(tmp_path, raw, spec, key, present):
    line = fails(spec(samples={key: present + 1}), raw, tmp_path / "out")
    assert f"samples.{key}" in line and f"has {present}" in line
    import_mat(spec(samples={key: present}), raw, tmp_path / "out")


@pytest.mark.parametrize(
    ("scaling", "ends"), [("zscore", {}), ("minmax", {}), ("minmax", {"user_max": -5}), ("minmax", {"user_min": 99})]
)
def test_a_scale_of_no_extent_is_refused(tmp_path, raw, spec, scaling, ends):
    save_5(raw / "train.mat", np.full((4, H, W), 2.5))
    line = fails(spec(ends, scaling=scaling), raw, tmp_path / "out")
    assert "domain_A" in line and scaling in line


# ------------------------------------------------------------------------------------------------- out
def test_an_empty_folder_or_a_new_one_below_new_folders_is_filled(tmp_path, raw, spec):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "a/b/c"):
        import_mat(spec(), raw, out)
        assert sorted(path.name for path in out.iterdir()) == ["IMPORTED.json", "domain_A"]
        assert [path.name for path in out.parent.glob(".*")] == []


def test_a_folder_with_anything_in_it_is_left_as_it_is(tmp_path, raw, spec):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert f"{tmp_path / 'out'} exists and is not an empty folder" in fails(spec(), raw, tmp_path / "out")
    assert content(tmp_path / "out") == {"mine.txt": b"mine"}


def test_a_mount_point_is_refused_before_any_work(tmp_path, raw, spec, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(matfiles.os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    monkeypatch.setattr(matfiles, "_plan", lambda *_: pytest.fail("work was done"))
    assert "mount point" in fails(spec(), raw, tmp_path / "out")


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_where_a_folder_should_be_is_refused(tmp_path, raw, spec, below):
    (tmp_path / "file").write_text("mine")
    assert str(tmp_path / "file") in fails(spec(), raw, Path(f"{tmp_path}/file{below}"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [(OSError(28, "No space left"), BadInput, "No space left"), (KeyboardInterrupt(), KeyboardInterrupt, None)],
)
def test_an_import_that_stops_half_way_leaves_nothing(tmp_path, raw, spec, monkeypatch, error, raised, words):
    path, written, write = spec(), [], Path.write_bytes

    def stop(self: Path, data: bytes) -> int:
        if len(written) == 5:
            raise error
        written.append(self)
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", stop)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(raised, match=words):
        import_mat(path, raw, tmp_path / "out")
    assert len(written) == 5
    assert sorted(tmp_path.iterdir()) == before
