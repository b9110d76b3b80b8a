"""Maps as the models get them: every item's pixels, label, mask and fault, and the loaders of every set."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import pytest
import tifffile
import torch
from maps import write_domain
from torch.nn.functional import interpolate

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import datamodule, layout
from hdmap_mlflow.data.datamodule import MapDataset, MultiDomainHDMAPDataModule, on_device, resize
from hdmap_mlflow.data.faults import NATIVE, CutPaste
from hdmap_mlflow.errors import BadInput

LEFT = np.zeros((31, 95), bool)
LEFT[3:5, :40] = True


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """domain_A without masks; domain_B with a mask for one fault map, and one of that name beside a good map."""
    root = tmp_path_factory.mktemp("maps")
    write_domain(root, "domain_A")
    folder = write_domain(root, "domain_B", gain=3)
    (folder / "test/masks").mkdir()
    cv2.imwrite(str(folder / "test/masks/000002.png"), LEFT.astype(np.uint8) * 7)
    return root


@pytest.fixture(params=[True, False], ids=["packed", "files"])
def module(request, root, tmp_path, monkeypatch):
    """A function: the data module of these settings."""
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))

    def make(**settings):
        settings = {"image_size": (40, 60), "batch_size": 5, "eval_batch_size": 3} | settings
        domains = layout.read_domains(root, ["domain_A", "domain_B"], request.param)
        return MultiDomainHDMAPDataModule(domains, DataConfig(**settings))

    return make


def items(loader):
    return [loader.dataset[i] for i in range(len(loader.dataset))]


def test_an_item_is_the_map_of_its_file_three_times_with_label_and_path(module, root):
    loader = module().scoring_dataloader("domain_B", "test")
    table = loader.dataset.table
    assert len(loader.dataset) == len(table) == 16
    for item, row in zip(items(loader), table.to_dict("records"), strict=True):
        file = root / "domain_B" / row["path"]
        stored = tifffile.imread(file)
        assert item.image.dtype == torch.float32
        np.testing.assert_array_equal(item.image, np.stack([stored] * 3))
        assert item.image_path == str(file) and item.gt_label.item() == int(file.parent.name == "fault")
        marked = LEFT if row["path"] == "test/fault/000002.tiff" else np.zeros((31, 95), bool)
        assert item.gt_mask.dtype == torch.bool
        np.testing.assert_array_equal(item.gt_mask, marked)


def test_masks_come_at_native_size_only_and_only_where_a_map_has_one(module):
    made = module(validation="synthetic")
    assert all(item.gt_mask is None for item in items(made.scoring_dataloader("domain_A", "test")))
    assert all(item.gt_mask is None for item in items(made.scoring_dataloader("domain_B", "test", made.transform)))


def test_a_synthetic_fault_keeps_no_mask_of_the_map_it_lies_on(root):
    table = layout.read_domain(root, "domain_B", pack=False).table.query("mask != ''")
    table = table.assign(file=[str(root / "domain_B" / path) for path in table["path"]])
    for synthetic in (False, True):
        [item] = MapDataset(table.assign(synthetic=synthetic))
        np.testing.assert_array_equal(item.gt_mask, LEFT & (not synthetic))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest"])
def test_what_trains_validates_and_tests_is_resized_without_aliases_and_what_is_scored_is_not(module, how):
    made = module(image_size=(16, 60), interpolation=how)
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        item = loader.dataset[0]
        native = torch.from_numpy(tifffile.imread(item.image_path))[None, None]
        smooth = {} if how == "nearest" else {"antialias": True, "align_corners": False}
        torch.testing.assert_close(item.image, interpolate(native, (16, 60), mode=how, **smooth)[0].repeat(3, 1, 1))
    assert made.scoring_dataloader("domain_A", "val").dataset[0].image.shape == (3, 31, 95)


def test_every_loader_serves_its_own_maps_in_batches_of_its_own_size(module):
    made = module(validation="synthetic", split_seed=3)

    def served(loader):
        batches = list(loader)
        return [len(batch.image) for batch in batches], [p for batch in batches for p in batch.image_path]

    sizes, paths = served(made.train_dataloader())
    assert sizes == [5, 5] and sorted(paths) == sorted(made.train_maps["file"]) != paths
    for loader, kept, sized in (
        (made.val_dataloader(), ("domain_A", "val"), [3, 1]),
        (made.test_dataloader(), ("domain_A", "test"), [3] * 5 + [1]),
        (made.scoring_dataloader("domain_B", "test"), ("domain_B", "test"), [3] * 5 + [1]),
    ):
        sizes, paths = served(loader)
        assert sizes == sized and paths == made.scored[kept]["file"].tolist()
    sizes, paths = served(made.chosen_dataloader("domain_B", [7, 0, 9, 2]))
    assert sizes == [3, 1] and paths == made.scored["domain_B", "test"]["file"].iloc[[7, 0, 9, 2]].tolist()
    loader = made.chosen_dataloader("domain_B", [7])
    np.testing.assert_array_equal(loader.dataset[0].image[0], tifffile.imread(loader.dataset[0].image_path))


def test_packed_maps_are_taken_from_the_pack_by_every_loader(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    domains = layout.read_domains(root, ["domain_A", "domain_B"])
    made = MultiDomainHDMAPDataModule(domains, DataConfig(image_size=(31, 95)))
    monkeypatch.setattr("hdmap_mlflow.data.datamodule.read_map", None)
    for loader in (
        made.train_dataloader(),
        made.val_dataloader(),
        made.test_dataloader(),
        made.scoring_dataloader("domain_B", "test"),
        made.chosen_dataloader("domain_B", [3]),
    ):
        np.testing.assert_array_equal(loader.dataset[0].image[0], tifffile.imread(loader.dataset[0].image_path))


# ------------------------------------------------------------------------------------------ synthetic faults
def test_every_synthetic_map_gets_a_fault_of_its_own_the_same_for_a_seed_and_a_row(module):
    """What is pasted is held by the tests of `CutPaste`; which fault a row gets is part of a run's numbers."""
    added = {}
    for seed in (0, 1, 0):
        made = module(validation="synthetic", split_seed=seed)
        loader = made.scoring_dataloader("domain_A", "val")
        faults = []
        for row, item in enumerate(items(loader)):
            pixels = torch.from_numpy(tifffile.imread(item.image_path))[None]
            expected = pixels
            if item.gt_label == 1:
                generator = torch.Generator().manual_seed(1_000_003 * seed + row)
                expected = NATIVE.paste(pixels, generator)[0]
                faults.append(tuple(map(tuple, (expected - pixels)[0].nonzero().tolist())))
            np.testing.assert_array_equal(item.image[0], expected[0])
        assert len(set(faults)) == len(faults) == 2
        assert added.setdefault(seed, faults) == faults
    assert not set(added[0]) & set(added[1])


