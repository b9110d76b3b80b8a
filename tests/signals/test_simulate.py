"""Simulated vibration: what is true of it is found in its maps; errors of an encoder do what they do to a real one."""

import hashlib
import json
from functools import cache

import numpy as np
import pytest
import yaml

from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.signals import simulate
from hdmap_mlflow.signals.build import build_maps

PERIODS = 8


@cache
def recorded(encoder="sound", periods=PERIODS, deviation=0.0):
    """The channels of a recording of damage, and the rows in which it is; healthy teeth are alike, as in the proof."""
    one = simulate.Recording("one", "test/fault", 0.6, np.random.SeedSequence(3))
    turns = periods * simulate.GEARS.planet + 3
    arrays, about = simulate.record(one, turns, (7,), 0.3, simulate.ENCODERS[encoder], deviation)
    return {name: arrays[name] for name in ("sensor_1", "encoder")}, about["rows"]


def made(folder, encoder="sound", periods=PERIODS, deviation=0.0, **law):
    """Maps of one sensor's only recording, (n, 31, 95), and the rows in which its damage is."""
    arrays, rows = recorded(encoder, periods, deviation)
    np.savez(folder / "one.npz", **arrays, rate=float(simulate.RATE))
    spec = yaml.safe_load(simulate._spec(1, (0.6,), False)) | law
    spec["records"] = [spec["records"][2] | {"files": "one.npz", "signals": {"sensor_1": "sensor_1"}}]
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    out = folder / f"maps{len(list(folder.iterdir()))}"
    build_maps(folder / "spec.yaml", folder, out)
    return np.stack([read_map(path) for path in sorted(out.rglob("*.tiff"))]), rows


def stands_out(maps):
    """Robust z of each row's mean, the median over maps."""
    rows = maps.mean(axis=2)
    middle = np.median(rows, axis=1, keepdims=True)
    return np.median((rows - middle) / (1.4826 * np.median(np.abs(rows - middle), axis=1, keepdims=True)), axis=0)


def test_the_same_arguments_give_the_same_bytes_and_more_recordings_leave_the_others(tmp_path):
    law = {"train": 1, "test": 1, "maps": 1, "averages": 1, "severities": (0.5,)}
    simulate.simulate_vibration(tmp_path / "a", **law)
    simulate.simulate_vibration(tmp_path / "b", **law | {"train": 2})
    simulate.simulate_vibration(tmp_path / "c", **law, seed=1)
    a, b, c = (
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.npz")}
        for name in "abc"
    )
    assert len(a) == 3 and len(b) == 4 and a.items() <= b.items()
    assert all(a[name] != c[name] for name in a)
    digest = hashlib.sha256(b"".join(a[name] for name in sorted(a))).hexdigest()
    assert digest[:16] == "9da611fc929d038e"


def test_it_says_simulated_and_where_the_damage_is(tmp_path):
    root = simulate.simulate_vibration(tmp_path / "a", 1, 1, 1, 1, (0.2, 0.4), (3, 20))
    told = json.loads((root / "SIMULATED.json").read_text())
    assert told["simulated"] and told["teeth"] == [3, 20]
    assert (root / "SPEC.yaml").read_text().startswith("# SIMULATED")
    assert {name: len(one["rows"]) for name, one in told["recordings"].items()} == {
        "train/good/000": 0,
        "test/good/000": 0,
        "test/fault/severity_0.2/000": 2,
        "test/fault/severity_0.4/000": 2,
    }


def test_the_carrier_turns_at_its_mean_speed_whatever_ramp_and_ripple():
    time = np.arange(0, 37, 1e-3)
    theta = simulate.carrier(time, ramp=0.05, phase=0.2)
    speed = np.diff(theta) * 1e3
    assert theta[0] == 0 and theta[-1] == pytest.approx(4 * time[-1], rel=1e-4)
    assert speed[-3700:].mean() / speed[:3700].mean() == pytest.approx(1.045, abs=0.003)
    assert np.isclose(np.ptp(speed - np.polyval(np.polyfit(time[:-1], speed, 1), time[:-1])), 0.08, atol=0.01)


@pytest.mark.parametrize(("encoder", "lost"), [("sound", 0), ("missing", 2)])
def test_an_encoder_rises_at_whole_parts_of_a_turn(encoder, lost):
    theta = np.linspace(5 - 0.5 / 60, 25, 200_001)
    level = simulate.pulses(theta, simulate.ENCODERS[encoder], np.random.default_rng(4)).astype(float)
    rises = np.flatnonzero((level[1:] > 0) & (level[:-1] <= 0)) + 1
    parts = 60 * theta[rises]
    assert np.abs(parts - np.rint(parts)).max() < 0.01
    assert np.rint(parts)[0] == 300 and (np.diff(np.rint(parts)) - 1).sum() == pytest.approx(lost, abs=3 * (lost > 0))
    assert (len(rises) < 1200) == (lost > 0)


