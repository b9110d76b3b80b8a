"""`hdmap build-maps`: from records to a data root, whole or not at all, and on where it was killed."""

import json
import os
import signal
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import yaml
from gearbox import (
    COLUMNS,
    GEARS,
    PERIOD,
    PULSES,
    RATE,
    ROWS,
    carrier,
    encoder,
    record,
    spec,
    vibration,
    write_record,
    write_spec,
)

from hdmap_mlflow.data import layout
from hdmap_mlflow.data.built import built
from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.data.metadata import METADATA, read_metadata
from hdmap_mlflow.signals import build as building
from hdmap_mlflow.signals.build import build_maps
from hdmap_mlflow.signals.spec import EXAMPLE

TWO = {"A": "sensor", "B": "quiet"}


def write_rig(folder, **law):
    """Two healthy records, one that tests, one of damage; a spec of them with two domains."""
    for i, name in enumerate(("train/1.npz", "train/2.npz", "test.npz", "fault.npz")):
        write_record(folder / name, carrier(30), fault=3.0 * (name == "fault.npz"), seed=i)
    records = [
        record("train/*.npz", signals=TWO, group="warm"),
        record("test.npz", "test/good", signals=TWO, recording="evening"),
        record("fault.npz", "test/fault", signals=TWO, severity=1.5),
    ]
    return write_spec(folder / "spec.yaml", spec(*records, **law))


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    return write_rig(tmp_path_factory.mktemp("rig"))


@pytest.fixture(scope="module")
def root(rig, tmp_path_factory):
    root = tmp_path_factory.mktemp("built") / "maps"
    (rig.parent / "SIMULATED.json").write_text('{"simulated": true}')
    assert build_maps(rig, rig.parent, root) == {"A": 8, "B": 8}
    return root


def metadata(root, domain="A"):
    return pd.read_csv(root / domain / METADATA)


def test_the_maps_are_a_data_root_without_a_problem(root):
    frame, problems = layout.check(root)
    assert not problems
    assert frame["maps"].tolist() == [4, 2, 2] * 2
    assert set(frame["size"]) == {f"{ROWS}x{COLUMNS}"}
    assert sorted(path.name for path in root.iterdir()) == [".signals", "A", "B", "BUILT.json", "SIMULATED.json"]


def test_metadata_says_of_each_map_what_it_is_of(root):
    table = metadata(root)
    assert table["recording"].tolist() == [
        "train/1",
        "train/1",
        "train/2",
        "train/2",
        "evening",
        "evening",
        "fault",
        "fault",
    ]
    assert table["group"].fillna("").tolist() == ["warm"] * 4 + [""] * 4
    assert table["severity"].fillna(0).tolist() == [0] * 6 + [1.5] * 2
    assert (table["averages"] == 2).all() and (table["closure"].abs() < 0.02).all()
    assert table["speed_hz"].between(0.99, 1.01).all() and table["ripple"].between(0, 0.01).all()
    assert np.diff(table["start_s"][:2]) == pytest.approx(2 * PERIOD / COLUMNS, rel=0.01), "no sample is in two maps"
    known, problems = read_metadata(root / "A" / METADATA, table["path"])
    assert not problems and known[table["path"][7]] == ("", 1.5, "fault")


def test_the_damaged_tooth_is_a_row(root):
    good, fault = (
        np.mean([read_map(path) for path in sorted((root / "A/test" / role).iterdir())], axis=0).mean(axis=1)
        for role in ("good", "fault")
    )
    assert (fault / good).max() > 1.5 * np.median(fault / good)


def test_what_was_built_can_be_drawn_and_traced(root, rig):
    facts = json.loads((root / "BUILT.json").read_bytes())
    assert facts["spec"]["gears"] == GEARS
    assert [one["recording"] for one in facts["recordings"]] == ["train/1", "train/2", "evening", "fault"]
    first = facts["recordings"][0]
    assert first["bytes"] == (rig.parent / "train/1.npz").stat().st_size and len(first["sha256"]) == 64
    assert first["rate"] == RATE and first["pulses"] == pytest.approx(600, abs=3) and first["missing"] == 0
    drawn = np.load(root / ".signals/A/0003.npz")
    assert drawn["average"].shape == drawn["difference"].shape == (PERIOD, 32)
    assert drawn["halves"].shape == (2, ROWS, COLUMNS)


def test_check_data_says_how_maps_were_built(root, exit_code, capfd):
    assert exit_code("check-data", str(root)) == 0
    line = built(root)
    assert line in capfd.readouterr().out
    assert line.startswith("HDMAP-style maps") and "4 recordings" in line and "planetary 5 x 13 teeth" in line


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"spec": 3, "recordings": []}'])
def test_maps_that_were_not_built_say_nothing(content, tmp_path):
    if content is not None:
        (tmp_path / "BUILT.json").write_text(content)
    assert built(tmp_path) == ""


