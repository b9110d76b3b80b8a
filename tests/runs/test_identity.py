"""What a run is: another ingredient of its fingerprint makes another run, and another place to run it does not."""

import hashlib
import shutil
import sys
import typing
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from maps import write_domain
from pydantic import ValidationError

from hdmap_mlflow.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrackingConfig,
    TrainConfig,
    build_config,
    fingerprint,
)
from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.grid import plan
from hdmap_mlflow.models import builder, signature
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs.identity import identity_tags

PARTS = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig, "tracking": TrackingConfig}
# Written here once more: a setting added to the package counts, until somebody adds it here as well.
WHERE_IT_HAPPENS = {
    "data.root",
    "data.workers",
    "data.packed",
    "data.feature_cache_mb",
    "data.eval_batch_size",
    "train.device",
    "train.engine",
}
SETTINGS = [f"{part}.{name}" for part, fields in PARTS.items() for name in fields.model_fields]
BASE = RunConfig(condition="c", model=ModelConfig(name="m", settings={"layers": ["a"], "deep": {"x": 1, "y": 2}}))
RESNET = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"


def identity(config=BASE, digest="d", code="c"):
    return fingerprint(config, digest, code)


def put(setting, value):
    """The base with another value for a setting; what pydantic refuses raises."""
    part, name = setting.split(".")
    content = BASE.model_dump()
    content[part][name] = value
    return RunConfig.model_validate(content)


def others(annotation):
    """Values to try for a setting, from its type and then from a few that suit most."""
    for inner in typing.get_args(annotation):
        yield from [inner] if isinstance(inner, str | int) else others(inner)
    yield from (3, 0.25, "other", "epochs=3", ["other"], [3, 4], {"other": 1}, True, False)


def another(setting):
    """The base with another valid value for a setting."""
    part, name = setting.split(".")
    for value in others(PARTS[part].model_fields[name].annotation):
        try:
            changed = put(setting, value)
        except (ValidationError, BadInput):
            continue
        if changed != BASE:
            return changed
    raise AssertionError(f"give `others` a value that suits {setting}")


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_changes_the_fingerprint_unless_it_says_where_a_run_happens_or_what_is_kept_of_it(setting):
    neutral = setting in WHERE_IT_HAPPENS or setting.startswith("tracking.")
    assert (identity(another(setting)) == identity()) == neutral


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": ["b"]},
        {"layers": ["a", "a"]},
        {"layers": "a"},
        {"deep": {"x": 1, "y": 3}},
        {"more": None},
        {"a": 0.1},
    ],
)
def test_every_setting_of_a_models_constructor_counts(settings):
    assert identity(put("model.settings", BASE.model.settings | settings)) != identity()
    assert identity(put("model.settings", {"layers": ["a"]})) != identity(), "and one that is left out"


def test_condition_data_and_code_count_and_words_and_order_do_not():
    assert identity(BASE.model_copy(update={"condition": "d"})) != identity()
    assert len({identity(), identity(digest="e"), identity(code="e"), identity(digest="c", code="d")}) == 4
    assert identity(BASE.model_copy(update={"description": "in other words"})) == identity()
    assert identity(put("model.settings", {"deep": {"y": 2, "x": 1}, "layers": ["a"]})) == identity()
    assert len(identity()) == 16 and set(identity()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ("train.learning_rate=1e-3", "train.learning_rate=0.001"),
        ("train.learning_rate=1", "train.learning_rate=1.0"),
        ("train.weight_decay=0", "train.weight_decay=0.0"),
        ("train.seed=5,data.batch_size=4", "data.batch_size=4, train.seed='5' "),
        ("data.image_size=[32,96]", "data.image_size=[ 32, 96 ]"),
        (
            "model.max_bank_mb=20,model.coreset_sampling_ratio=1",
            "model.coreset_sampling_ratio=1.0,model.max_bank_mb=2e1",
        ),
        ("model.num_neighbors=9", ""),
        ("model.max_bank_mb=500", ""),
    ],
)
def test_one_value_written_in_two_ways_is_one_run(one, same):
    written = [builder.check(build_config("patchcore", {"name": "c", "config": {}}, overrides=o)) for o in (one, same)]
    assert identity(written[0]) == identity(written[1])


