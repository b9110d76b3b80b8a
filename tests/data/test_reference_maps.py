"""Splits, pixel metrics and distances between domains are those of the independent reference, from maps."""

import numpy as np
import pandas as pd
import pytest
from lab import SOURCE, write
from reference import pixels as pixels_reference
from reference import shift as shift_reference
from reference import split as split_reference
from reference.network import features

from hdmap_mlflow.config import DataConfig
from hdmap_mlflow.data import layout
from hdmap_mlflow.data.splits import split
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import shift
from hdmap_mlflow.evaluation.pixels import PixelHistogram


# ---------------------------------------------------------------------------------------------- splits
@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    root = write(tmp_path_factory.mktemp("lab"))
    return [layout.read_domain(root, name, pack=False) for name in (SOURCE, "domain_B", "domain_C")]


@pytest.mark.parametrize("strategy", ["source_holdout", "source_test", "synthetic"])
@pytest.mark.parametrize(("seed", "share", "most"), [(0, None, None), (7, 0.7, 20), (8, 0.4, 30), (9, 0.25, 39)])
def test_every_map_falls_on_the_side_of_the_reference(domains, strategy, seed, share, most):
    parts = split(domains, DataConfig(validation=strategy, split_seed=seed, val_fraction=share, max_train=most))
    train, val, reported = split_reference.split(domains[0].folder, strategy, seed, share, most)
    pasted = sorted(val) if strategy == "synthetic" else []
    assert sorted(parts.train["path"]) == sorted(train)
    assert sorted(parts.val["path"]) == sorted([*val, *pasted])
    assert sorted(parts.source_test["path"]) == sorted(reported)
    for name, part in (("train", parts.train), ("val", parts.val), ("reported", parts.source_test)):
        one = part[~part["synthetic"]]
        pd.testing.assert_index_equal(part.index, pd.RangeIndex(len(part)))
        assert list(part) == [*domains[0].table, "file", "synthetic"], name
        assert part["file"].tolist() == [str(domains[0].folder / path) for path in part["path"]]
        # Each map as the domain has it, in the domain's order, which is that of content.
        truth = domains[0].table[domains[0].table["path"].isin(one["path"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(one[list(domains[0].table)].reset_index(drop=True), truth)
    made = parts.val[parts.val["synthetic"]]
    assert sorted(made["path"]) == pasted and set(made["label"]) <= {1}
    assert {name: sorted(table["path"]) for name, table in parts.targets.items()} == {
        one.name: sorted(one.table.query("split == 'test'")["path"]) for one in domains[1:]
    }


def test_as_many_training_maps_as_there_are_is_no_limit(domains):
    all_of_them = split(domains, DataConfig()).train
    pd.testing.assert_frame_equal(split(domains, DataConfig(max_train=len(all_of_them))).train, all_of_them)


NO_FAULT, NO_GOOD = "split == 'train' or label == 0", "split == 'train' or label == 1"


@pytest.mark.parametrize(
    ("keep", "strategy", "share", "facts"),
    [
        (NO_FAULT, "source_test", None, ("validation AUROC", "test/fault")),
        (NO_GOOD, "source_test", None, ("validation AUROC", "test/good")),
        (NO_FAULT, "synthetic", None, ("reported AUROC", "test/fault")),
        (NO_GOOD, "synthetic", None, ("reported AUROC", "test/good")),
        ("label >= 0", "synthetic", 0.001, ("validation AUROC", "train/good")),
        ("label >= 0", "synthetic", 0.999, ("no training map", "data.val_fraction")),
    ],
)
def test_a_source_that_cannot_be_split_is_refused_with_the_folder_that_lacks_maps(
    domains, keep, strategy, share, facts
):
    source = layout.Domain(domains[0].root, SOURCE, domains[0].table.query(keep))
    with pytest.raises(BadInput) as told:
        split([source], DataConfig(validation=strategy, val_fraction=share))
    what, lacks = facts
    assert what in str(told.value) and SOURCE in str(told.value)
    assert (str(source.folder / lacks) if "/" in lacks else lacks) in str(told.value)


# ---------------------------------------------------------------------------------------------- pixels
def masks_of(rng, n):
    """Regions of several sizes, some of which touch at a corner or not at all; the first map has none."""
    masks = np.zeros((n, 12, 16), bool)
    for mask in masks[1:]:
        row, column = rng.integers(0, 8), rng.integers(0, 8)
        mask[row, column : column + 5] = mask[row + 1, column + 5 : column + 7] = mask[row + 3, column] = True
    return masks


@pytest.mark.parametrize("effect", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("digits", [0, 1, 7])
def test_pixel_metrics_are_direct_integration_over_regions(effect, digits):
    """Values of either sign, with few distinct ones (0 digits) or many, in float64 and not contiguous."""
    rng = np.random.default_rng(digits)
    masks = masks_of(rng, 5)
    values = np.round(rng.normal(size=(5, 12, 32)), digits)[:, :, ::2] + effect * masks
    histogram = PixelHistogram()
    histogram.update(values[:2], masks[:2])
    histogram.update(values[2:], masks[2:])
    expected = pixels_reference.pixel_metrics(pixels_reference.binned(values), masks)
    assert histogram.metrics() == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(pixels_reference.pixel_metrics(values, masks), abs=2e-3)


def test_perfect_and_reversed_anomaly_maps_have_the_limits_as_their_metrics():
    masks = masks_of(np.random.default_rng(0), 4)
    for sign, value in ((1, 1.0), (-1, 0.0)):
        histogram = PixelHistogram()
        histogram.update(np.float32(sign) * masks, masks)
        assert histogram.metrics() == pytest.approx({"pixel_AUROC": value, "pixel_AUPRO": value})


def test_zero_is_zero_whatever_its_sign():
    masks = masks_of(np.random.default_rng(0), 4)
    histogram = PixelHistogram()
    histogram.update(np.where(masks, 0.0, -0.0), masks)
    assert histogram.metrics()["pixel_AUROC"] == 0.5


@pytest.mark.parametrize("everything", [True, False])
def test_maps_that_are_all_faulty_or_all_healthy_have_no_pixel_metrics(everything):
    histogram = PixelHistogram()
    histogram.update(np.ones((2, 3, 4)), np.full((2, 3, 4), everything))
    assert histogram.metrics() == {}


def test_a_map_without_its_mask_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        PixelHistogram().update(np.zeros((2, 3, 4)), np.zeros((1, 3, 4), bool))


# ----------------------------------------------------------------------------------------------- shift
@pytest.mark.parametrize(("n", "m", "offset"), [(2, 2, 0.5), (9, 4, 0.0), (5, 12, 1.0)])
def test_the_discrepancy_is_grettons_pair_by_pair(n, m, offset):
    rng = np.random.default_rng(n)
    one, other = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + offset
    assert shift.mmd(one, other) == pytest.approx(shift_reference.mmd(one, other), abs=1e-9)
    assert shift.mmd(other, one) == pytest.approx(shift.mmd(one, other), abs=1e-9)


def test_maps_that_are_mostly_the_same_have_a_discrepancy_all_the_same():
    """The median distance is 0 then: equal maps count 1, others 0. By hand: 1 + 6 / 20 - 2 x 15 / 25."""
    other = np.zeros((5, 2))
    other[3:] = [[1, 0], [0, 1]]
    assert shift.mmd(np.zeros((5, 2)), other) == pytest.approx(0.1)


def test_domains_lie_apart_by_their_pixels_and_their_features():
    rng = np.random.default_rng(0)
    sizes = {
        "b": (3, 1.3),
        "a": (33, 1.0),
        "c": (2, 4.0),
    }  # more maps than the network takes at once; the source between
    maps = {
        name: (gain * rng.lognormal(-1.5, 0.5, (n, 31, 95))).astype(np.float32) for name, (n, gain) in sizes.items()
    }
    described = {name: features(one) for name, one in maps.items()}
    found = shift.distances(maps, "a")
    assert set(found) == {"b", "c"}
    for name, card in found.items():
        assert card["intensity"] == pytest.approx(shift_reference.intensity(maps["a"], maps[name]), rel=1e-5)
        assert card["feature_MMD"] == pytest.approx(shift_reference.mmd(described["a"], described[name]), abs=1e-4)
        assert set(card) == {"intensity", "feature_MMD"}


def test_features_are_of_maps_of_any_size_and_precision_brought_to_one_size_without_aliasing():
    maps = np.random.default_rng(0).lognormal(-1.5, 0.5, (3, 70, 150))
    found = shift.features(maps)
    assert found.shape == (3, 152) and found.dtype == np.float32
    np.testing.assert_allclose(found, features(maps.astype(np.float32)), rtol=1e-3, atol=1e-4)
