"""Maps, masks, tables and folders that cannot be: `train` refuses them in one line, `check-data` lists them."""

import os
import shutil
import sys

import numpy as np
import pytest
import tifffile
from maps import write_domain
from PIL import Image
from spoil import (
    MAP,
    MARKED,
    copy,
    declared_png,
    every,
    instead,
    link,
    mask,
    metadata,
    npy,
    npz,
    palette,
    picture,
    png,
    put,
    rename,
    tiff,
)

pytestmark = pytest.mark.slow
FIRST, FAULT = "test/good/000001", "test/fault/000001"


def huge_tiff(root):
    (root / f"domain_A/{FIRST}.tiff").unlink()
    tifffile.imwrite(root / f"domain_A/{FIRST}.tiff", shape=(20_000, 20_000), dtype=np.float32)


def huge_npy(root):
    (root / f"domain_A/{FIRST}.tiff").unlink()
    np.lib.format.open_memmap(root / f"domain_A/{FIRST}.npy", "w+", np.float32, (20_000, 20_000))


def unmasked(text):
    """A metadata.csv with a good line and this."""
    return metadata(f"path,group,severity\n{FIRST}.tiff,warm,1\n{text}")


def pages(*pictures):
    """The first of them is a small one for a list of files, as cameras and microscopes write it."""

    def spoil(root):
        with tifffile.TiffWriter(root / f"domain_A/{FIRST}.tiff") as file:
            for i, picture in enumerate(pictures):
                file.write(picture, photometric="minisblack", subfiletype=int(i == 0))

    return spoil


def pipe(place):
    def spoil(root):
        (root / "domain_A" / place).unlink(missing_ok=True)
        os.mkfifo(root / "domain_A" / place)

    return spoil


WHITE = Image.fromarray(np.full((31, 95), 255, np.uint8))
MAPS = {
    "complex npy": (instead(npy(MAP * 1j), ".npy"), ["000001.npy holds complex", "real numbers"]),
    "complex TIFF": (instead(tiff(MAP.astype(np.complex64))), ["000001.tiff holds complex64"]),
    "objects": (instead(npy(np.array([[{}]])), ".npy"), ["000001.npy cannot be read", "replace or remove"]),
    "records": (instead(npy(np.zeros((31, 95), "f4,i4")), ".npy"), ["000001.npy holds"]),
    "durations": (instead(npy(MAP.astype("m8[s]")), ".npy"), ["000001.npy holds timedelta64"]),
    "words": (instead(npy(np.full((31, 95), "a")), ".npy"), ["000001.npy holds <U1"]),
    "yes and no": (instead(npy(MARKED), ".npy"), ["000001.npy holds bool"]),
    "an archive called npy": (instead(npz(MAP), ".npy"), ["000001.npy is an archive", "save its map alone"]),
    "text called npy": (instead(b"1,2,3\n", ".npy"), ["000001.npy cannot be read"]),
    "a cut npy": (instead(npy(MAP)[:-9], ".npy"), ["000001.npy cannot be read"]),
    "an npy of nothing": (instead(npy(MAP[:0]), ".npy"), ["000001.npy"]),
    "a line": (instead(npy(MAP[0]), ".npy"), ["000001.npy holds float32 of shape (95,)", "height x width"]),
    "a number": (instead(npy(MAP[0, 0]), ".npy"), ["000001.npy holds float32 of shape ()"]),
    "a stack": (instead(npy(np.stack([MAP] * 5)), ".npy"), ["000001.npy holds float32 of shape (5, 31, 95)"]),
    "colours": (instead(tiff(np.dstack([MAP, MAP, MAP + 1]))), ["000001.tiff has 3 different channels"]),
    "beyond float32": (instead(npy(MAP.astype(float) * 1e300), ".npy"), ["000001.npy holds NaN or infinite"]),
    "NaN": (instead(tiff(MAP * np.float32("nan"))), ["000001.tiff holds NaN or infinite"]),
    "constant": (instead(tiff(MAP * 0)), ["000001.tiff is constant (0 everywhere)"]),
    "one map of another size": (instead(tiff(MAP[:1])), ["000001.tiff: map sizes differ", "1 of 1x95"]),
    "two pages": (pages(MAP, MAP + 1), ["000001.tiff holds 2 pages", "save its page alone"]),
    "a thumbnail first": (pages(MAP[::4, ::4], MAP), ["000001.tiff holds 2 pages; a map has one"]),
    "a palette TIFF": (
        instead(picture(palette([0, 0, 0, 255, 0, 0]), "TIFF")),
        ["000001.tiff has 3 different channels"],
    ),
    "white is zero": (
        instead(tiff((MAP * 255).astype(np.uint8), photometric="miniswhite")),
        ["000001.tiff stores white as 0; save it with black as 0"],
    ),
    "1-bit TIFF": (instead(tiff(MARKED)), ["000001.tiff holds bool"]),
    "a cut TIFF": (instead(tiff(MAP)[:200]), ["000001.tiff cannot be read"]),
    "an empty file": (instead(b""), ["000001.tiff cannot be read"]),
    "a PNG called tiff": (instead(png((MAP * 255).astype(np.uint8))), ["000001.tiff cannot be read"]),
    "a float TIFF called png": (instead(tiff(MAP), ".png"), ["000001.png cannot be read", "not a whole PNG"]),
    "a JPEG called png": (instead(picture(WHITE, "JPEG"), ".png"), ["000001.png cannot be read", "not a whole PNG"]),
    "a cut PNG": (instead(png((MAP * 255).astype(np.uint8))[:-30], ".png"), ["000001.png cannot be read"]),
    "a colour PNG": (
        instead(picture(palette([0, 0, 0, 255, 0, 0])), ".png"),
        ["000001.png has 3 different channels; a map has one"],
    ),
    "a PNG of 60,000 lines": (instead(declared_png(60_000, 60_000), ".png"), ["declares 60000 x 60000", "remove it"]),
    "a TIFF of 1.6 GB": (huge_tiff, ["000001.tiff declares 20000 x 20000 numbers"]),
    "an npy of 1.6 GB": (huge_npy, ["000001.npy declares 20000 x 20000 numbers"]),
    "an animated PNG": (
        instead(picture(WHITE, "PNG", save_all=True, append_images=[palette([0] * 6).convert("L")]), ".png"),
        ["000001.png is animated"],
    ),
}