def test_a_map_that_is_asked_for_by_name_gets_the_fault_that_it_was_scored_with(module):
    made = module(validation="synthetic", split_seed=3)
    scored = made.scoring_dataloader("domain_A", "val").dataset
    rows = scored.table.index[scored.table["label"] == 1][::-1]
    named = made.named_dataloader("domain_A", [(scored.table["path"][row], 1) for row in rows], "val").dataset
    for place, row in enumerate(rows):
        assert torch.equal(named[place].image, scored[row].image)


def test_one_healthy_map_in_two_rows_gets_two_faults_and_the_same_two_again(root):
    table = layout.read_domain(root, "domain_A", pack=False).table.iloc[[0, 0]].reset_index(drop=True)
    table = table.assign(file=str(root / "domain_A" / table["path"].iloc[0]), synthetic=True, label=1)
    fault = CutPaste(width=(5, 5), height=(3, 3), severity=(9.0, 9.0))
    seen = {seed: [item.image for item in MapDataset(table, seed, fault=fault)] for seed in (0, 4)}
    assert not torch.equal(*seen[0]) and not torch.equal(seen[0][0], seen[4][0])
    for seed, images in seen.items():
        again = MapDataset(table, seed, fault=fault)
        assert torch.equal(again[1].image, images[1]) and torch.equal(again[0].image, images[0])
    assert torch.equal(MapDataset(table, fault=fault)[0].image, seen[0][0])


