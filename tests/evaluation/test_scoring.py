"""From a loader to a table: every value by hand, on a model of a few lines."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rich.progress
import torch
from pyarrow.parquet import read_schema
from reference.images import enlarge
from reference.pixels import binned, pixel_metrics

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import batch, scoring

RNG = np.random.default_rng(0)
MAPS = RNG.lognormal(size=(5, 6, 8)).astype(np.float32)
MASKS = np.zeros((5, 6, 8), bool)
MASKS[3, 2:4, 1:5] = MASKS[3, 0, 7] = MASKS[4, 5, :3] = True
TABLE = pd.DataFrame(
    {
        "path": [f"test/{i}.tiff" for i in range(5)],
        "label": [0, 0, 1, 1, 1],
        "group": list("aabbb"),
        "severity": [np.nan, np.nan, 1, 2, 3],
        "recording": ["r1", "r1", "r2", "r3", "r3"],
        "mask": ["", "", "", "m/3.png", "m/4.png"],  # the third is a fault that nobody marked
        "digest": list("vwxyz"),
    }
)


class Loader(list):
    """Batches of three and two maps, as the data module's loader gives them."""

    def __init__(self, masks=True, maps=MAPS):
        self.dataset = SimpleNamespace(table=TABLE)
        for part in (slice(0, 3), slice(3, 5)):
            image = torch.tensor(maps[part])[:, None]
            self.append(SimpleNamespace(image=image, gt_mask=torch.tensor(MASKS[part]) if masks else None))


class Model(torch.nn.Module):
    """Twice the maps are what it sees; its score is a map's smallest pixel then, its anomaly map every other pixel."""

    def __init__(self, anomaly=True, shape=(-1, 1)):
        super().__init__()
        self.pre_processor = SimpleNamespace(transform=lambda images: 2 * images)
        self.anomaly, self.shape, self.devices = anomaly, shape, []

    def to(self, device):
        self.devices.append(device)
        return self

    def predict_step(self, batch, batch_idx):
        assert not self.training and torch.is_inference_mode_enabled()
        assert batch_idx == 0
        scores = batch.image[:, 0].amin((1, 2)).double().reshape(self.shape)
        found = batch.image[:, :1, ::2, ::2]
        return SimpleNamespace(pred_score=scores, anomaly_map=found if self.anomaly else None)


def score(model=None, loader=None, split="test"):
    return scoring.score(model or Model(), loader or Loader(), "domain_B", split, "cpu", progress=False)


def test_a_row_a_map_holds_the_raw_score_and_the_trivial_scores_of_the_map_in_its_own_unit(monkeypatch):
    clock = iter([10.0, 16.0, 20.0, 21.0])
    monkeypatch.setattr(scoring.time, "perf_counter", lambda: next(clock))
    model = Model().train()
    found = score(model)
    assert found.domain == "domain_B" and model.devices == ["cpu"]
    table = found.table
    trivial = ["image_max", "image_mean", "image_row"]
    assert list(table) == ["path", "label", "group", "severity", "recording", "split", "score", *trivial, "seconds"]
    pd.testing.assert_frame_equal(table[["path", "label", "group", "severity", "recording"]], TABLE[list(table)[:5]])
    assert table["split"].tolist() == ["test"] * 5 and table["score"].dtype == np.float32
    np.testing.assert_array_equal(table["score"], 2 * MAPS.min((1, 2)))
    np.testing.assert_array_equal(table["image_max"], MAPS.max((1, 2)))
    np.testing.assert_allclose(table["image_mean"], MAPS.mean((1, 2)), rtol=1e-6)
    rows = MAPS.astype(float).mean(2)
    np.testing.assert_allclose(table["image_row"], rows.max(1) / np.median(rows, axis=1), rtol=1e-5)
    assert table["seconds"].tolist() == [2, 2, 2, 0.5, 0.5], "a batch's seconds are shared by its maps"