MASKS = {
    "nothing": (mask(png(MARKED * np.uint8(0))), ["masks/000001.png marks nothing; correct or remove it"]),
    "everything": (mask(picture(WHITE)), ["masks/000001.png marks everything"]),
    "another size": (mask(png(MARKED[:9] * np.uint8(1))), ["masks/000001.png is (9, 95)", "its map's size"]),
    "not finite": (mask(npy(MARKED * np.nan), "000001.npy"), ["masks/000001.npy holds NaN or infinite"]),
    "complex": (mask(npy(MARKED * 1j), "000001.npy"), ["masks/000001.npy holds complex128"]),
    "two pages": (mask(tiff(np.stack([MARKED] * 2)), "000001.tif"), ["masks/000001.tif holds 2 pages"]),
    "an alpha channel that is full": (
        mask(picture(Image.merge("RGBA", [WHITE] * 4))),
        ["masks/000001.png marks everything"],
    ),
    "two of one map": (
        every(mask(png(MARKED * np.uint8(1))), mask(npy(MARKED), "000001.npy")),
        ["masks/000001.png and 000001.npy are masks of the same map"],
    ),
    "one of two maps": (
        every(mask(png(MARKED * np.uint8(1))), put(f"domain_A/{FAULT}.npy", npy(MAP))),
        ["masks/000001.png may be the mask of 2 maps"],
    ),
    "a picture cut short": (mask(png(MARKED * np.uint8(1))[:-20]), ["masks/000001.png cannot be read"]),
    "a pipe": (
        every(mask(b"", "000001.png"), pipe("test/masks/000001.png")),
        ["masks/000001.png cannot be read (it is no file)"],
    ),
}
METADATA = {
    "an empty file": (metadata(""), ["metadata.csv cannot be read", "expected path,group,severity"]),
    "a path twice": (unmasked(f"{FIRST}.tiff,cold,"), [f"metadata.csv lists {FIRST}.tiff 2 times; keep one row"]),
    "a path twice by other slashes": (unmasked("test\\good\\000001.tiff,cold,"), [f"lists {FIRST}.tiff 2 times"]),
    "a severity in words": (unmasked(f"{FAULT}.tiff,warm,high"), ["the severity 'high'; give a number"]),
    "a severity without end": (unmasked(f"{FAULT}.tiff,warm,inf"), ["the severity 'inf'; give a number"]),
    "a decimal comma": (unmasked(f'{FAULT}.tiff,warm,"1,5"'), ["the severity '1,5'; give a number"]),
    "a row without a path": (unmasked(",warm,1"), ["metadata.csv has a row without a path"]),
    "an unknown path": (unmasked("test/good/none.tiff,warm,1"), ["names test/good/none.tiff, which is no map"]),
    "a path to another domain": (unmasked(f"../domain_B/{FIRST}.tiff,warm,1"), ["names ../domain_B", "no map of this"]),
    "the path of a mask": (
        every(mask(png(MARKED * np.uint8(1))), unmasked("test/masks/000001.png,warm,1")),
        ["names test/masks/000001.png, which is no map of this domain"],
    ),
    "semicolons": (metadata(f"path;group;severity\n{FIRST}.tiff;warm;1\n"), ["path;group;severity", "path,group"]),
    "no column path": (metadata("file,group\na,b\n"), ["metadata.csv has columns file, group"]),
    "a column twice": (metadata(f"path,group,group\n{FIRST}.tiff,a,b\n"), ["columns path, group, group.1"]),
    "a column too many": (metadata(f"path,group,speed\n{FIRST}.tiff,a,3\n"), ["columns path, group, speed"]),
    "rows longer than the head": (metadata(f"path,group\n{FIRST}.tiff,a,b,c\n"), ["metadata.csv cannot be read"]),
    "one row longer than the head": (unmasked(f"{FAULT}.tiff,a,1,2"), ["metadata.csv cannot be read"]),
    "an open quote": (unmasked(f'"{FAULT}.tiff,a,1'), ["metadata.csv"]),
    "not UTF-8": (
        metadata(f"path,group\n{FIRST}.tiff,Kälte\n".encode("latin-1")),
        ["metadata.csv cannot be read", "utf-8"],
    ),
    "UTF-16": (metadata(f"path,group\n{FIRST}.tiff,a\n".encode("utf-16")), ["metadata.csv cannot be read"]),
    "a folder": (
        lambda root: (root / "domain_A/metadata.csv").mkdir(),
        ["metadata.csv cannot be read (it is no file)"],
    ),
    "a link to nothing": (link("domain_A/metadata.csv", "nowhere"), ["metadata.csv cannot be read (No such file"]),
}
FOLDERS = {
    "a link to nothing": (link("domain_A/train/good/x.tiff", "nowhere"), ["train/good/x.tiff cannot be read (No such"]),
    "a link to itself": (link("domain_A/train/good/x.tiff", "x.tiff"), ["train/good/x.tiff cannot be read (Too many"]),
    "a pipe": (pipe("test/good/x.tiff"), ["good/x.tiff cannot be read (it is no file)"]),
    "a folder called tiff": (
        lambda root: (root / "domain_A/test/good/x.tiff").mkdir(),
        ["x.tiff cannot be read (it is"],
    ),
    "a file in place of a folder": (
        every(lambda root: shutil.rmtree(root / "domain_A/test/fault"), put("domain_A/test/fault", b"")),
        ["test/fault cannot be read (Not a directory)"],
    ),
    "a folder that links to itself": (
        every(lambda root: shutil.rmtree(root / "domain_A/test/fault"), link("domain_A/test/fault", "fault")),
        ["test/fault cannot be read (Too many levels"],
    ),
    "a file's name that is not UTF-8": (
        put(os.fsdecode(b"domain_A/test/good/\xff.tiff"), tiff(MAP)),
        ["test/good/\\udcff.tiff has a name that is not UTF-8; rename it"],
    ),
    "no maps": (lambda root: shutil.rmtree(root / "domain_A/train/good"), ["train/good holds no map", "add maps"]),
    "a training map in the test": (
        copy("domain_A/train/good/000000.tiff", "domain_A/test/good/x.tiff"),
        ["train/good/000000.tiff is the same map as test/good/x.tiff; keep it in one place"],
    ),
    "a training map in a target's test": (
        copy("domain_A/train/good/000000.tiff", "domain_B/test/good/x.tiff"),
        ["domain_B/test/good/x.tiff is the same map as", "(1 such", "leave domain_B out of target_domains"],
    ),
    "a copy of the source": (
        lambda root: shutil.copytree(root / "domain_A", root / "A - Copy"),
        ["A - Copy/test/", "is the same map as", "(16 such", "leave A - Copy out"],
    ),
    "a copy of a target": (
        lambda root: shutil.copytree(root / "domain_B", root / "domain_Copy"),
        ["domain_Copy/test/", "is the same map as", "(16 such", "leave domain_Copy out"],
    ),
    "another size of a target": (
        lambda root: write_small(root / "domain_C"),
        ["map sizes differ", "30x95", "31x95"],
    ),
}
NAMES = ["B (1)", "B%", "B#1", "B+", "B'", "B,C", 'B"', "B;", "B=1", "B?", "B:1", "B\\C", " B", "B ", "B.", "-B"]
NAMES += ["e\u0301", "B\n", os.fsdecode(b"B\xff"), "B" * 101, "드" * 34]


