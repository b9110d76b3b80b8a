"""What may influence what: one thing is changed, and of all that a run records only what follows from it may move.

A run's record is taken as a flat table of facts (`facts`), and two runs are compared fact by fact, to the last digit.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from maps import SIZE, healthy

from hdmap_mlflow import tracking
from hdmap_mlflow.evaluation import cards, resampled
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.runs import flow, setup
from hdmap_mlflow.tuning.search import SearchRequest, check
from hdmap_mlflow.tuning.study import Asked

FITTED, TRAINED = "toys:Fitted", "toys:Trained"
CONDITIONS = {
    "condition_1": {
        "name": "toy",
        "config": {"image_size": list(SIZE)},
        "search": {"rate": {"type": "float", "low": 0.01, "high": 0.1}},
    }
}
QUIET = "tracking.figures=false,tracking.heatmaps=0,data.batch_size=4,data.eval_batch_size=8"


# The runs that others are compared with are made once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("influence")]


# ------------------------------------------------------------------------------------------------ maps
def write(root: Path, name: str, gain: float) -> None:
    """A domain whose faults are hard to tell, with masks for half of them, two groups and severities.

    A stem tells a map, whatever folder it lies in: t03 trains, g03 is good, f03 has a fault.
    """
    rng, lines = np.random.default_rng([*name.encode()]), ["path,group,severity"]
    for role, stem, count in (("train/good", "t", 8), ("test/good", "g", 12), ("test/fault", "f", 12)):
        (root / name / role).mkdir(parents=True)
        for i in range(count):
            pixels, band = healthy(rng, gain), np.zeros(SIZE, bool)
            if stem == "f":
                band[i : i + 2, 20:60] = True
                pixels[band] += np.float32(gain * 0.015 * i)
            tifffile.imwrite(root / name / role / f"{stem}{i:02d}.tiff", pixels)
            lines.append(f"{role}/{stem}{i:02d}.tiff,{'warm' if i % 2 else 'cold'},{i if stem == 'f' else 0}")
            if stem == "f" and i > 5:
                (root / name / "test/masks").mkdir(exist_ok=True)
                cv2.imwrite(str(root / name / f"test/masks/f{i:02d}.png"), band.astype(np.uint8) * 255)
    (root / name / "metadata.csv").write_text("\n".join(lines))


def content(file: Path) -> str:
    """The digest by which the package orders maps before it splits them: of pixels and mask, as layout.py says."""
    digest = blake2b(tifffile.imread(file).tobytes(), digest_size=16)
    mask = file.parents[1] / "masks" / f"{file.stem}.png"
    if mask.exists() and file.parent.name == "fault":
        digest.update((cv2.imread(str(mask), cv2.IMREAD_UNCHANGED) > 0).tobytes())
    return digest.hexdigest()


def rewrite(file: Path, gain: float = 1.0, beside: list[Path] | None = None) -> None:
    """Other pixels, `gain` times as bright; among the maps `beside`, ordered by content, the map keeps its place.

    A split takes the maps of a label and group by their places in the order of their content. Maps of one half that
    keep their places among those of the other leave the split as it is, so that nothing but their pixels changes.
    """
    before, others = tifffile.imread(file), sorted(content(other) for other in beside or [])
    place = np.searchsorted(others, content(file))
    for attempt in range(1000):
        noise = np.random.default_rng([attempt, *file.stem.encode()]).lognormal(0, 0.3, before.shape)
        tifffile.imwrite(file, (gain * before * noise).astype(np.float32))
        if np.searchsorted(others, content(file)) == place:
            return
    raise AssertionError(f"{file} found no other pixels that keep its place")


# ------------------------------------------------------------------------------------------------ runs
@dataclass(frozen=True)
class Ran:
    """A run: where its maps lie, and its facts."""

    root: Path
    facts: dict[str, object]

    def half(self, split: str) -> list[Path]:
        """The source's maps of a split."""
        found = {name.split("/")[3] for name in self.facts if name.startswith(f"scores/domain_A/{split}/")}
        return [path for path in sorted((self.root / "domain_A/test").glob("*/*.tiff")) if path.stem in found]


