"""Distances between domains grow with the difference and vanish without one."""

import numpy as np
import pytest
from maps import healthy

from hdmap_mlflow.evaluation.shift import distances, mmd


def test_the_discrepancy_is_about_zero_for_one_distribution_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    one, same = rng.normal(size=(60, 5)), rng.normal(size=(60, 5))
    assert abs(mmd(one, same)) < 0.02
    assert 0.02 < mmd(one, same + 0.7) < mmd(one, same + 2)


@pytest.mark.slow
def test_a_brighter_domain_is_farther_in_intensity_and_in_features():
    rng = np.random.default_rng(1)
    maps = {n: np.stack([healthy(rng, g) for _ in range(12)]) for n, g in (("a", 1), ("b", 1), ("c", 1.5), ("d", 4))}
    found = distances(maps, "a")
    assert found["b"]["intensity"] < 0.05 < found["c"]["intensity"] < found["d"]["intensity"]
    assert found["c"]["intensity"] == pytest.approx(0.5, abs=0.05)
    assert found["b"]["feature_MMD"] < 0.1 < found["d"]["feature_MMD"]