def write_small(folder):
    rng = np.random.default_rng(0)
    for role in ("train/good", "test/good", "test/fault"):
        (folder / role).mkdir(parents=True)
        for i in range(4):
            tifffile.imwrite(folder / role / f"{i}.tiff", rng.random((30, 95)))


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """What the first command of a process takes seconds to import."""
    import hdmap_mlflow.data.datamodule
    import hdmap_mlflow.models.own.padim  # noqa: F401


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    for name in ("domain_A", "domain_B"):
        write_domain(root, name, train=4)
    return root


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "maps")


ROWS = {
    f"{kind}: {what}": row
    for kind, rows in {"map": MAPS, "mask": MASKS, "metadata": METADATA, "folder": FOLDERS}.items()
    for what, row in rows.items()
}


@pytest.mark.parametrize("what", ROWS)
def test_what_cannot_be_read_is_refused_by_train_and_listed_by_the_doctor(refused, exit_code, capfd, root, what):
    spoil, says = ROWS[what]
    spoil(root)
    refused("train", "padim", "--data-root", root, says=says, leaves=("cache/maps",))
    assert not list((refused.folder / "cache").glob("maps/.*")), "half a domain was left behind"
    assert exit_code("check-data", str(root)) == 1
    out, err = capfd.readouterr()
    problems = [line for line in out.splitlines() if line.startswith("problem: ")]
    assert problems and err == "" and f"{len(problems)} problem" in out
    assert any(says[0] in line for line in problems), out


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_target_that_no_metric_can_be_named_after_is_refused(refused, exit_code, capfd, root, name):
    shutil.copytree(root / "domain_B", root / name)
    for file in (root / name).rglob("*.tiff"):
        tifffile.imwrite(file, tifffile.imread(file) * 2)
    refused("train", "padim", "--data-root", root, says=["is no name of a domain", "rename the folder or leave it out"])
    assert exit_code("check-data", str(root)) == 1
    assert "is no name of a domain" in capfd.readouterr().out


