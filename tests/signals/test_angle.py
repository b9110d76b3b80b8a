"""The meshes that have passed, against angles that are known."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from gearbox import COLUMNS, GEARS, PULSES, RATE, carrier, encoder

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals import angle
from hdmap_mlflow.signals.angle import Measured, Meshes
from hdmap_mlflow.signals.gears import Planetary
from hdmap_mlflow.signals.record import open_record
from hdmap_mlflow.signals.spec import Channel, Phase, Record

PLANETARY = Planetary.model_validate(GEARS)
RAMP, SLOW_RAMP = carrier(30, ramp=0.05), carrier(30, ramp=0.02, ripple=0)  # turns/s^2, from 1 turn/s


@contextmanager
def measured(folder: Path, x: np.ndarray, rate: float = RATE):
    np.save(folder / "x.npy", x)
    with open_record(folder / "x.npy", [Channel()], rate, folder) as opened:
        yield Measured(opened, 0, opened.length, rate, lambda share: None)


def phase_of(**phase) -> Phase:
    kind = {"files": "x", "signals": {"A": 0}, "role": "train/good", "phase": phase}
    return Record.model_validate(kind).phase


def counted(folder: Path, x: np.ndarray, planet: int = 0, rate: float = RATE, **phase) -> Meshes:
    with measured(folder, x, rate) as reference:
        return angle.count(reference, phase_of(**phase), PLANETARY, planet)


def off(meshes: Meshes, theta: np.ndarray, ratio: float = 1.0) -> float:
    """The largest error of the counted meshes over the record, in meshes, less a constant one."""
    counts = np.arange(np.ceil(meshes.mesh[0]), meshes.mesh[-1], 0.25)
    error = np.interp(meshes.when(counts), np.arange(len(theta)), theta) * COLUMNS - counts
    return float(np.abs(error - error.mean()).max())


@pytest.mark.parametrize("block", [2**20, 97])
@pytest.mark.parametrize(
    ("channel", "phase"),
    [
        (encoder(RAMP), PULSES),
        (-encoder(RAMP), PULSES | {"edge": "falling"}),
        (np.sin(2 * np.pi * 90 * RAMP), PULSES | {"ratio": "2/9"}),
        (encoder(RAMP, 20) * 5 + 2, PULSES | {"low": 1.0, "high": 3.0}),
        (RAMP * 360 % 360, {"kind": "angle", "channel": 0, "unit": "degrees"}),
        (RAMP * 2 * np.pi, {"kind": "angle", "channel": 0, "unit": "radians"}),
        (-RAMP % 1, {"kind": "angle", "channel": 0}),
        (np.cos(2 * np.pi * COLUMNS * RAMP), {"kind": "mesh_line", "between": [5, 60]}),
        (np.cos(4 * np.pi * COLUMNS * RAMP), {"kind": "mesh_line", "between": [10, 120], "harmonic": 2}),
    ],
    ids=["rising", "falling", "ratio", "levels", "degrees", "radians", "backwards", "line", "harmonic"],
)
def test_a_ramp_of_speed_is_followed_within_a_thousandth_of_a_mesh(channel, phase, block, tmp_path, monkeypatch):
    monkeypatch.setattr(angle, "BLOCK", block)
    meshes = counted(tmp_path, channel, **phase)
    assert meshes.mesh[-1] - meshes.mesh[0] > 0.85 * COLUMNS * (RAMP[-1] - RAMP[0])
    assert off(meshes, RAMP) < 1e-3


def test_a_pulse_a_turn_follows_a_ramp_of_two_percent_a_turn(tmp_path):
    assert off(counted(tmp_path, encoder(SLOW_RAMP, 1), **PULSES | {"per_turn": 1}), SLOW_RAMP) < 1e-3


def test_even_angles_need_no_channel(tmp_path):
    theta = np.arange(40_000) / 3600
    meshes = counted(tmp_path, theta, kind="even", per_turn=7200, ratio=2)
    assert off(meshes, theta) < 1e-9
    assert meshes.mesh[-1] == pytest.approx(39_999 / 3600 * COLUMNS)


def test_a_planet_behind_the_first_has_its_own_count(tmp_path):
    first, third = (counted(tmp_path, RAMP, planet, kind="angle", channel=0) for planet in (0, 2))
    assert first.mesh - third.mesh == pytest.approx(2 * COLUMNS / 3)


@pytest.mark.parametrize("seed", range(5))
def test_missing_and_extra_pulses_are_repaired_and_counted(seed, tmp_path):
    """Each kind alone somewhere, and where a pulse is too early or too late by any share of a distance."""
    rng = np.random.default_rng(seed)
    x, places = encoder(RAMP), rng.choice(np.arange(60, 900, 20), 8, replace=False) + rng.integers(0, 5, 8)
    for i, place in enumerate(places):
        start, end = np.searchsorted(RAMP * 20, [place - 0.05, place + 0.95])
        if i < 4:
            x[start:end] = -1
        else:
            low = np.searchsorted(RAMP * 20, place + rng.uniform(0.1, 0.3))
            x[low : low + 2] = -1
    meshes = counted(tmp_path, x, **PULSES | {"repair": 0.02})
    assert (meshes.missing, meshes.extra) == (4, 4)
    assert off(meshes, RAMP) < 0.02


def test_rota_order_finds_the_same_pulses_and_the_same_faults(tmp_path):
    """Another package, which shares no code with ours."""
    rota = pytest.importorskip("rota.speed")
    x = encoder(RAMP)
    for pulse in (100, 333):
        x[slice(*np.searchsorted(RAMP * 20, [pulse - 0.05, pulse + 0.95]))] = -1
    extra = np.searchsorted(RAMP * 20, 500.25)
    x[extra : extra + 2] = -1
    ours = counted(tmp_path, x, **PULSES | {"low": -0.2, "high": 0.2})
    _, theirs = rota.tacho_to_rpm(x, RATE, 20, level=0.2, hysteresis=0.8, return_info=True)
    assert (ours.missing, ours.extra) == (theirs["n_missing"], theirs["n_spurious"]) == (2, 1)
    assert ours.time / RATE == pytest.approx(theirs["pulse_times"], abs=1e-9)
    assert ours.mesh / COLUMNS == pytest.approx(theirs["pulse_revs"], abs=1e-9)


def test_spikes_do_not_move_the_levels_of_a_pulse(tmp_path):
    x = encoder(RAMP)
    x[[5000, 9001, 30_000]] = 500, -800, 900
    with measured(tmp_path, x) as reference:
        assert angle._levels(reference) == pytest.approx((-0.2, 0.2))


def test_noise_on_an_angle_is_averaged(tmp_path):
    noisy = RAMP + np.random.default_rng(0).normal(0, 1e-3, len(RAMP))
    assert off(counted(tmp_path, noisy, kind="angle", channel=0), RAMP) < 0.05


def test_the_mesh_line_of_a_gearbox_is_followed_through_noise(tmp_path):
    theta = carrier(60, ripple=0.002)
    x = np.cos(2 * np.pi * COLUMNS * theta) + np.random.default_rng(0).standard_normal(len(theta))
    assert off(counted(tmp_path, x, kind="mesh_line", between=[12, 14]), theta) < 0.05


def test_a_shaft_that_hardly_turns_is_refused(tmp_path):
    with pytest.raises(BadInput, match="turns less than once"):
        counted(tmp_path, np.linspace(0, 0.5, 5000), kind="angle", channel=0)