def test_damage_is_the_brightest_row_and_the_sun_side_its_ghost(tmp_path):
    maps, (row,) = made(tmp_path, averages=4)
    z = stands_out(maps)
    assert z.argmax() == row and z[row] > 10
    ghosts = [(row + 15) % 31, (row + 16) % 31]
    assert max(z[ghosts]) > 2
    assert z[row] > 2 * max(z[ghosts])


def test_deviations_are_rows_that_averages_leave_and_turns_take_those_of_the_ring():
    """Of a healthy rig without noise: each tooth has its own, the same in every recording, and in planets and sun."""
    angle = np.arange(simulate.GEARS.period * 16) / 16
    alike, apart = (simulate._meshing(angle, 0, deviation).reshape(31, 95, 16) for deviation in (0.0, 0.1))
    assert np.ptp(alike, axis=(0, 1)).max() < 1e-9
    added = (apart - alike).reshape(-1, 16)
    assert np.abs(added[:, 0]).max() < 1e-9, "nothing where a tooth begins"
    peaks = added[:, 8].reshape(31, 95)
    number = np.arange(simulate.GEARS.period).reshape(31, 95)
    rows = np.array([(peaks - peaks.mean(axis=0))[number % 31 == tooth] for tooth in range(31)])
    assert rows.std(axis=1).max() < 1e-9 < 0.1 < rows.mean(axis=1).std() < 0.4
    assert (simulate._meshing(angle, 0, 0.1) == apart.ravel()).all()


def test_a_planet_meets_the_tooth_of_the_sun_that_the_angles_say():
    """Planet p is p / 3 turns behind in the frame of the carrier, in which the sun turns by ring / sun."""
    gears, mesh = simulate.GEARS, 0.5 + np.arange(31.0)
    for planet in range(gears.planets):
        carrier = mesh / gears.ring + planet / gears.planets
        tooth = np.floor(gears.ring * carrier + gears.sun * planet / gears.planets + 1e-9).astype(int) % gears.sun
        added = (simulate._meshing(mesh, planet, 1.0) - simulate._meshing(mesh, planet, 0.0)) / 2
        others = [simulate._pattern(31, planet), simulate._pattern(95, 99)[:31]]
        assert added - sum(others) == pytest.approx(0.5 * simulate._pattern(31, 98)[tooth])


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.0, 0.1])
def test_a_rough_healthy_tooth_hides_damage_that_stands_out_of_teeth_all_alike(tmp_path, deviation):
    maps, (row,) = made(tmp_path, deviation=deviation, averages=8)
    others = np.delete(stands_out(maps), [(row + i) % 31 for i in (0, 14, 15, 16, 17)])
    rough = others.max() / stands_out(maps)[row]
    assert (rough > 0.4) == (deviation > 0)


@pytest.mark.slow
def test_averages_make_the_row_stand_out_and_the_difference_does_most_of_it(tmp_path):
    """At least the proof's figures: 6.5, 15 and 34 for 1, 4 and 16 periods, 3.2 without the difference."""
    levels, heights = [], []
    for averages, least in ((1, 6.5), (4, 15), (16, 34)):
        maps, (row,) = made(tmp_path, periods=16, averages=averages)
        levels.append(np.median(maps))
        heights.append(stands_out(maps)[row])
        assert heights[-1] > least
    assert np.array(levels[:2]) / levels[2] == pytest.approx([4, 2], rel=0.06), "noise falls as 1 / sqrt(averages)"
    law = {"periods": 16, "deviation": 0.02, "averages": 16}
    pair = [made(tmp_path, **law, difference=kind) for kind in ("turns", "none")]
    taken, left = (stands_out(maps)[row] for maps, (row,) in pair)
    assert left < taken / 3, "teeth of the ring are heard in every row"


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["offset", "once_a_turn", "missing"])
def test_errors_of_the_encoder_that_repeat_are_harmless(tmp_path, encoder):
    maps, (row,) = made(tmp_path, encoder, averages=8)
    z = stands_out(maps)
    assert abs(z.argmax() - row) % 31 in (0, 1, 30) and z.max() > 10


@pytest.mark.slow
def test_a_drift_of_one_mesh_destroys_the_map(tmp_path):
    maps, (row,) = made(tmp_path, "drift", averages=8, closure=None)
    sound, _ = made(tmp_path, averages=8)
    assert stands_out(maps)[row] < stands_out(sound)[row] / 3