@pytest.mark.parametrize("command", [["grid", "--sources", "domain_A"], ["tune", "padim"]], ids=str)
@pytest.mark.parametrize("what", ["name", "map", "copy", "case"])
def test_grids_and_studies_refuse_the_same(refused, root, command, what):
    spoil, says = {
        "name": (rename("domain_B", "B (1)"), ["B (1)", "is no name of a domain"]),
        "map": (ROWS["map: NaN"]),
        "copy": (ROWS["folder: a copy of the source"]),
        "case": (lambda root: shutil.copytree(root / "domain_B", root / "Domain_b"), ["domain_B", "Domain_b"]),
    }[what]
    spoil(root)
    refused(*command, "--data-root", root, says=says, leaves=("cache/maps", "cache/checked"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nowhere", ["data root nowhere is not a folder", "data_root=demo"]),
        ("~root/none/maps", ["none/maps is not a folder"]),
        ("a" * 5000, ["is not a folder"]),
        ("a/" * 3000, ["is not a folder"]),
        ("maps/domain_A", ["no domain below", "maps", "it is a domain itself"]),
        ("maps/domain_A/metadata.csv", ["is not a folder"]),
        ("empty", ["no domain below", "expected <root>/<domain>/"]),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("command", [["train", "padim", "--data-root"], ["check-data"]], ids=str)
def test_a_data_root_that_is_none_is_refused(refused, root, given, says, command):
    (root.parent / "empty").mkdir()
    metadata("path\n")(root)
    refused(*command, given, says=says)


@pytest.mark.parametrize(
    ("model", "arguments", "says"),
    [
        ("padim", [], ["padim needs 2 training maps or more", "domain_A has 1"]),
        ("dfm", [], ["dfm needs 2 training maps or more"]),
        ("dfkde", [], ["dfkde needs 17 training maps or more with model.n_pca_components=16; domain_A has 1"]),
        ("patchcore", ["--validation", "synthetic"], ["AUROC is undefined for source domain_A"]),
    ],
)
def test_too_few_training_maps_are_refused_before_the_run_starts(refused, root, model, arguments, says):
    for file in sorted((root / "domain_A/train/good").iterdir())[1:]:
        file.unlink()
    refused("train", model, *arguments, "--data-root", root, says=says, leaves=("cache/maps",))
    grid = ["grid", "--sources", "domain_A", "--models", model, *arguments, "--data-root", root]
    refused(*grid, says=says, leaves=("cache/maps", "cache/checked"))


MEDDLER = """
from pathlib import Path
import tifffile
from toy_model import Toy

class Meddler(Toy):
    def __init__(self, victim: str = "", **components):
        super().__init__(**components)
        self.victim = victim

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        file = Path(self.victim)
        tifffile.imwrite(file, tifffile.imread(file)[::-1])
"""


@pytest.mark.parametrize("place", ["domain_A/test/fault/000003.tiff", "domain_B/test/masks/000001.tif"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_whose_maps_change_during_the_fit_fails_in_one_line(
    exit_code, capfd, root, tmp_path, monkeypatch, place, workers
):
    import mlflow

    put("domain_B/test/masks/000001.tif", tiff(MARKED))(root)
    (tmp_path / "meddler.py").write_text(MEDDLER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "meddler", raising=False)  # that of another test is gone by now
    overrides = f"model.victim={root / place},data.packed=false,data.workers={workers},train.device=cpu"
    command = [
        "train",
        "meddler:Meddler",
        "--data-root",
        str(root),
        "--overrides",
        f"{overrides},tracking.figures=false",
    ]
    condition = tmp_path / "mine.json"
    condition.write_text('{"condition_1": {"name": "mine", "description": "", "config": {"image_size": [31, 95]}}}')
    assert exit_code(*command, "--condition-file", str(condition), "--condition", "mine") == 2
    line = [line for line in capfd.readouterr().err.splitlines() if line.startswith("hdmap: ")]
    says = f"{root / place} has changed since this run read and checked it; start the run again"
    assert line == [f"hdmap: {says}"]
    [run] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FAILED" and says in run.data.tags["hdmap.reason"]
    assert not [name for name in run.data.metrics if name.startswith(("source/", "target"))]


def test_a_domain_may_have_a_name_in_any_letters(exit_code, root):
    """All the way into metrics and files."""
    import mlflow

    rename("domain_B", "기어 상자")(root)
    overrides = "train.device=cpu,tracking.heatmaps=1"
    assert exit_code("train", "padim", "--data-root", str(root), "--overrides", overrides) == 0
    [run] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert "target/기어 상자/image_AUROC" in run.data.metrics