@pytest.mark.parametrize(
    ("phase", "rate"),
    [
        ({"kind": "angle", "channel": "pinion"}, RATE),
        ({"kind": "angle", "channel": "wheel", "ratio": "13/5"}, RATE),
        ({"kind": "mesh_line", "between": [21, 29]}, RATE),
        ({"kind": "even", "per_turn": RATE / 5}, None),
    ],
    ids=["angle", "wheel", "line", "even"],
)
def test_a_damaged_pinion_tooth_is_its_row_whatever_tells_the_phase(phase, rate, tmp_path):
    """5 turns a second, 25 meshes, of which those of tooth 2 are loud; only an angle knows which tooth is the first."""
    turns = np.arange(20 * RATE) / RATE * 5
    mesh = turns * ROWS
    loud = (np.floor(mesh) % ROWS == 2) * np.sin(7 * np.pi * (mesh % 1)) * np.exp(-3 * (mesh % 1))
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(turns))
    channels = {"pinion": turns, "wheel": turns * ROWS / COLUMNS}
    np.savez(tmp_path / "x.npz", sensor=np.cos(2 * np.pi * mesh) + loud + noise, **channels)
    gears = {"kind": "pair", "pinion": ROWS, "wheel": COLUMNS}
    law = write_spec(tmp_path / "s.yaml", spec(record("x.npz", phase=phase, rate=rate), gears=gears))
    build_maps(law, tmp_path, tmp_path / "maps")
    for path in sorted((tmp_path / "maps/A/train/good").iterdir()):
        rows = read_map(path).mean(axis=1)
        assert rows.max() > 3 * np.median(rows)
        assert phase["kind"] == "mesh_line" or rows.argmax() == 2


def test_memory_does_not_grow_with_the_length_of_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr("hdmap_mlflow.signals.angle.BLOCK", 10_000)
    monkeypatch.setattr("hdmap_mlflow.signals.resample.BLOCK", 10_000)
    peaks = []
    for seconds in (40, 200):
        theta = carrier(seconds)
        np.save(tmp_path / "x.npy", np.stack([vibration(theta), encoder(theta)], axis=1))
        one = record("x.npy", signals={"A": 0}, phase=PULSES | {"channel": 1}, rate=RATE)
        law = write_spec(tmp_path / "spec.yaml", spec(one, averages=5))
        tracemalloc.start()
        build_maps(law, tmp_path, tmp_path / f"maps {seconds}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 1e6, "five times the samples, which take 6 MB"


def test_a_build_that_was_killed_goes_on_where_it_was(rig, tmp_path, monkeypatch):
    """The process dies within the third recording; the next does the third and the fourth."""
    done, average, out = [], building.average, tmp_path / "maps"

    def counted(one, *more):
        done.append(one.number)
        if one.number == 2 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return average(one, *more)

    parent = os.getpid()
    monkeypatch.setattr(building, "average", counted)
    if not (child := os.fork()):
        build_maps(rig, rig.parent, out)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not out.exists() and any(tmp_path.iterdir())
    assert build_maps(rig, rig.parent, out) == {"A": 8, "B": 8}
    assert done == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_an_interrupt_keeps_what_is_done_and_another_spec_does_not_take_it(rig, tmp_path, monkeypatch):
    def interrupted(one, *more):
        if one.number == 1:
            raise KeyboardInterrupt
        return average(one, *more)

    average = building.average
    monkeypatch.setattr(building, "average", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_maps(rig, rig.parent, tmp_path / "maps")
    [left] = tmp_path.iterdir()
    assert [path.name for path in (left / ".done").iterdir()] == ["0000.json"]
    monkeypatch.setattr(building, "average", average)
    other = write_spec(tmp_path / "other.yaml", yaml.safe_load(rig.read_text()) | {"pixel": "peak"})
    build_maps(other, rig.parent, tmp_path / "maps")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps", "other.yaml"], (
        "what nobody goes on with is gone"
    )


def test_maps_that_overlap_begin_a_period_apart_and_stay_in_their_recording(rig, tmp_path):
    test = write_record(tmp_path / "test.npz", carrier(30), seed=9)
    fault = write_record(tmp_path / "fault.npz", carrier(30), seed=8)
    folders = [record(f"{path.stem}*.npz", f"test/{role}") for path, role in ((test, "good"), (fault, "fault"))]
    for path in (test, fault):
        path.with_name(f"{path.stem}_2.npz").write_bytes(write_record(tmp_path / "more/x.npz", seed=3).read_bytes())
    for name in ("1.npz", "2.npz"):
        write_record(tmp_path / "train" / name, carrier(30), seed=int(name[0]))
    law = write_spec(tmp_path / "spec.yaml", spec(record("train/*.npz"), *folders, overlap=0.5))
    build_maps(law, tmp_path, tmp_path / "maps")
    table = metadata(tmp_path / "maps")
    one = table[table["recording"] == "train/1"]
    assert len(one) == 4
    assert np.diff(one["start_s"]) == pytest.approx(PERIOD / COLUMNS, rel=0.01)


def test_the_example_has_every_form_of_a_spec():
    text = EXAMPLE.read_text()
    assert not [
        kind for kind in ("planetary", "pair", "pulses", "angle", "mesh_line", "even") if f"kind: {kind}" not in text
    ]