# ------------------------------------------------------------------------------------------------- workers
def test_a_set_and_its_collation_travel_to_a_process_that_is_not_forked(module):
    made = module(validation="synthetic")
    for loader in (made.train_dataloader(), made.scoring_dataloader("domain_B", "test"), made.val_dataloader()):
        data, collate = ForkingPickler.loads(ForkingPickler.dumps((loader.dataset, loader.collate_fn)))
        here, there = (join([one[0], one[1]]) for join, one in ((loader.collate_fn, loader.dataset), (collate, data)))
        assert torch.equal(here.image, there.image) and here.image_path == there.image_path


def shuffles(made, epochs=3):
    torch.manual_seed(5)
    loader = made.train_dataloader()
    return [[path for batch in loader for path in batch.image_path] for _ in range(epochs)], torch.rand(1).item()


def test_shuffles_of_all_epochs_and_random_numbers_after_them_do_not_depend_on_workers(root):
    domains = layout.read_domains(root, ["domain_A"], pack=False)
    none, two = (MultiDomainHDMAPDataModule(domains, DataConfig(batch_size=5, workers=n)) for n in (0, 2))
    assert two.train_dataloader().num_workers == 2 and two.train_dataloader().persistent_workers
    assert not two.val_dataloader().persistent_workers
    epochs, after = shuffles(none)
    assert epochs[0] != epochs[1] != epochs[2]
    assert shuffles(two) == (epochs, after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "how", "part"),
    [(True, "forkserver", "val"), (False, "spawn", "scored")],
    ids=["forkserver", "spawn"],
    indirect=["module"],
)
def test_workers_that_are_not_forked_bring_the_same_batches(module, how, part):
    """Each such worker imports torch and anomalib anew, so sets of a few batches are all that is asked of them."""
    loaders = []
    for workers in (0, 2):
        made = module(validation="synthetic", workers=workers, eval_batch_size=8)
        loaders.append(made.val_dataloader() if part == "val" else made.scoring_dataloader("domain_B", "test"))
    loaders[1].multiprocessing_context = how
    for here, there in zip(*loaders, strict=True):
        assert torch.equal(here.image, there.image) and here.image_path == there.image_path
        assert part == "val" or torch.equal(here.gt_mask, there.gt_mask)