# ------------------------------------------------------------------------------------------------------------ the data
@pytest.fixture
def own_maps(tmp_path):
    """A source and a target; the source has a mask, and a group and a severity for a map."""
    for name in ("a", "b"):
        write_domain(tmp_path / "maps", name, 3, 2, 2)
    masks = tmp_path / "maps/a/test/masks"
    masks.mkdir()
    mask(masks / "000000.png", 5)
    (tmp_path / "maps/a/metadata.csv").write_text("path,group,severity\ntest/fault/000000.tiff,g,0.5\n")
    return tmp_path / "maps"


def mask(path, row):
    import cv2

    marked = np.zeros((31, 95), np.uint8)
    marked[row, 20:60] = 255
    cv2.imwrite(str(path), marked)


def pixel(root, name="b"):
    path = root / name / "test/good/000000.tiff"
    stored = tifffile.imread(path)
    stored[30, 94] *= np.float32(1.001)
    tifffile.imwrite(path, stored)


def rewrite(root, old, new):
    path = root / "a/metadata.csv"
    path.write_text(path.read_text().replace(old, new))


def of_data(root):
    config = BASE.model_copy(update={"data": DataConfig(root=str(root), source_domain="a")})
    return identity_tags(config, dataset.read(config), "c")["hdmap.fingerprint"]


def exchange(root, one, other):
    (root / one).rename(root / "aside")
    (root / other).rename(root / one)
    (root / "aside").rename(root / other)


@pytest.mark.parametrize(
    "change",
    [
        pixel,
        lambda root: pixel(root, "a"),
        lambda root: mask(root / "a/test/masks/000000.png", 6),
        lambda root: mask(root / "a/test/masks/000001.png", 5),
        lambda root: rewrite(root, "g,0.5", "h,0.5"),
        lambda root: rewrite(root, "g,0.5", "g,0.6"),
        lambda root: (root / "b/train/good/000000.tiff").unlink(),
        lambda root: (root / "b").rename(root / "c"),
        lambda root: exchange(root, "a", "b"),
    ],
    ids=["pixel", "pixel of the source", "mask", "new mask", "group", "severity", "map gone", "renamed", "exchanged"],
)
def test_the_data_of_every_domain_count(own_maps, change):
    before = of_data(own_maps)
    change(own_maps)
    assert of_data(own_maps) != before


def test_where_the_data_lie_does_not_count(own_maps, tmp_path):
    before = of_data(own_maps)
    moved = shutil.move(own_maps, tmp_path / "elsewhere")
    (moved / "a/train/good/000000.tiff").rename(moved / "a/train/good/zzz.tiff")
    assert of_data(moved) == before


# ------------------------------------------------------------------------------------------------------------ the code
@pytest.fixture
def own_model(tmp_path, monkeypatch):
    """A model of the user's own in several files, one of which it does not need."""
    files = {
        "own_model": "from own_base import Base\n\nclass Mine(Base):\n    def __init__(self, rate: float = 0.5, "
        "**components):\n        super().__init__(**components)\n        import own_late\n",
        "own_base": "from anomalib.models.components import AnomalibModule\nimport own_parts.bank\n\n"
        "class Base(AnomalibModule):\n    learning_type = trainer_arguments = configure_optimizers = None\n",
        "own_late": "from own_table import TABLE\n",
        "own_table": "TABLE = 1\n",
        "own_parts/bank": "SIZE = 1\n",
        "own_other": "SIZE = 1\n",
    }
    (tmp_path / "own_parts").mkdir()
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name.replace("/", "."), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    signature.forget()
    yield "own_model:Mine"
    signature.forget()


@pytest.mark.parametrize("file", ["own_model", "own_base", "own_late", "own_table", "own_parts/bank", "own_other"])
def test_a_line_of_a_models_code_counts_in_whatever_file_it_stands(own_model, tmp_path, file):
    before, path = signature.code_digest(own_model), tmp_path / f"{file}.py"
    path.write_text(path.read_text() + "CHANGED = 1\n")
    assert (signature.code_digest(own_model) == before) == (file == "own_other")
    path.write_text(path.read_text().removesuffix("CHANGED = 1\n"))
    assert signature.code_digest(own_model) == before