def test_pixel_metrics_leave_out_the_fault_maps_without_a_mask():
    anomalies = np.stack([enlarge(2 * one[::2, ::2], one.shape) for one in MAPS])
    kept = [0, 1, 3, 4]
    expected = pixel_metrics(binned(anomalies[kept]), MASKS[kept])
    assert set(expected) == {"pixel_AUROC", "pixel_AUPRO"}
    assert score().pixel == pytest.approx(expected, abs=1e-9)
    assert pixel_metrics(binned(anomalies), MASKS) != pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("given", [{"split": "val"}, {"loader": Loader(masks=False)}, {"model": Model(anomaly=False)}])
def test_there_are_no_pixel_metrics_of_validation_without_masks_or_without_anomaly_maps(given):
    assert score(**given).pixel == {}


def test_scores_that_are_not_finite_are_named_and_counted():
    maps = MAPS.copy()
    maps[1, 0, 0], maps[2:5, 0, 0] = np.nan, -np.inf
    with pytest.raises(BadInput) as told:
        score(loader=Loader(maps=maps))
    line = str(told.value)
    assert "4 of 5 scores of domain_B" in line and "(test/1.tiff, test/2.tiff, test/3.tiff)" in line
    assert "train.learning_rate" in line


@pytest.mark.parametrize("asked", [True, False])
def test_a_bar_is_shown_where_it_is_asked_for(asked, monkeypatch):
    seen = []

    def track(sequence, description, **settings):
        seen.append((description, settings["disable"], settings["transient"]))
        return sequence

    monkeypatch.setattr(rich.progress, "track", track)
    scoring.score(Model(), Loader(), "domain_B", "val", "cpu", *([] if asked else [False]))
    ((description, disabled, transient),) = seen
    assert "domain_B" in description and "val" in description
    assert disabled == (not asked) and transient
    assert disabled is not None


@pytest.mark.parametrize("scored", [True, False])
def test_maps_are_brought_to_the_device_that_the_model_is_on(scored):
    """`meta` is the one other device that every machine has; what the model answers there is given."""
    model, seen = Model(anomaly=False), []
    model.pre_processor.transform = lambda images: seen.append(images.device.type) or images
    model.predict_step = lambda batch, _: SimpleNamespace(pred_score=torch.zeros(len(batch.image)), anomaly_map=None)
    if scored:
        scoring.score(model, Loader(), "domain_B", "test", "meta", progress=False)
    else:
        list(scoring.anomaly_maps(model, Loader(), "meta"))
    assert seen == ["meta", "meta"] and model.devices == ["meta"]


def test_a_model_that_loses_an_anomaly_map_is_an_error():
    model = Model()
    model.predict_step = lambda batch, _: SimpleNamespace(anomaly_map=batch.image[:2])
    with pytest.raises(ValueError, match="longer|shorter"):
        list(scoring.anomaly_maps(model, Loader(), "cpu"))


