"""A console that has ASCII only, and names in other letters: every command shows what it can, and none fails for it."""

import json
import sys
from types import SimpleNamespace

import pytest
from maps import write_domain
from servers import new_store

from hdmap_mlflow.__main__ import app
from hdmap_mlflow.runs import flow, setup

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("forks")]
RATE = {"type": "float", "low": 0.01, "high": 0.2}
SOURCE, TARGET, CONDITION = "기어_상자", "Prüfstand", "schnell_ß"
QUICK = {"config": {"image_size": [31, 95], "max_epochs": 1}, "search": {"model.rate": RATE}}
DATA = ("--data-root", "{root}", "--condition-file", "{file}", "--overrides", "{overrides}")
RUN = ("--condition", CONDITION, "--source-domain", SOURCE, *DATA)
WORDS = {  # what each command is given, and the exit code; the others show their help
    "train": (0, "toys:Trained", *RUN),
    "grid": (
        0,
        "--models",
        "toys:Trained",
        "--conditions",
        CONDITION,
        "--seeds",
        "1",
        "--no-ray",
        "--jobs",
        "1",
        *DATA,
    ),
    "tune": (0, "toys:Trained", "--trials", "1", "--refit-seeds", "", "--study", "요약 ü", "--no-ray", *RUN),
    "check-data": (0, "{root}"),
    "import-mat": (2, "{file}", "--source", "{root}", "--out", "새 자료"),
    "simulate": (0, "--out", "새 자료", "--train", "1", "--test", "1"),
    "report": (0, "--out", "Übersicht"),
    "rescore": (0, "--run", "{run}"),
    "verify": (0, "{run}", "--trust-model"),
    "export": (0, "{run}", "--out", "Bilder_ü"),
    "upload": (0, "{folder}"),
    "models": (2, "모델"),
    "ui": (2, "--experiment", "실험"),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A store with a finished run of a source and a target whose names are in other letters."""
    root, folder = tmp_path_factory.mktemp("자료"), tmp_path_factory.mktemp("Lauf ü")
    for name in (SOURCE, TARGET):
        write_domain(root, name)
    file, uri = folder / "bedingung_ü.json", new_store(folder / "mlflow.db")
    file.write_text(json.dumps({CONDITION: {"name": CONDITION, "description": "für alle", **QUICK}}), encoding="utf-8")
    overrides = f"tracking.output_dir={folder / 'out'},tracking.figures=false,tracking.heatmaps=0"
    flags = {"data.root": str(root), "data.source_domain": SOURCE}
    config = setup.configure("toys:Trained", CONDITION, str(file), flags, f"{overrides},tracking.uri={uri}")
    done = flow.execute(config, say=lambda line: None)
    named = {"root": root, "file": file, "overrides": overrides, "run": done.run_id, "folder": done.folder}
    return SimpleNamespace(uri=uri, named=named)


@pytest.mark.parametrize("command", [name for name in app if not name.startswith("-")])
def test_names_that_the_console_cannot_show_end_no_command(exit_code, capfd, lab, monkeypatch, tmp_path, command):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "Zwischenspeicher ü"))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")  # of what is started
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="ascii", errors="strict")
    code, *words = WORDS.get(command, (0, "--help"))
    given = [word.format(**lab.named) for word in words]
    assert exit_code(command, *given) == code, capfd.readouterr()
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err and (said.out + said.err).isascii()
    if any(not word.isascii() for word in given):
        assert "\\u" in said.out + said.err or "\\x" in said.out + said.err, "as Python writes such letters"