def test_a_model_of_anomalibs_or_ours_counts_with_the_parts_that_it_imports():
    names = {
        model: [f"{file.parent.name}/{file.stem}" for file in signature.sources(REGISTRY[model].path)]
        for model in ("draem", "patchcore")
    }
    assert set(names["draem"]) == {f"draem/{name}" for name in ("lightning_model", "torch_model", "loss")}
    ours = {"own/patchcore", "parts/coreset", "parts/blur", "parts/features", "patchcore/lightning_model"}
    assert ours <= set(names["patchcore"]) and len(set(names["patchcore"])) == len(names["patchcore"])
    assert not any("padim" in name or "registry" in name or "components" in name for name in names["patchcore"])


def released(monkeypatch, library, version):
    if library == "hdmap_mlflow":
        monkeypatch.setattr(signature, "__version__", version)
        return
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: version if name == library else known(name))


@pytest.mark.parametrize("library", ["hdmap_mlflow", "anomalib", "torch", "torchvision", "timm"])
def test_another_release_of_a_library_counts_and_the_same_one_for_another_device_does_not(monkeypatch, library):
    path = REGISTRY["draem"].path
    before = signature.code_digest(path)
    released(monkeypatch, library, "99.0")
    assert signature.code_digest(path) != before
    if library != "hdmap_mlflow":
        plain = signature.code_digest(path)
        released(monkeypatch, library, "99.0+cu130")
        assert signature.code_digest(path) == plain


# ------------------------------------------------------------------------------------------ the grid's kept checks
@pytest.fixture
def checks(monkeypatch):
    """How often a configuration was checked against its model's class."""
    done, check = [], builder.check
    monkeypatch.setattr(builder, "check", lambda config: done.append(config.name) or check(config))
    return done


def mine(own_model, checks, **settings):
    """The model's checked configuration and code as the grid sees them, and whether they had to be found."""
    before = len(checks)
    settings = {"rate": 1} | settings
    found = plan._check(RunConfig(condition="c", model=ModelConfig(name=own_model, settings=settings)))
    return *found, len(checks) > before


def test_a_kept_check_says_what_the_check_itself_says(own_model, checks):
    first, code, anew = mine(own_model, checks)
    again, same, once_more = mine(own_model, checks)
    assert (anew, once_more) == (True, False)
    assert first == again and first.model.settings == {"rate": 1.0} and first.model.weights == "none"
    assert code == same == signature.code_digest(own_model)
    assert mine(own_model, checks, rate=2)[2], "another setting is another check"
    assert plan._digests(["gone.py"]) == {"gone.py": ""}, "a file that another release no longer has"


@pytest.mark.parametrize("file", ["own_model", "own_base", "own_table"])
def test_a_kept_check_lapses_with_a_changed_or_lost_line_of_the_models_code(own_model, checks, tmp_path, file):
    code = mine(own_model, checks)[1]
    path = tmp_path / f"{file}.py"
    path.write_text(path.read_text() + "CHANGED = 1\n")
    _, changed, anew = mine(own_model, checks)
    assert anew and changed == signature.code_digest(own_model) != code


@pytest.mark.parametrize("library", ["hdmap_mlflow", "anomalib", "torch", "torchvision", "timm"])
def test_a_kept_check_lapses_with_another_release(own_model, checks, monkeypatch, library):
    code = mine(own_model, checks)[1]
    released(monkeypatch, library, "99.0")
    _, changed, anew = mine(own_model, checks)
    assert anew and changed == signature.code_digest(own_model) != code


def test_a_kept_check_lapses_with_any_change_of_this_package(own_model, checks, monkeypatch):
    mine(own_model, checks)
    sources = sorted(Path(plan.__file__).parents[1].rglob("*.py"))
    assert plan._own_code() == hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    monkeypatch.setattr(plan, "_own_code", lambda: "another")
    assert mine(own_model, checks)[2]


def test_the_grid_runs_again_what_finished_with_another_release(maps, store, monkeypatch, tmp_path):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))

    def expand():
        blocks = plan.read_blocks({"data_root": str(maps), "overrides": RESNET, "sources": "domain_A"})
        return plan.look_up(plan.expand(blocks), store)

    (cell,) = expand()
    store.close(store.create(cell.name, {**cell.tags, "hdmap.kind": "run"}, None), "finished")
    assert expand()[0].status == "finished"
    released(monkeypatch, "torch", "99.0")
    assert expand()[0].status == "missing"
