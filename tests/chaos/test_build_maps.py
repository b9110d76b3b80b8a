"""Specs and records that no map can be built from: refused in one line, nothing is left."""

import h5py
import numpy as np
import pytest
import soundfile
from gearbox import GEARS, PULSES, RATE, carrier, encoder, record, spec, vibration, write_record, write_spec

pytestmark = pytest.mark.slow

LINE = {"kind": "mesh_line", "between": [10, 16]}
ANGLE = {"kind": "angle", "channel": "angle", "unit": "degrees"}
PAIR = {"kind": "pair", "pinion": 5, "wheel": 13}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_record(tmp_path_factory.mktemp("records") / "good.npz").read_bytes()


@pytest.fixture
def rig(tmp_path, good, refused):
    """`rig(content, says=[...])`: a spec beside a good record is refused."""

    def build(content, says, **more):
        (tmp_path / "raw").mkdir(exist_ok=True)
        if not (tmp_path / "raw/good.npz").exists():
            (tmp_path / "raw/good.npz").write_bytes(good)
        file = tmp_path / "spec.yaml"
        file.write_text(content) if isinstance(content, str) else write_spec(file, content)
        return refused("build-maps", file, "--source", tmp_path / "raw", "--out", "maps", says=says, **more)

    return build


SPECS = [
    ("", ["spec.yaml", "not a mapping"]),
    ("gears: [", ["spec.yaml", "cannot be read"]),
    ("gears: &a [*a]", ["spec.yaml", "nested"]),
    ({"records": [record()]}, ["gears", "required"]),
    (spec() | {"records": []}, ["records", "at least 1"]),
    (spec(averges=3), ["'averges'", "did you mean 'averages'"]),
    (spec(record(rol="x")), ["records.0", "'", "rol", "did you mean 'role'"]),
    (spec(record(phase=PULSES | {"per_trun": 3})), ["per_trun", "did you mean 'per_turn'"]),
    (spec(record(phase={"kind": "pulse"})), ["phase", "pulse"]),
    (spec(gears={"kind": "bevel"}), ["gears", "bevel"]),
    (spec(gears={"kind": "pair", "pinion": 5}), ["gears.pair.wheel", "required"]),
    # teeth
    (
        spec(gears={"kind": "pair", "pinion": 22, "wheel": 121}),
        ["22 and 121", "factor 11", "242 of 2,662"],
    ),
    (spec(gears=GEARS | {"planet": 26, "sun": 5}), ["26 and 13", "factor 13", "26 of 338"]),
    (spec(gears=GEARS | {"planets": 4}), ["4 evenly spaced planets", "13", "5"]),
    (spec(gears=GEARS | {"planet": 0}), ["gears.planetary.planet", "3", "0"]),
    (spec(gears=GEARS | {"ring": 13.5}), ["gears.planetary.ring", "13.5"]),
    (spec(gears=GEARS | {"ring": True}), ["gears.planetary.ring", "True"]),
    # numbers
    (spec(averages=0), ["averages", "0"]),
    (spec(samples=4), ["samples", "8", "4"]),
    (spec(orders=16), ["16 orders", "32 samples"]),
    (spec(difference="narrow"), ["sidebands 2", "5 teeth"]),
    (spec(planet=3), ["planet 3 of 3"]),
    (spec(planet=1, gears=PAIR), ["planet 1 of 1"]),
    (spec(overlap=1), ["overlap", "1"]),
    (spec(overlap=0.1), ["overlap 0.1 of 2", "none"]),
    (spec(closure=0), ["closure", "0"]),
    (spec(closure=".nan"), ["closure", "nan"]),
    (spec(pixel="mean"), ["pixel", "'rms' or 'peak'", "mean"]),
    (spec(record(phase=PULSES | {"ratio": "1/0"})), ["ratio", "1/0", "31/126"]),
    (spec(record(phase=PULSES | {"ratio": 0})), ["ratio", "0"]),
    (spec(record(phase=PULSES | {"low": 3})), ["low and high go together"]),
    (spec(record(phase=PULSES | {"low": 3, "high": 1})), ["low below high"]),
    (spec(record(phase=PULSES | {"repair": 0.5})), ["repair", "0.5"]),
    (spec(record(phase=LINE | {"between": [16, 10]})), ["16", "10", "lower one first"]),
    (spec(record(phase=LINE | {"between": [10, 4000]})), ["4000 Hz", "2000 Hz", "between"]),
    (spec(record(severity=1)), ["severity 1", "train/good"]),
    (spec(record(role="train/fault")), ["role", "train/fault"]),
    (spec(record(signals={})), ["signals"]),
    (spec(record(signals={"a/b": "sensor"})), ["signals", "a/b"]),
    (spec(record(seconds=[5, 2])), ["seconds 5 to 2"]),
    (spec(record(seconds=[2, 500])), ["good.npz", "24 s", "500"]),
    # files and channels
    (spec(record("goof.npz")), ["records.0.files", "goof.npz", "raw"]),
    (spec(record("*.wav")), ["records.0.files", "*.wav"]),
    (spec(record("/etc/passwd")), ["records.0.files", "/etc/passwd", "below the source"]),
    (spec(record(), record(role="test/good")), ["good.npz", "used twice", "A", "seconds"]),
    (spec(record(["good.npz", "g*.npz"])), ["good.npz", "used twice"]),
    (spec(record(seconds=[0, 9]), record(role="test/good", seconds=[10, 20])), ["'good'", "train and in test"]),
    (spec(record(signals={"A": "sensr"})), ["good.npz", "no 'sensr'", "did you mean 'sensor'", "encoder"]),
    (spec(record(signals={"A": {"variable": "sensor", "column": 1}})), ["sensor[1]", "1 channel"]),
    (spec(record(signals={"A": "rate"})), ["rate", "one number"]),
    (spec(record(phase=PULSES | {"channel": "pulses"})), ["no 'pulses'", "encoder"]),
    (spec(record(rate="fs")), ["no 'fs'", "rate"]),
    (spec(record(rate="sensor")), ["sensor is no sampling rate"]),
    (spec(record(rate=-1)), ["rate", "-1"]),
    (spec(record(rate=None)), ["good.npz", "sampling rate", "`rate`"]),
    (spec(overlap=0.5), ["overlap", "A/train/good", "one recording, good", "overlap: 0"]),
    # what the record holds
    (spec(averages=5), ["good.npz", "4.", "periods of 65 meshes", "5", "lower `averages`"]),
    (spec(orders=80, samples=256), ["good.npz", "aliases", "2000 Hz hold", "80 are to be kept"]),
    (spec(record(phase=PULSES | {"ratio": 1.01})), ["drifts by -", "0.1 are allowed", "`ratio`"]),
    (spec(record(phase=PULSES | {"per_turn": 19})), ["20 turns of 13 teeth", "the reference drifts", "`per_turn`"]),
    (spec(record(phase=PULSES | {"channel": "angle", "low": 500, "high": 600})), ["angle", "0 pulses past 600"]),
    (spec(record(phase=PULSES | {"channel": "sensor"})), ["sensor", "puls"]),
    (spec(record(phase={"kind": "angle", "channel": "sensor"})), ["sensor", "stands still or runs back at"]),
    (spec(record(phase=LINE | {"between": [400, 600]})), ["no line that stands out", "400 and 600 Hz"]),
    (spec(record(phase=LINE | {"between": [12.999, 13.001]})), ["good.npz", "13", "between"]),
]