# ------------------------------------------------------------------------------- what is scored is what was digested
def changed(path: Path) -> None:
    if path.suffix == ".png":
        cv2.imwrite(str(path), (~LEFT).astype(np.uint8))
    else:
        tifffile.imwrite(path, tifffile.imread(path) * 2)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function: the data module of maps that may be changed, packed or not."""
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    for name in ("domain_A", "domain_B"):
        write_domain(tmp_path / "root", name, 3, 4, 4)
        (tmp_path / "root" / name / "test/masks").mkdir()
        cv2.imwrite(str(tmp_path / "root" / name / "test/masks/000002.png"), LEFT.astype(np.uint8))

    def make(packed, **settings):
        domains = layout.read_domains(tmp_path / "root", ["domain_A", "domain_B"], packed)
        return domains, MultiDomainHDMAPDataModule(domains, DataConfig(image_size=(31, 95), **settings))

    return make


@pytest.mark.parametrize(
    ("place", "packed", "readers"),
    [
        ("domain_A/train/good/000001.tiff", False, {"train"}),
        ("domain_A/test/fault/000002.tiff", False, {"val", "test", "source"}),
        ("domain_B/test/good/000003.tiff", False, {"target", "chosen"}),
        ("domain_B/test/fault/000002.tiff", False, {"target", "chosen"}),
        ("domain_A/test/masks/000002.png", False, {"source"}),
        ("domain_B/test/masks/000002.png", False, {"target", "chosen"}),
        ("domain_B/test/masks/000002.png", True, {"target", "chosen"}),
        ("domain_B/test/good/000003.tiff", True, set()),
        ("domain_B/train/good/000001.tiff", False, set()),
    ],
)
def test_a_file_that_changes_after_it_was_digested_ends_what_reads_it(own, tmp_path, place, packed, readers):
    _, made = own(packed, validation="source_test")
    loaders = {
        "train": made.train_dataloader(),
        "val": made.val_dataloader(),
        "test": made.test_dataloader(),
        "source": made.scoring_dataloader("domain_A", "test"),
        "target": made.scoring_dataloader("domain_B", "test"),
        "chosen": made.chosen_dataloader("domain_B", range(8)),
    }
    for loader in loaders.values():
        assert items(loader)
    changed(tmp_path / "root" / place)
    for name, loader in loaders.items():
        if name in readers:
            with pytest.raises(BadInput, match=f"{place} has changed since this run read and checked it"):
                items(loader)
        else:
            items(loader)


def test_maps_for_the_distances_of_domains_are_those_that_were_digested(own, tmp_path):
    [domain, _], _ = own(False)
    train = domain.table[domain.table["split"] == "train"]
    assert domain.read(train).shape == (3, 31, 95)
    changed(tmp_path / "root/domain_A/train/good/000001.tiff")
    with pytest.raises(BadInput, match="000001.tiff has changed"):
        domain.read(train)


def test_what_a_worker_finds_is_said_in_one_line_too(own, tmp_path):
    _, made = own(False, workers=1)
    changed(tmp_path / "root/domain_B/test/good/000003.tiff")
    with pytest.raises(BadInput) as caught:
        list(made.scoring_dataloader("domain_B", "test"))
    assert str(caught.value) == (
        f"{tmp_path}/root/domain_B/test/good/000003.tiff has changed since this run read and checked it; "
        "start the run again"
    )


def test_the_mask_of_a_map_is_found_where_paths_have_other_slashes(own, monkeypatch):
    [domain, _], _ = own(False)
    table = domain.table.query("mask != ''")
    file = str(PureWindowsPath("C:/data/domain_A") / table["path"].iloc[0])
    pixels = tifffile.imread(domain.folder / table["path"].iloc[0])
    seen = []
    monkeypatch.setattr(datamodule, "Path", PureWindowsPath)
    monkeypatch.setattr(datamodule, "read_map", lambda path, content: seen.append(path) or pixels)
    monkeypatch.setattr(datamodule, "read_mask", lambda path, content, pixels: seen.append(path) or LEFT)
    MapDataset(table.assign(file=file, synthetic=False))[0]
    assert list(map(str, seen)) == [file, r"C:\data\domain_A\test\masks\000002.png"]


def test_what_travels_to_a_device_is_one_channel():
    maps = torch.rand(4, 1, 31, 95).repeat(1, 3, 1, 1)
    there, bigger = on_device(maps, "cpu"), resize(DataConfig(image_size=(64, 48)))
    assert torch.equal(bigger(there), bigger(maps))
    assert torch.equal(there, maps) and there.stride(1) == 0
    assert on_device(maps, "meta").shape == maps.shape


@pytest.mark.parametrize("fits", [True, False])
def test_a_map_is_resized_once_where_all_of_them_fit_and_is_the_same_in_every_epoch(fits, maps, monkeypatch):
    module = MultiDomainHDMAPDataModule(layout.read_domains(maps, ["domain_A"]), DataConfig(image_size=(16, 24)))
    count = len(module.train_maps)
    monkeypatch.setattr(datamodule, "HELD", 4 * 16 * 24 * count - (not fits))
    resized = []
    own = module.transform.forward
    monkeypatch.setattr(module.transform, "forward", lambda image: resized.append(1) or own(image))
    data = module.train_dataloader().dataset
    epochs = [[data[i] for i in range(count)] for _ in range(2)]
    assert len(resized) == (count if fits else 2 * count)
    for first, again in zip(*epochs, strict=True):
        assert torch.equal(first.image, again.image) and first.image.shape == (3, 16, 24)
        assert first.gt_label == again.gt_label and first.image_path == again.image_path
        again.image.zero_()  # what a model does to its batch
    assert all(torch.equal(one.image, data[i].image) for i, one in enumerate(epochs[0]))
