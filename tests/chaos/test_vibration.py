"""Simulated vibration and pictures of records and maps that cannot be made: refused in one line, nothing is left."""

import numpy as np
import pytest
from gearbox import record, spec, write_record, write_spec

pytestmark = pytest.mark.slow

FLAGS = [
    (["--train", "0"], ["--train", "0"]),
    (["--test", "0"], ["--test", "0"]),
    (["--maps", "1.5"], ["--maps", "1.5"]),
    (["--averages", "0"], ["--averages"]),
    (["--severities", "0.3,x"], ["--severities", "'x'"]),
    (["--severities", "0.3,,1"], ["--severities"]),
    (["--severities", "0"], ["--severities 0", "above 0"]),
    (["--severities", "0.3,0.3"], ["--severities 0.3,0.3", "once"]),
    (["--severities", "1e999"], ["--severities"]),
    (["--teeth", "31"], ["--teeth 31", "0 to 30"]),
    (["--teeth", "-1"], ["--teeth"]),
    (["--teeth", "7,7"], ["--teeth 7,7", "once"]),
    (["--teeth", "7.5"], ["--teeth"]),
    (["--noise", "-1"], ["--noise"]),
    (["--noise", "nan"], ["--noise"]),
    (["--deviation", "-0.1"], ["--deviation"]),
    (["--deviation", "nan"], ["--deviation"]),
    (["--encoder", "drfit"], ["'drfit'", "did you mean 'drift'"]),
    (["--seed", "-1"], ["--seed"]),
    (["--severities", "0.1234567,0.12345671"], ["--severities", "digits"]),
]


@pytest.mark.parametrize(("flags", "says"), FLAGS, ids=" ".join)
def test_vibration_that_cannot_be_simulated(refused, flags, says):
    refused("simulate-vibration", "--out", "new", *flags, says=says)


def test_a_folder_that_is_taken(refused, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("mine")
    refused("simulate-vibration", "--out", "taken", says=["taken", "not an empty folder"])


@pytest.mark.parametrize(
    ("place", "out", "says"),
    [
        ("nowhere", "a.png", ["nowhere", "does not exist"]),
        ("empty", "a.png", ["empty", "no domain below"]),
        ("empty", "a.jpg", ["a.jpg", ".png", ".html"]),
        ("note.txt", "a.png", ["note.txt", "neither maps nor a spec"]),
        ("broken.tiff", "a.png", ["broken.tiff"]),
        ("records/spec.yaml", "note.txt/b.png", ["cannot write", "no folder"]),
        ("records/SPEC.yaml", "a.png", ["SPEC.yaml", "'gear'"]),
        ("records/stranger.npz", "a.png", ["stranger.npz", "no record of"]),
        ("built/A/train/good/0000-0000.tiff", "a.png", ["BUILT.json"]),
    ],
)
def test_pictures_that_cannot_be_drawn(refused, tmp_path, place, out, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "broken.tiff").write_bytes(b"II*\0")
    write_record(tmp_path / "records/good.npz")
    write_spec(tmp_path / "records/spec.yaml", spec())
    if place.endswith("SPEC.yaml"):
        write_spec(tmp_path / "records/SPEC.yaml", {"gear": {}})
    if place.endswith("stranger.npz"):
        write_spec(tmp_path / "records/SPEC.yaml", spec(record()))
        np.savez(tmp_path / "records/stranger.npz", sensor=np.zeros(9))
    if place.startswith("built"):
        folder = tmp_path / "built/A/train/good"
        folder.mkdir(parents=True)
        import tifffile

        tifffile.imwrite(folder / "0000-0000.tiff", np.ones((5, 13), np.float32))
        (tmp_path / "built/BUILT.json").write_text("{}")
    refused("show", tmp_path / place, "--out", out, says=says)
