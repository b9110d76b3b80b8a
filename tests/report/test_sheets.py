"""Pictures of records and maps: what they show is what is there."""

import re

import numpy as np
import pytest
from gearbox import COLUMNS, ROWS, record, spec, write_record, write_spec
from PIL import Image

from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.report import sheets
from hdmap_mlflow.signals.build import build_maps


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A built data root and its records, of two states."""
    folder = tmp_path_factory.mktemp("sheets")
    write_record(folder / "raw/good.npz")
    write_record(folder / "raw/fault.npz", fault=3, seed=1)
    law = spec(record(), record("fault.npz", "test/fault"))
    build_maps(write_spec(folder / "raw/SPEC.yaml", law), folder / "raw", folder / "maps")
    return folder


def titles(figure):
    return [axis.get_title("left") for axis in figure.axes if axis.get_title("left")]


def test_the_first_map_of_a_recording_is_shown_with_all_that_it_was_made_of(built):
    path = built / "maps/A/test/fault/0001-0000.tiff"
    (figure,) = sheets._figures(path)
    spectrum, average, difference, whole, even, odd = (axis for axis in figure.axes if axis.get_title("left"))
    assert np.array_equal(whole.images[0].get_array(), read_map(path))
    assert [(axis.get_xlabel(), axis.get_ylabel()) for axis in (whole, even, odd)] == [
        ("ring tooth", "planet tooth")
    ] * 3
    assert even.images[0].get_array().shape == (ROWS, COLUMNS)
    marks = [line.get_xdata()[0] for line in spectrum.lines if line.get_linestyle() == "--"]
    assert marks == list(range(1, 9)), "the mesh harmonics up to the highest that is kept"
    orders, of_average = spectrum.lines[0].get_data()
    of_difference = spectrum.lines[1].get_ydata()
    tallest = np.argmax(of_average)
    assert abs(orders[tallest] - round(orders[tallest])) < 3.5 / COLUMNS, (
        "the mesh line, or the next multiple of planets"
    )
    assert of_difference[tallest] < 0.2 * of_average[tallest]
    assert average.lines[0].get_xdata()[-1] < 2 * COLUMNS and len(difference.lines) == 1


def test_a_later_map_and_one_of_nobody_are_shown_alone(built, tmp_path):
    later = built / "maps/A/test/fault/0001-0001.tiff"
    assert len(titles(next(sheets._figures(later)))) == 1
    copy = tmp_path / "map.tiff"
    copy.write_bytes(later.read_bytes())
    (figure,) = sheets._figures(copy)
    assert figure.get_suptitle() == "map.tiff" and figure.axes[0].get_xlabel() == "column"


def test_records_are_shown_one_of_each_state_or_the_one_that_is_named(built):
    figures = list(sheets._figures(built / "raw"))
    assert [figure.get_suptitle() for figure in figures] == ["good (train/good)", "fault (test/fault)"]
    (figure,) = sheets._figures(built / "raw/fault.npz")
    waves, speed, spectrum = figure.axes
    assert np.median(speed.lines[0].get_ydata()) == pytest.approx(60, rel=0.01), "turns a minute"
    orders, values = spectrum.lines[0].get_data()
    assert abs(orders[np.argmax(values)] - 1) < 0.3
    assert waves.lines[0].get_xdata()[-1] == pytest.approx(2, abs=0.05), "seconds, of two turns"


def test_a_root_is_a_sheet_for_each_role_in_a_picture_or_a_page(built, tmp_path):
    out = sheets.show(built / "maps", tmp_path / "all.html")
    page = out.read_text()
    assert re.findall(r'alt="([^"]*)"', page) == ["A: train/good/0000-0000.tiff", "A: test/fault/0001-0000.tiff"]
    assert "http" not in page, "nothing is fetched"
    picture = Image.open(sheets.show(built / "maps", tmp_path / "all.png"))
    assert picture.size == (1100, 2500)


def test_a_picture_says_simulated_where_the_data_does(built, tmp_path):
    path = built / "maps/A/train/good/0000-0000.tiff"
    marked = built / "maps" / sheets.MARKER
    for says in (False, True):
        if says:
            marked.write_text("{}")
        (figure,) = sheets._figures(path)
        assert ("SIMULATED" in [text.get_text() for text in figure.texts]) == says
    marked.unlink()
