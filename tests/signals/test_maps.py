"""From an averaged signal to a map: what a difference takes away, and which cell a mesh fills."""

import numpy as np
import pytest
from gearbox import COLUMNS, GEARS, PERIOD, ROWS, spec

from hdmap_mlflow.signals import maps
from hdmap_mlflow.signals.difference import difference
from hdmap_mlflow.signals.gears import Pair, Planetary
from hdmap_mlflow.signals.spec import Spec

SAMPLES = 16
RNG = np.random.default_rng(0)
TIME = np.arange(PERIOD * SAMPLES) / SAMPLES  # in meshes


def law(**more) -> Spec:
    return Spec.model_validate(spec(samples=SAMPLES, **more))


def line(orders: float) -> np.ndarray:
    """A tone of so many cycles a period, as an averaged signal."""
    return np.cos(2 * np.pi * orders * TIME / PERIOD + 1).reshape(PERIOD, SAMPLES)


@pytest.mark.parametrize(
    ("kind", "gone", "left"),
    [
        ("turns", [0, PERIOD, 2 * PERIOD, ROWS, PERIOD + ROWS, 2 * PERIOD + 7 * ROWS], [1, COLUMNS, PERIOD + 1]),
        ("narrow", [0, PERIOD, PERIOD + ROWS, 2 * PERIOD - COLUMNS, ROWS, COLUMNS], [1, PERIOD + 2 * ROWS]),
        ("none", [0], [1, PERIOD]),
    ],
)
def test_a_difference_takes_its_lines_and_no_other(kind, gone, left):
    kept = sum(line(orders) for orders in left)
    rest = difference(sum(line(orders) for orders in gone) + kept, law(difference=kind, sidebands=1))
    assert np.abs(rest - kept).max() < 1e-12


def test_less_the_mean_over_turns_is_every_line_of_the_ring_set_to_zero():
    average = RNG.normal(size=(PERIOD, SAMPLES))
    lines = np.fft.rfft(average.ravel())
    lines[:: PERIOD // COLUMNS] = 0
    assert np.abs(difference(average, law()).ravel() - np.fft.irfft(lines, average.size)).max() < 1e-12


@pytest.mark.parametrize("gears", [Planetary.model_validate(GEARS), Pair(kind="pair", pinion=7, wheel=9)])
@pytest.mark.parametrize("mesh", [0, 5, -3])
def test_every_pair_of_teeth_meets_once_a_period(gears, mesh):
    rows, columns = maps.cells(mesh, (0, 0), gears)
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == gears.period == gears.rows * gears.columns
    assert (rows[0], columns[0]) == (mesh % gears.rows, mesh % gears.columns)


def test_a_mesh_is_the_pixel_of_its_teeth():
    signal = np.zeros((PERIOD, SAMPLES))
    signal[30] = RNG.normal(size=SAMPLES)
    mesh = 4 + 30
    for pixel, value in (("rms", np.sqrt((signal[30] ** 2).mean())), ("peak", np.abs(signal[30]).max())):
        pixels = maps.arranged(signal, 4, (1, 2), law(pixel=pixel))
        assert pixels.shape == (ROWS, COLUMNS)
        assert pixels[(mesh + 1) % ROWS, (mesh + 2) % COLUMNS] == pytest.approx(value)
        assert (pixels > 0).sum() == 1


def test_halves_agree_on_what_repeats_and_not_on_noise():
    same, noise = RNG.normal(size=(PERIOD, SAMPLES)), RNG.normal(size=(2, PERIOD, SAMPLES))
    three = np.stack([2 * same, same])  # the sums of periods 0 and 2, and of period 1
    alike = maps.make(0, three, 3, (0, 0), law())
    assert alike.split_half == pytest.approx(1)
    assert np.abs(alike.halves - alike.pixels).max() < 1e-6
    assert np.abs(alike.average - same).max() < 1e-12
    assert abs(maps.make(0, noise, 2, (0, 0), law()).split_half) < 0.2
    assert maps.make(0, noise, 1, (0, 0), law()).split_half is None
