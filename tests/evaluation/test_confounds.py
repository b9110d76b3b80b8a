"""A score that follows brightness, files or states is told; damage is told by how small it is found."""

import numpy as np
import pytest
from frames import frame

from hdmap_mlflow.evaluation import confounds, damage
from hdmap_mlflow.evaluation.sample import Sample

LABEL = np.repeat([0, 1], 100)


def test_a_score_that_is_the_maps_mean_is_said_to_see_brightness():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=200) + LABEL
    other = rng.normal(size=200)
    card = confounds.confounds(frame(LABEL, mean + 0.1 * rng.normal(size=200), image_mean=mean, image_max=other))
    assert card["follows"]["image_mean"] > 0.9 and abs(card["follows"]["image_max"]) < 0.3
    assert card["within"]["image_mean"] < 0.65 < card["image_AUROC"]
    [line] = confounds.told("domain_A", card)
    assert line.startswith("domain_A: the score follows the map's mean") and "brightness rather than the fault" in line


def test_a_score_that_sees_the_fault_is_not_blamed_for_a_bright_map():
    rng = np.random.default_rng(1)
    mean = rng.normal(size=200)
    card = confounds.confounds(frame(LABEL, 2 * LABEL + mean + rng.normal(size=200), image_mean=mean, image_max=-mean))
    assert card["follows"]["image_mean"] > 0.5 and card["within"]["image_mean"] > card["image_AUROC"]
    assert confounds.told("a", card) == []


def test_a_score_that_drifts_with_the_files_and_one_that_tells_states_apart_are_told():
    rng, group = np.random.default_rng(2), np.tile(np.repeat(["cold", "warm"], 50), 2)
    score = np.arange(200) % 100 + rng.normal(size=200)
    drift = confounds.confounds(frame(LABEL, score, image_max=rng.normal(size=200), image_mean=rng.normal(size=200)))
    assert drift["follows"]["file"] > 0.95
    assert any("drifts with the order of the files" in line for line in confounds.told("a", drift))
    warm = confounds.confounds(frame(LABEL, 5.0 * (group == "warm") + rng.normal(size=200), group=group))
    assert warm["states"] == {"cold, warm": pytest.approx(1, abs=0.01)}
    assert any("tells the healthy maps of cold and warm apart" in line for line in confounds.told("a", warm))


def test_few_maps_one_class_and_constant_columns_leave_out_what_cannot_be_measured():
    card = confounds.confounds(frame([0] * 5, np.arange(5.0)))
    assert card == {}
    flat = confounds.confounds(frame([0] * 12, np.zeros(12)))
    assert flat == {}
    card = confounds.confounds(frame([0] * 12, np.arange(12.0), image_mean=0.0))
    assert set(card["follows"]) == {"image_max", "file"} and "within" not in card


SEVERITY = np.concatenate([np.full(100, np.nan), np.repeat([0.5, 1.0, 2.0, 4.0], 25)])


def graded(threshold=2.5, **columns):
    rng = np.random.default_rng(3)
    table = frame(LABEL, rng.normal(size=200) + np.nan_to_num(SEVERITY), severity=SEVERITY, **columns)
    return damage.bands(table, threshold)


def test_damage_is_measured_by_band_and_the_smallest_that_is_found_is_told():
    found = graded()
    assert list(found) == ["0.5", "1", "2", "4"] and all(band["maps"] == 25 for band in found.values())
    aurocs = [band["image_AUROC"] for band in found.values()]
    assert aurocs == sorted(aurocs) and aurocs[0] < 0.8 < aurocs[-1]
    assert all(band["TPR_interval"][0] <= band["TPR"] <= band["TPR_interval"][1] for band in found.values())
    assert damage.smallest(found) is found["4"] or damage.smallest(found) is found["2"]
    line = damage.told("domain_A", found)
    assert "found in half of the maps or more from severity" in line and " of 25 maps, 95 % interval " in line
    assert "no severity is found in half of its maps" in damage.told("domain_A", graded(threshold=99))
    assert damage.told("domain_A", graded(threshold=None)) == ""


def test_a_gap_among_the_found_severities_starts_above_it():
    found = graded()
    rates = dict(zip(found, (0.9, 0.2, 0.6, 0.9), strict=True))
    holed = {name: band | {"TPR": rates[name]} for name, band in found.items()}
    assert damage.smallest(holed)["low"] == 2


def test_many_severities_make_four_bands_of_equal_size():
    severity = np.concatenate([np.full(100, np.nan), np.linspace(1, 3, 100)])
    found = damage.bands(frame(LABEL, np.arange(200.0), severity=severity), 150.0)
    assert [band["maps"] for band in found.values()] == [25] * 4
    assert next(iter(found)) == "1 to 1.48485" and [band["TPR"] for band in found.values()] == [0, 0, 1, 1]


def test_no_severity_no_bands_and_few_recordings_no_intervals():
    assert damage.bands(frame(LABEL, LABEL), 0.5) == damage.bands(frame(LABEL, LABEL, severity=1.0), 0.5) == {}
    table = frame(LABEL, LABEL, severity=SEVERITY, recording=[f"r{i // 25}" for i in range(200)])
    band = damage.bands(table, 0.5, Sample("recordings"))["1"]
    assert "image_AUROC_interval" not in band and "TPR_interval" not in band and band["TPR"] == 1