@pytest.mark.parametrize(("content", "says"), SPECS)
def test_a_spec_that_cannot_be_built(content, says, rig):
    rig(content, says)


def lost(x, *pieces):
    """Pulses without those in these pieces of the record, in seconds."""
    x = x.copy()
    for start, end in pieces:
        x[round(start * RATE) : round(end * RATE)] = -1
    return x


def doubled(x, places):
    x = x.copy()
    for place in places:
        x[place : place + 2] = -1
    return x


THETA = carrier()
HIGHS = np.flatnonzero(np.diff((encoder(THETA) > 0.9).astype(int)) == 1) + 20  # a fifth of a pulse after it rose
DRIFTING = THETA + np.linspace(0, 1 / 13, len(THETA))  # the encoder gains a mesh
STOPPED = np.concatenate([THETA, np.full(2 * RATE, THETA[-1]), THETA[-1] + THETA])
JUMPING = THETA + np.where(np.arange(len(THETA)) < HIGHS[200], 0, 0.45 / 20)
SILENT = "a sensor that hears no gear"
RECORDS = [
    ("drift", THETA, encoder(DRIFTING), ["20 turns", "260 meshes", "drifts by -0.8", "closure"]),
    ("missing", THETA, lost(encoder(THETA), (3, 4)), ["lacks", "repair"]),
    ("extra", THETA, doubled(encoder(THETA), HIGHS[5:300:10]), ["too many", "repair"]),
    ("silent", THETA, SILENT, ["no clear line at 13 meshes a turn", "closure: null"]),
    ("irregular", THETA, encoder(JUMPING), ["irregular pulses", "seconds"]),
    ("constant", THETA, np.full(len(THETA), 5.0), ["is 5 all the time", "another channel"]),
    ("runs up", carrier(24, speed=0.05, ramp=0.2, ripple=0), None, ["varies too much in speed", "seconds", "orders"]),
    ("stands", STOPPED, None, ["good.npz", "encoder"]),
]


@pytest.mark.parametrize(("theta", "pulses", "says"), [row[1:] for row in RECORDS], ids=[row[0] for row in RECORDS])
def test_a_phase_reference_that_does_not_close(theta, pulses, says, rig, tmp_path):
    (tmp_path / "raw").mkdir()
    sensor = np.random.default_rng(0).normal(size=len(theta)) if pulses is SILENT else vibration(theta)
    pulses = encoder(theta) if pulses is None or pulses is SILENT else pulses
    np.savez(tmp_path / "raw/good.npz", sensor=sensor, encoder=pulses, rate=float(RATE))
    rig(spec(), [*says, "good.npz"])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("channel", ["sensor", "encoder"])
