"""Toothwise: the largest line of a map over the median one, in units of what healthy maps reach."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch

from hdmap_mlflow.models.own.toothwise import Toothwise
from hdmap_mlflow.models.parts.rows import deviations, ratios, row_ratio

PARTS = {"pre_processor": False, "post_processor": False, "evaluator": False, "visualizer": False}
MAPS = torch.rand(50, 8, 12, generator=torch.Generator().manual_seed(0)) + 0.5


def images(maps):
    return maps[:, None].expand(-1, 3, -1, -1)


def fitted(**settings):
    model = Toothwise(**settings, **PARTS)
    for part in MAPS.split(7):
        model.training_step(ImageBatch(image=images(part)))
    model.on_train_epoch_end()
    return model.eval()


def scores(model, maps):
    return model.predict_step(ImageBatch(image=images(maps)), 0).pred_score


def test_the_ratio_is_the_largest_row_mean_over_the_median_one_and_blind_to_gain():
    rows = MAPS.numpy().astype(float).mean(2)
    np.testing.assert_allclose(row_ratio(MAPS), rows.max(1) / np.median(rows, axis=1), rtol=1e-5)
    torch.testing.assert_close(row_ratio(7 * MAPS), row_ratio(MAPS))
    torch.testing.assert_close(ratios(MAPS).amax(1), row_ratio(MAPS))


def test_maps_without_a_level_have_no_ratio_and_no_number_is_made_up():
    assert row_ratio(torch.stack([MAPS[0], 0 * MAPS[0], -MAPS[0]])).isnan().tolist() == [False, True, True]


def test_a_deviation_counts_in_units_of_the_scaled_mad():
    rows = MAPS.numpy().astype(float).mean(2)
    apart = rows - np.median(rows, axis=1, keepdims=True)
    expected = apart / (1.4826 * np.median(np.abs(apart), axis=1, keepdims=True))
    np.testing.assert_allclose(deviations(MAPS), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("axis", ["rows", "columns", "either"])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("statistic", ["ratio", "robust_z"])
def test_the_threshold_is_what_nearly_all_healthy_maps_keep_and_a_worn_tooth_exceeds_it(axis, window, statistic):
    model = fitted(axis=axis, window=window, statistic=statistic)
    assert (scores(model, MAPS) <= 1 + 1e-6).float().mean() >= 0.97
    for line, of in ((0, "rows"), (1, "columns")):
        worn = MAPS.clone()
        worn.select(1 + line, 3).mul_(3)
        exceeds = (scores(model, worn) > 1).float().mean()
        assert exceeds > 0.9 if axis in (of, "either") else exceeds < 0.9
    found = model.predict_step(ImageBatch(image=images(MAPS)), 0)
    torch.testing.assert_close(found.anomaly_map.flatten(1).amax(1), found.pred_score)


def test_the_map_marks_the_worn_tooth():
    worn = MAPS.clone()
    worn[:, 3] *= 3
    found = fitted().predict_step(ImageBatch(image=images(worn)), 0)
    assert (found.anomaly_map.reshape(-1, 8, 12)[:, :, 0].argmax(1) == 3).all()


def test_a_fault_over_two_teeth_may_lie_over_the_ends_of_the_map():
    model = fitted(window=2)
    worn, rolled = MAPS.clone(), MAPS.clone().roll(4, dims=1)
    worn[:, [7, 0]] *= 2
    rolled[:, [3, 4]] *= 2
    torch.testing.assert_close(scores(model, worn), scores(model, rolled))


def test_rows_rank_maps_as_the_trivial_score_does():
    assert scores(fitted(), MAPS).argsort().tolist() == row_ratio(MAPS).argsort().tolist()
