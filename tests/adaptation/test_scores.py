"""Adapters of scores: what may change their decisions, and what may not."""

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from hdmap_mlflow.adaptation import scores
from hdmap_mlflow.errors import BadInput

RNG = np.random.default_rng(0)
SOURCE = RNG.lognormal(0, 0.3, 40)
NORMALS = RNG.lognormal(1, 0.4, 16)
MAPS = RNG.lognormal(1.2, 0.6, 200)


def test_z_is_what_the_reference_page_says():
    log, k = np.log(NORMALS), len(NORMALS)
    sd = np.sqrt((8 * np.var(np.log(SOURCE), ddof=1) + (k - 1) * np.var(log, ddof=1)) / (7 + k))
    np.testing.assert_allclose(scores.z(NORMALS, SOURCE, True)(MAPS), (np.log(MAPS) - np.median(log)) / sd, rtol=1e-12)


def test_z_of_one_map_has_the_spread_of_the_source():
    rule = scores.z(NORMALS[:1], SOURCE, True)
    expected = (np.log(MAPS) - np.log(NORMALS[0])) / np.log(SOURCE).std(ddof=1)
    np.testing.assert_allclose(rule(MAPS), expected, rtol=1e-12)


def test_z_takes_the_score_itself_where_some_are_not_positive():
    sd = np.sqrt((8 * SOURCE.var(ddof=1) + 15 * NORMALS.var(ddof=1)) / 23)
    np.testing.assert_allclose(scores.z(NORMALS, SOURCE, False)(-MAPS), (-MAPS - np.median(NORMALS)) / sd, rtol=1e-12)


@pytest.mark.parametrize("gain", [0.01, 3, 1000])
def test_a_gain_of_the_target_leaves_the_decisions_of_z(gain):
    again = scores.z(gain * NORMALS, SOURCE, True)(gain * MAPS)
    np.testing.assert_allclose(again, scores.z(NORMALS, SOURCE, True)(MAPS), atol=1e-9)


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0), (3, -50), (1000, 7)])
def test_a_gain_and_an_offset_of_the_target_leave_the_decisions_of_robust_z(gain, offset):
    again = scores.robust_z(gain * NORMALS + offset, SOURCE, True)(gain * MAPS + offset)
    np.testing.assert_allclose(again, scores.robust_z(NORMALS, SOURCE, True)(MAPS), atol=1e-9)


def test_robust_z_is_median_and_mad():
    expected = (MAPS - np.median(NORMALS)) / median_abs_deviation(NORMALS, scale="normal")
    np.testing.assert_allclose(scores.robust_z(NORMALS, SOURCE, True)(MAPS), expected, rtol=1e-4)


def test_conformal_counts_the_healthy_maps_at_or_above():
    rule = scores.conformal(np.array([1.0, 2, 2, 3]), SOURCE, True)
    np.testing.assert_allclose(1 - rule(np.array([0.5, 1, 2, 2.5, 3, 4])), [1, 1, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize(
    ("k", "alpha", "rings"), [(98, 0.01, False), (99, 0.01, True), (18, 0.05, False), (19, 0.05, True)]
)
def test_conformal_alarms_at_alpha_only_from_as_many_maps_as_it_needs(k, alpha, rings):
    rule = scores.conformal(np.arange(float(k)), SOURCE, True)
    assert (rule(np.array([1e9])) >= 1 - alpha).all() == rings


@pytest.mark.parametrize("k", [19, 50, 99])
def test_false_alarms_of_conformal_are_at_most_alpha_on_exchangeable_maps(k):
    rng, alarms = np.random.default_rng(k), []
    for _ in range(4000):
        drawn = np.round(rng.standard_cauchy(k + 1), 1)  # with ties and without moments
        alarms.append(scores.conformal(drawn[:k], SOURCE, True)(drawn[k:]) >= 0.95)
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("fit", [scores.z, scores.robust_z])
def test_adapters_of_scores_keep_the_order_of_the_maps(fit):
    assert (np.argsort(fit(NORMALS, SOURCE, True)(MAPS)) == np.argsort(MAPS)).all()


@pytest.mark.parametrize(
    ("fit", "normals", "source"),
    [
        (scores.z, [2.0], [1.0]),
        (scores.z, [2.0, 2], [1.0, 1]),
        (scores.robust_z, [2.0], SOURCE),
        (scores.robust_z, [2.0, 2, 2, 9], SOURCE),
    ],
)
def test_scores_that_do_not_differ_measure_nothing(fit, normals, source):
    with pytest.raises(BadInput, match="do not differ"):
        fit(np.array(normals), np.array(source), True)
