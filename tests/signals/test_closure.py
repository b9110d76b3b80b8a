"""By how much a reference drifts against the vibration, from lines whose drift is known."""

import numpy as np
import pytest
from gearbox import COLUMNS

from hdmap_mlflow.signals.closure import AROUND, closure, lines

TURNS, SAMPLES = 100, 16
THETA = np.arange(TURNS * COLUMNS * SAMPLES) / COLUMNS / SAMPLES  # as the reference counts it
NOISE = np.random.default_rng(0).standard_normal(len(THETA))


def found(*signals):
    turns = np.stack(signals, axis=-1).reshape(TURNS, COLUMNS, SAMPLES, len(signals))
    return closure(lines(turns, AROUND), COLUMNS)


@pytest.mark.parametrize("drift", [0, 0.05, 1, -1, 12])
@pytest.mark.parametrize("order", [COLUMNS, COLUMNS + 2, COLUMNS - 3, 2 * COLUMNS, 3 * COLUMNS - 1])
def test_a_steady_drift_is_measured_whichever_line_of_the_mesh_is_loud(order, drift):
    tone = np.cos(2 * np.pi * order * THETA * (1 + drift / COLUMNS / TURNS))
    assert found(tone + NOISE).drift == pytest.approx(drift, abs=0.02 + abs(drift) / 100)
    assert found(NOISE, tone + NOISE).drift == pytest.approx(drift, abs=0.02 + abs(drift) / 100)


def test_a_jump_counts_whole():
    jump = np.where(THETA < 60, 0, 0.3)  # meshes
    assert found(np.cos(2 * np.pi * (COLUMNS * THETA + jump)) + NOISE).drift == pytest.approx(0.3, abs=0.08)


def test_an_offset_and_an_error_once_a_turn_are_no_drift():
    off = 0.2 + 0.2 * np.sin(2 * np.pi * THETA)
    assert abs(found(np.cos(2 * np.pi * (COLUMNS * THETA + off)) + NOISE).drift) < 0.02


def test_noise_alone_tells_nothing():
    assert found(NOISE) is None
