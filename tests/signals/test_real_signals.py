"""Recorded gears, where `../shared/data/gear_signals` is there; they are nobody's to pass on."""

from pathlib import Path

import numpy as np
import pytest
from gearbox import record, spec

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals import angle, closure, resample
from hdmap_mlflow.signals.angle import Measured
from hdmap_mlflow.signals.gears import Pair
from hdmap_mlflow.signals.record import open_record
from hdmap_mlflow.signals.spec import Channel, MeshLine, Spec

PLACES = [parent / "shared/data/gear_signals" for parent in Path(__file__).parents]
RECORDED = next((place for place in PLACES if place.is_dir()), None)
pytestmark = pytest.mark.skipif(RECORDED is None, reason="no recorded gears beside this checkout")
TEETH, SAMPLES, CHANNELS = 23, 32, 7
GEARS = Pair(kind="pair", pinion=TEETH, wheel=24)  # the wheel's teeth are not known; a turn of the pinion is enough


@pytest.fixture(scope="module")
def spur(tmp_path_factory):
    """The spur stage by the mesh line of its sixth channel: what was counted, and turns of the pinion, all channels."""
    scratch = tmp_path_factory.mktemp("scratch")
    channels = [Channel(variable="signal", column=i) for i in range(CHANNELS)]
    law = Spec.model_validate(spec(record(), gears=GEARS.model_dump()))
    with open_record(RECORDED / "spur23.npz", channels, "fs", scratch) as opened:
        reference = Measured(opened.of(slice(5, 6)), 0, opened.length, opened.rate, lambda share: None)
        meshes = angle.count(reference, MeshLine(kind="mesh_line", between=(750, 783)), GEARS)
        filtered = resample.lowpass(opened.path, meshes.frequencies(TEETH, opened.rate), opened.rate, law)
        begin, count = resample.whole(meshes, filtered.reach, 0, opened.length, TEETH)
        parts = list(resample.turns(opened, meshes, filtered, begin, count, TEETH, SAMPLES))
    turns = np.concatenate(parts)
    return meshes, opened.rate, turns - turns.mean(axis=(0, 1, 2))


def test_the_mesh_line_of_the_spur_stage_is_found_within_a_hundredth_of_a_hertz(spur):
    meshes, rate, _ = spur
    seconds = meshes.time / rate
    line = np.polyfit(seconds, meshes.mesh, 1)
    assert line[0] == pytest.approx(766.585, abs=0.01)
    assert (meshes.mesh - np.polyval(line, seconds)).std() < 0.1, "of a mesh, against a constant speed"


def test_after_resampling_the_mesh_stands_still_in_every_channel(spur):
    turns = spur[2]
    line = np.einsum("tmsc,s->tc", turns, np.exp(-2j * np.pi * np.arange(SAMPLES) / SAMPLES))
    phase = np.unwrap(np.angle(line), axis=0) / (2 * np.pi)
    assert phase.std(axis=0).max() < 0.05
    assert abs(closure.closure(closure.lines(turns, closure.AROUND), TEETH).drift) < 0.01


def test_the_average_of_the_spur_stage_holds_most_of_each_channel(spur):
    turns = spur[2]
    assert len(turns) > 345
    held = turns.mean(axis=0).var(axis=(0, 1)) / turns.var(axis=(0, 1, 2))
    assert 0.56 < held.min() < 0.58 and 0.89 < held.max() < 0.92


def halves(turns, channel):
    return turns[::2, ..., channel].mean(axis=0).ravel(), turns[1::2, ..., channel].mean(axis=0).ravel()


def test_split_halves_tell_which_channel_carries_information(spur):
    alike = [np.corrcoef(*halves(spur[2], channel))[0, 1] for channel in range(CHANNELS)]
    assert min(alike) > 0.91 and max(alike) < 0.985
    rest = [
        np.corrcoef(*(half - _mesh(half) for half in halves(spur[2], channel)))[0, 1] for channel in range(CHANNELS)
    ]
    assert int(np.argmax(rest)) == 6 and rest[6] > 0.7 and min(rest) < 0.1


def _mesh(average):
    """The part of an averaged turn that every mesh repeats."""
    return np.tile(average.reshape(TEETH, SAMPLES).mean(axis=0), TEETH)


@pytest.mark.parametrize(
    ("name", "teeth", "between", "rpm", "within"),
    [("healthy", 22, (420, 457), 1195.5, 2), ("faulty", 21, (600, 650), 1779.6, 3)],
)
def test_the_shafts_of_the_wind_turbine_turn_as_published(name, teeth, between, rpm, within, tmp_path):
    gears = Pair(kind="pair", pinion=teeth, wheel=125)
    with open_record(RECORDED / "wind_turbine.npz", [Channel(variable=name)], f"{name}_fs", tmp_path) as opened:
        reference = Measured(opened, 0, opened.length, opened.rate, lambda share: None)
        meshes = angle.count(reference, MeshLine(kind="mesh_line", between=between), gears)
        line = np.polyfit(meshes.time / opened.rate, meshes.mesh, 1)
    assert line[0] / teeth * 60 == pytest.approx(rpm, abs=within)


def test_the_wind_turbines_pair_has_no_whole_map():
    with pytest.raises(ValueError, match="22 and 121 teeth share the factor 11"):
        Pair(kind="pair", pinion=22, wheel=121)


def test_a_record_of_spectraquest_has_no_reference_and_says_so(tmp_path):
    """Its sampling rate is not documented, its mesh line not known: with a wrong band it is refused, not mapped."""
    channel, path = Channel(variable="a1"), RECORDED.parent / "spectraquest/h30hz0.csv.gz"
    with open_record(path, [channel], 25_600, tmp_path) as opened:
        assert opened.length > 50_000
        reference = Measured(opened, 0, opened.length, opened.rate, lambda share: None)
        with pytest.raises(BadInput, match="h30hz0.csv.gz: a1"):
            angle.count(reference, MeshLine(kind="mesh_line", between=(5000, 5600)), GEARS)