def flat(prefix: str, content: object) -> Iterator[tuple[str, object]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat(f"{prefix}/{key}", value)
    else:
        yield prefix, content


def facts(result, folder: Path, epochs: dict) -> dict[str, object]:  # noqa: ANN001
    """All that a run says of its maps, by name; costs and the times of scoring are not of the maps."""
    out: dict[str, object] = {k: v for k, v in result.metrics.items() if not k.startswith("cost/")}
    out |= dict(flat("cards", result.cards)) | dict(flat("epoch", epochs))
    [checkpoint] = folder.rglob("*.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    out |= {f"checkpoint/{name}": tensor.flatten().tolist() for name, tensor in state.items()}
    for file in folder.rglob("*.parquet"):
        for row in pd.read_parquet(file).to_dict("records"):
            stem = Path(row["path"]).stem.rpartition("-")[2]
            for column in ("score", "image_max", "image_mean"):
                out[f"scores/{file.stem}/{row['split']}/{stem}/{column}"] = row[column]
    return out


@pytest.fixture(scope="module")
def execute(tmp_path_factory):  # noqa: ANN001, ANN201
    """Runs a toy on the maps below a root. What takes most of a toy's time is left out: the store, and resamples."""
    place = tmp_path_factory.mktemp("influence")
    (place / "toy.json").write_text(json.dumps(CONDITIONS))

    def go(root: Path, model: str = FITTED, config=None, **more) -> Ran:  # noqa: ANN001
        folder = place / f"out{len(list(place.iterdir()))}"
        flags = {"data.root": str(root), "train.max_epochs": 4 if model == TRAINED else 1} | more
        config = config or setup.configure(model, "toy", str(place / "toy.json"), flags, QUIET)
        config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"output_dir": str(folder)})})
        epochs: dict[str, dict] = {}
        result = flow.execute(config, say=lambda _: None, on_epoch=lambda v, epoch: epochs.update({str(epoch): v}))
        return Ran(root, facts(result, folder, epochs))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampled, "RESAMPLES", 5)
        patch.setattr(cards, "REPAIR_DRAWS", 5)
        patch.setattr(tracking, "start", lambda *_, **__: nullcontext(MagicMock(run_id="none", uri="none")))
        patch.setattr(tracking, "twins", lambda *_: set())
        patch.setenv("HDMAP_CACHE", str(place / "cache"))
        yield go


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:  # noqa: ANN001
    root = tmp_path_factory.mktemp("maps")
    for name, gain in (("domain_A", 1.0), ("domain_B", 1.2), ("domain_C", 2.0)):
        write(root, name, gain)
    return root


@pytest.fixture(scope="module")
def fitted(execute, maps) -> Ran:  # noqa: ANN001
    return execute(maps)


@pytest.fixture(scope="module")
def trained(execute, maps) -> Ran:  # noqa: ANN001
    return execute(maps, TRAINED)


@pytest.fixture
def root(tmp_path: Path, maps: Path) -> Path:
    """A copy of the maps, to be changed."""
    return Path(shutil.copytree(maps, tmp_path / "changed"))


def moved(before: Ran, after: Ran) -> set[str]:
    """The names of the facts that are not the same in both runs, or in one of them only."""
    names = set(before.facts) | set(after.facts)
    return {name for name in names if before.facts.get(name) != after.facts.get(name)}


def of_domain(name: str, *splits: str) -> str:
    """The facts of one domain's reported maps, and of the means over targets."""
    scope = "source" if name == "domain_A" else f"(target/{name}|target_mean|target_worst)"
    return (
        rf"({scope}|transfer|pooled|harmonic|cross/({name}/.*|.*/{name})|scores/{name}/({'|'.join(splits)}))/.*"
        rf"|cards/(intervals|groups|repair|saturation|confounds|severity|dependence)/{name}/.*"
        rf"|cards/thresholds/\w+/domains/{name}/.*|cards/shift/\w+/AUROC_drop"
        rf"|cards/adaptation/curve/\w+/\d+/({scope}|pooled)/.*"
    )


# ------------------------------------------------------------------------------------------- changes
def change_reported(root: Path, before: Ran) -> None:
    for file in (root / path.relative_to(before.root) for path in before.half("test")):
        others = [root / path.relative_to(before.root) for path in before.half("val")]
        rewrite(file, 1.3, [other for other in others if other.parent == file.parent])


