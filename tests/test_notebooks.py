"""The notebooks run from top to bottom on the demo data, and keep outputs without paths of a machine."""

from pathlib import Path

import pytest
import starts

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path):
    unseen = {"tracking.heatmaps=0": "tracking.heatmaps=0,tracking.figures=false"}  # pictures that no cell shows
    process = starts.Work(starts.notebook, path, unseen)
    assert process.wait(600) == 0, process.log.read_text()[-3000:]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_outputs_and_names_no_machine(path):
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    assert sum(bool(cell.get("outputs")) for cell in cells) >= 3
    text = path.read_text()
    assert not any(word in text for word in ("/tmp/", "/home/", "/root/", "/work/", "/Users/", "Traceback"))
    assert "imulated" in text and len(text) < 1_000_000


def test_there_are_four():
    names = ["01_first_run", "02_compare_transfer", "03_add_your_model", "04_from_mat_to_alarm"]
    assert [path.stem for path in NOTEBOOKS] == names
