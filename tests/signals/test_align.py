"""Recordings that begin at another planet tooth are brought to one pattern; what has none is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.signals.align import shifts
from hdmap_mlflow.signals.build import build_maps
from hdmap_mlflow.signals.simulate import simulate_vibration

RNG = np.random.default_rng(0)
PATTERN = RNG.lognormal(0, 0.2, (31, 95))


def recording(moved, damaged=False, noise=0.1, seed=0):
    """The gearbox's pattern, of which another row comes first, at a level of its own; its tooth 4 may be damaged."""
    rng = np.random.default_rng([seed, moved])
    maps = PATTERN * rng.lognormal(0, noise, PATTERN.shape) * rng.uniform(0.5, 2)
    maps[4] *= 1 + 2 * damaged
    return np.roll(maps, -moved, axis=0)


def test_every_recording_is_moved_to_where_the_first_healthy_one_lies():
    given = {"d": recording(9, damaged=True), "a": recording(3), "b": recording(0), "c": recording(30)}
    found = shifts(given, {"a", "b", "c"}, "A")
    assert {name: one.rows for name, one in found.items()} == {"a": 0, "b": 28, "c": 27, "d": 6}
    assert found["a"].correlation == 1 and min(one.correlation for one in found.values()) > 0.5


def test_damage_is_no_part_of_the_pattern():
    sound = {"a": recording(3), "b": recording(5)}
    alone = shifts(sound | {"c": recording(7)}, {"a", "b"}, "A")["c"]
    among = shifts({"d": recording(8, damaged=True)} | sound | {"c": recording(7)}, {"a", "b"}, "A")["c"]
    assert alone == among


def test_teeth_without_a_pattern_are_refused_with_the_way_out():
    alike = {name: np.random.default_rng(i).lognormal(0, 0.1, (31, 95)) for i, name in enumerate("ab")}
    with pytest.raises(BadInput, match=r"b of A cannot be aligned: .* raise averages, or set align: none"):
        shifts(alike, {"a", "b"}, "A")


@pytest.mark.slow
def test_built_maps_are_those_of_before_moved_so_that_the_damaged_tooth_has_one_row(tmp_path):
    out = simulate_vibration(tmp_path / "v", train=2, test=2, maps=2, averages=2, severities=(0.6,))
    told = json.loads((out / "SIMULATED.json").read_text())["recordings"]
    build_maps(out / "SPEC.yaml", out, tmp_path / "aligned")
    spec = yaml.safe_load((out / "SPEC.yaml").read_text())
    assert spec.pop("align") == "rows"
    for record in spec["records"][:1]:  # files of one recording begin at different teeth all the same
        record["recording"] = "one"
    (out / "ONE.yaml").write_text(yaml.safe_dump(spec | {"align": "rows"}))
    build_maps(out / "ONE.yaml", out, tmp_path / "one")
    (out / "PLAIN.yaml").write_text(yaml.safe_dump(spec))
    build_maps(out / "PLAIN.yaml", out, tmp_path / "plain")
    for domain in ("sensor_1", "sensor_2", "sensor_3"):
        table = pd.read_csv(tmp_path / "aligned" / domain / "metadata.csv")
        one = pd.read_csv(tmp_path / "one" / domain / "metadata.csv")
        assert one["moved_rows"].tolist() == table["moved_rows"].tolist() and (one["recording"] == "one").sum() == 4
        for row in table.itertuples():
            plain = read_map(tmp_path / "plain" / domain / row.path)
            moved = read_map(tmp_path / "aligned" / domain / row.path)
            np.testing.assert_array_equal(moved, np.roll(plain, row.moved_rows, axis=0))
        damaged = table[table["path"].str.startswith("test/fault")].drop_duplicates("recording")
        places = {(told[one.recording]["rows"][0] + one.moved_rows) % 31 for one in damaged.itertuples()}
        assert len(places) == 1, "one tooth, one row"
        before, after = (np.load(tmp_path / which / ".signals" / domain / "0003.npz") for which in ("plain", "aligned"))
        row = table[table["path"].str.contains("/0003-")].iloc[0]
        np.testing.assert_array_equal(after["halves"], np.roll(before["halves"], row["moved_rows"], axis=1))
        np.testing.assert_array_equal(after["average"], before["average"])
    assert not (tmp_path / "aligned/.raw").exists()