def change_validation(root: Path, before: Ran) -> None:
    """Healthy maps become brighter than those with a fault."""
    for file in (root / path.relative_to(before.root) for path in before.half("val")):
        others = [root / path.relative_to(before.root) for path in before.half("test")]
        rewrite(file, 0.4 if file.stem[0] == "f" else 2.5, [other for other in others if other.parent == file.parent])


def change_target(root: Path, before: Ran) -> None:
    for file in sorted((root / "domain_B").rglob("*.tiff")):
        rewrite(file, 1.3)


def flip_labels(root: Path, before: Ran) -> None:
    """Good maps of a target lie among the faulty ones and the other way round; nothing else of it changes."""
    test = root / "domain_B/test"
    (test / "good").rename(test / "other")
    (test / "fault").rename(test / "good")
    (test / "other").rename(test / "fault")
    text = (root / "domain_B/metadata.csv").read_text()
    swapped = {"good": "fault", "fault": "good"}
    (root / "domain_B/metadata.csv").write_text(
        re.sub("test/(good|fault)", lambda found: f"test/{swapped[found[1]]}", text)
    )


THRESHOLDS = r"val/.*|.*(image_F1|_at_normal_q9[59])|scores/domain_A/val/.*|cards/(thresholds|repair|saturation)/.*"
THRESHOLDS += r"|cards/severity/.*TPR.*|cards/adaptation/curve/.*_at_normal_q9[59]/.*"
THRESHOLDS += r"|cards/adaptation/curve/\w+/[1-9]\d*/pooled/.*"  # adapted scores are on the scale of validation
CHANGES = {  # what is changed, what may move, what must
    "reported half": (change_reported, of_domain("domain_A", "test"), {"source/image_AUROC", "source/pixel_AUROC"}),
    "validation half": (change_validation, THRESHOLDS, {"val/threshold_normal_q99", "val/image_AUROC"}),
    "target": (
        change_target,
        of_domain("domain_B", "test", "reference") + "|cards/shift/domain_B/.*",
        {"target/domain_B/image_AUROC", "transfer/gap", "scores/domain_B/test/g03/score"},
    ),
    "labels of a target": (flip_labels, of_domain("domain_B"), {"target/domain_B/image_AUROC", "transfer/gap"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_moves_only_what_follows_from_it(execute, fitted, root, what):
    change, may, must = CHANGES[what]
    change(root, fitted)
    found = moved(fitted, after := execute(root))
    assert sorted(name for name in found if not re.fullmatch(may, name)) == []
    assert must <= found
    for split in ("val", "test"):
        assert [path.stem for path in after.half(split)] == [path.stem for path in fitted.half(split)]


def test_the_maps_of_these_tests_are_hard_enough_to_show_a_leak(fitted):
    for scope in ("val", "source", "target/domain_B", "target/domain_C"):
        assert 0.5 < fitted.facts[f"{scope}/image_AUROC"] < 1


# ------------------------------------------------------------------------------------- a model that trains
EPOCHS = [str(epoch) for epoch in range(4)]


@pytest.mark.parametrize("what", ["reported half", "target"])
def test_what_is_reported_moves_no_epoch_no_checkpoint_and_no_threshold_of_a_model_that_trains(
    execute, trained, root, what
):
    change, may, must = CHANGES[what]
    change(root, trained)
    found = moved(trained, execute(root, TRAINED))
    assert sorted(name for name in found if not re.fullmatch(may, name)) == []
    assert {name for name in must if "pixel" not in name} <= found
    assert any(name.startswith("epoch/") for name in trained.facts)


def test_validation_chooses_the_epoch_and_moves_nothing_of_the_training_itself(execute, trained, root):
    change_validation(root, trained)
    after = execute(root, TRAINED)

    def best(ran: Ran) -> object:
        """The angle of the first epoch of the best validation AUROC."""
        epoch = max(EPOCHS, key=lambda epoch: ran.facts[f"epoch/{epoch}/val_image_AUROC"])
        return ran.facts[f"epoch/{epoch}/angle"]

    for epoch in EPOCHS:
        for value in ("train_loss", "angle"):
            assert after.facts[f"epoch/{epoch}/{value}"] == trained.facts[f"epoch/{epoch}/{value}"]
    assert best(trained) != best(after)
    for ran in (trained, after):
        assert ran.facts["checkpoint/model.angle"] == [best(ran)]


def test_a_trial_reads_no_target_and_its_objective_moves_with_no_reported_map(execute, trained, root, tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps(CONDITIONS))
    flags = {"data.root": str(root), "train.max_epochs": 4}
    wanted = SearchRequest(TRAINED, "toy", str(tmp_path / "toy.json"), flags, QUIET)
    search = check(wanted)
    task = search.task(Asked(0, 0, search.space.baseline(), True), Launch(), "study")
    change_reported(root, trained)
    for file in root.glob("domain_[BC]/**/*.tiff"):
        file.write_bytes(b"no image")
    trial = execute(root, config=task.config)
    assert search.values(trial.facts) == [trained.facts["val/image_AUROC"]]
    assert not [name for name in trial.facts if re.search("target|transfer|domain_[BC]", name)]
    found = {name for name in moved(trained, trial) if name in trial.facts}
    assert sorted(name for name in found if not re.fullmatch(of_domain("domain_A", "test"), name)) == []


# ---------------------------------------------------------------------------------- what must not matter
def rename(root: Path) -> None:
    """Other names, in the opposite order, and files made in another order; a mask goes by its map's stem."""
    for file in sorted(root.glob("*/t*/*/*.*"), reverse=True):
        name = f"{999 - int(file.stem[1:])}-{file.stem}"
        shutil.copy(file, file.with_stem(name))
        file.unlink()
    for table in root.glob("*/metadata.csv"):
        first, *lines = table.read_text().splitlines()
        lines = [re.sub(r"([tgf])(\d+)", lambda m: f"{999 - int(m[2])}-{m[0]}", line, count=1) for line in lines]
        table.write_text("\n".join([first, *reversed(lines)]))


def other_suffixes(root: Path) -> None:
    for number, file in enumerate(sorted(root.rglob("*.tiff"))):
        suffix = (".npy", ".tif", ".TIFF", ".NPY")[number % 4]
        if suffix.lower() == ".npy":
            np.save(file.with_suffix(".npy"), tifffile.imread(file))
            file.unlink()
            file = file.with_suffix(".npy")
        file.rename(file.with_suffix(suffix))
        table = file.parents[2 if file.parents[1].name in ("train", "test") else 1] / "metadata.csv"
        path = file.relative_to(table.parent).with_suffix("").as_posix()
        table.write_text(table.read_text().replace(f"{path}.tiff", f"{path}{suffix}"))


def nothing(root: Path) -> None:
    pass


SAME = {
    "names": (rename, {}),
    "suffixes": (other_suffixes, {}),
    "order of targets": (nothing, {"data.target_domains": "domain_C,domain_B"}),
    "as many maps at once as a device holds": (nothing, {"data.eval_batch_size": "auto"}),
    "evaluation batches": (nothing, {"data.eval_batch_size": 5}),
    "packed maps": (nothing, {"data.packed": False}),
    "workers": (nothing, {"data.workers": 2}),
}


# What is said of the order of the files follows their names.
ORDER = r"cards/(confounds/\w+/follows/file|dependence/.*)"


def test_names_suffixes_orders_evaluation_batches_and_packing_move_nothing(execute, fitted, root):
    """All at once; which of them it is, if one does, the slow test says."""
    settings: dict[str, object] = {}
    for change, more in (SAME[name] for name in SAME if name != "workers"):
        change(root)
        settings |= more
    found = moved(fitted, execute(root, **settings))
    assert sorted(name for name in found if not re.fullmatch(ORDER, name)) == []


@pytest.mark.parametrize("what", SAME)
def test_what_must_not_matter_moves_nothing_of_a_model_that_trains(execute, trained, root, what):
    change, settings = SAME[what]
    change(root)
    found = moved(trained, execute(root, TRAINED, **settings))
    assert sorted(name for name in found if what != "names" or not re.fullmatch(ORDER, name)) == []