@pytest.mark.parametrize("shape", [(2, 1, 3, 4), (2, 3, 4)])
def test_anomaly_maps_are_brought_to_native_size_by_straight_lines(shape):
    maps = np.random.default_rng(1).normal(size=shape).astype(np.float64)
    found = scoring._native(torch.tensor(maps), (6, 9))
    assert found.dtype == torch.float32 and found.shape == (2, 6, 9)
    expected = [enlarge(one, (6, 9)) for one in maps.reshape(2, 3, 4)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("anomaly", [True, False])
def test_maps_anomaly_maps_and_masks_come_one_by_one_in_order(masks, anomaly):
    model = Model(anomaly).train()
    found = list(scoring.anomaly_maps(model, Loader(masks), "cpu"))
    assert len(found) == 5 and model.devices == ["cpu"]
    for i, (image, heat, mask) in enumerate(found):
        np.testing.assert_array_equal(image, MAPS[i])
        np.testing.assert_array_equal(mask, MASKS[i] & masks)
        assert mask.dtype == bool
        if anomaly:
            np.testing.assert_allclose(heat, enlarge(2 * MAPS[i][::2, ::2], (6, 8)), rtol=1e-5)
        else:
            assert heat is None


def test_anomaly_maps_of_the_highest_and_lowest_scores_of_either_label_are_kept():
    every = list(scoring.anomaly_maps(Model(), Loader(), "cpu"))
    found = scoring.score(Model(), Loader(), "domain_B", "test", "cpu", progress=False, shown=1)
    scores = found.table["score"]
    expected = {
        int(rows[edge]) for rows in ([0, 1], [2, 3, 4]) for rows in [sorted(rows, key=scores.get)] for edge in (0, -1)
    }
    assert set(found.shown) == expected and len(expected) == 4
    for row, heat in found.shown.items():
        np.testing.assert_array_equal(heat, every[row][1])
    assert scoring.join(score(split="val"), found).shown.keys() == expected
    assert not score().shown
    assert not scoring.score(Model(anomaly=False), Loader(), "domain_B", "test", "cpu", False, shown=1).shown


def test_validation_and_report_become_one_table_and_come_apart_again(tmp_path):
    tested = score()
    val = score(split="val")
    joined = scoring.join(val, tested)
    assert joined.domain == "domain_B" and joined.pixel == tested.pixel != {}
    assert joined.table.index.tolist() == list(range(10))
    assert joined.table["split"].tolist() == ["val"] * 5 + ["test"] * 5
    for name, part in (("val", val), ("test", tested)):
        pd.testing.assert_frame_equal(joined.part(name).reset_index(drop=True), part.table)
    path = scoring.write(joined, tmp_path / "new")
    assert path == tmp_path / "new/scores/domain_B.parquet"
    assert scoring.write(joined, tmp_path / "new") == path  # a second time over the first
    pd.testing.assert_frame_equal(pd.read_parquet(path), joined.table)
    scoring.write(scoring.Scores("domain_B", joined.table.iloc[[3, 1, 4]]), tmp_path)
    assert read_schema(tmp_path / "scores/domain_B.parquet").names == scoring.COLUMNS, "the index is no column"


def test_the_same_maps_in_another_role_have_no_pixel_metrics_of_their_own():
    tested = score()
    other = tested.as_split("val")
    assert other.domain == "domain_B" and other.pixel == {} and set(other.table["split"]) == {"val"}
    pd.testing.assert_frame_equal(other.table.drop(columns="split"), tested.table.drop(columns="split"))
    assert set(tested.table["split"]) == {"test"}


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 1,000 bytes free and 200 that torch has reserved, of which 100 are in use; a map takes `gpu.of_map`."""
    made = SimpleNamespace(of_map=0, used=100, peak=0)

    def predict(model, batch, device):
        assert device == "cuda" and model.devices == ["cuda"] and torch.is_inference_mode_enabled()
        made.peak = max(made.peak, made.used + made.of_map * len(batch.image))

    monkeypatch.setattr(scoring, "predict", predict)
    numbers = {"memory_allocated": lambda: made.used, "max_memory_allocated": lambda: made.peak}
    numbers |= {"memory_reserved": lambda: 200, "mem_get_info": lambda: (1000, 9999)}
    for name, answer in {**numbers, "reset_peak_memory_stats": lambda: setattr(made, "peak", made.used)}.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    made.peak = 5000  # of the fit before
    return made


@pytest.mark.parametrize(
    ("of_map", "size"),
    [(1, 384), (45, 12), (46, 6), (91, 6), (92, 3), (10**6, 3), (0, 768)],
    ids=["by memory", "just fits", "just not", "once more", "no more", "not even that", "as many as there may be"],
)
def test_a_gpu_scores_as_many_maps_at_once_as_half_of_its_free_memory_holds(gpu, of_map, size):
    """Of 1,100 bytes 550; three maps at first, the first batch's, and twice as many as often as they fit."""
    gpu.of_map = of_map
    loader = Loader()
    loader.batch_size = 3
    assert batch.fitting(Model(), loader, "cuda") == size


def test_a_cpu_keeps_the_batches_that_it_has():
    loader = Loader()
    loader.batch_size = 3
    assert batch.fitting(None, loader, "cpu") == 3