def test_a_sample_that_is_no_number(channel, value, rig, tmp_path):
    write_record(path := tmp_path / "raw/good.npz")
    held = dict(np.load(path))
    held[channel][20_003] = value
    np.savez(path, **held)
    rig(spec(), ["good.npz", channel, "sample 20003", "seconds"])


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def ragged(path):
    np.savez(path, sensor=np.zeros(500), encoder=np.zeros(400), rate=1.0)


def objects(path):
    np.save(path, np.array([{}, []], dtype=object))


def text(path):
    with h5py.File(path, "w") as file:
        file["sensor"], file["encoder"], file["rate"] = ["a", "b"], [1.0, 2.0], 100.0


def cut_wav(path):
    soundfile.write(path, np.zeros((5000, 2)), 1000)
    cut(path, 0.001)


def cut_gzip(path):
    np.savetxt(
        path, np.random.default_rng(0).normal(size=(20_000, 2)), delimiter=",", header="sensor,encoder", comments=""
    )
    cut(path)


BY_PLACE = {"signals": {"A": 0}, "phase": PULSES | {"channel": 1}, "rate": 1000}
FILES = [
    ("good.npz", lambda p: (write_record(p), cut(p)), {}, ["good.npz", "cannot be read", "copy"]),
    ("good.npz", lambda p: p.write_bytes(b"junk"), {}, ["good.npz", "cannot be read"]),
    ("good.npz", ragged, {}, ["good.npz", "differ in length", "sensor has 500", "encoder has 400"]),
    ("good.npy", objects, BY_PLACE, ["good.npy", "Python objects"]),
    ("good.npy", lambda p: np.save(p, np.zeros((300, 2), complex)), BY_PLACE, ["good.npy", "complex128", "real"]),
    ("good.npy", lambda p: np.save(p, np.zeros((2, 2, 2))), BY_PLACE, ["good.npy", "2 x 2 x 2"]),
    ("good.npy", lambda p: np.save(p, np.zeros((300, 1))), BY_PLACE, ["good.npy", "[1]", "1 channel"]),
    ("good.npy", lambda p: np.save(p, np.zeros((0, 2))), BY_PLACE, ["good.npy", "0 x 2"]),
    ("good.npy", lambda p: (np.save(p, np.zeros((9000, 2))), cut(p)), BY_PLACE, ["good.npy", "ends before"]),
    ("good.h5", text, {}, ["good.h5", "sensor is object", "real numbers"]),
    ("good.mat", lambda p: p.write_bytes(b"MATLAB 5.0 MAT-file" + b"x" * 200), {}, ["good.mat", "cannot be read"]),
    ("good.csv", lambda p: p.write_text("sensor,encoder\n1,2\n3\n"), {"rate": 9}, ["good.csv", "cannot be read"]),
    ("good.csv", lambda p: p.write_text("sensor,encoder\n1,2\nx,2\n"), {"rate": 9}, ["good.csv", "'x'"]),
    ("good.csv", lambda p: p.write_text("sensor,encoder\n"), {"rate": 9}, ["good.csv", "0 samples"]),
    ("good.csv", lambda p: p.write_text(""), {"rate": 9}, ["good.csv", "no 'sensor'"]),
    ("good.csv", lambda p: p.write_text("a,b\n1,2\n"), {"rate": 9}, ["good.csv", "no 'sensor'", "a, b"]),
    ("good.csv", lambda p: p.write_text("1,2\n" * 99), {"rate": 9}, ["good.csv", "no names", "column"]),
    ("good.csv.gz", cut_gzip, {"rate": 1000}, ["good.csv.gz", "cannot be read"]),
    ("good.parquet", lambda p: p.write_bytes(b"PAR1"), {"rate": 9}, ["good.parquet", "cannot be read"]),
    ("good.wav", cut_wav, BY_PLACE, ["good.wav"]),
    ("good.wav", lambda p: soundfile.write(p, np.zeros(500), 99), BY_PLACE, ["good.wav", "[1]", "1 channel"]),
    ("good.tdms", lambda p: p.write_bytes(b"TDSm" + b"\xff" * 90), {"rate": 9}, ["good.tdms"]),
    ("good.flac", lambda p: p.write_bytes(b"x"), {}, ["good.flac", "suffix", ".mat", ".tdms"]),
]


@pytest.mark.parametrize(("name", "write", "more", "says"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_record(name, write, more, says, rig, tmp_path):
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / name)
    rig(spec(record(name, **more)), says)


def test_places_that_are_not_there_or_taken(refused, tmp_path, good):
    file = write_spec(tmp_path / "spec.yaml", spec())
    (tmp_path / "good.npz").write_bytes(good)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep me")
    refused("build-maps", tmp_path / "none.yaml", "--out", "maps", says=["none.yaml", "cannot be read"])
    refused("build-maps", file, "--source", tmp_path / "none", "--out", "maps", says=["none", "does not exist"])
    refused("build-maps", file, "--out", "full", says=["full", "not an empty folder"])
    refused("build-maps", file, "--out", "good.npz", says=["good.npz", "not an empty folder"])
    refused("build-maps", file, "--out", "good.npz/maps", says=["good.npz"])
