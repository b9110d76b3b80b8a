"""A password in the addresses of a store and of a study: nothing that any command leaves or says holds it."""

import json
import os
from pathlib import Path

import pytest
from servers import mlflow_server, new_store, postgresql

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("forks")]
PASSWORD, SPOKEN = "geh%65im", "geheim"  # as an address has it, and what it stands for
QUICK = {
    "name": "quick",
    "config": {"image_size": [31, 95], "max_epochs": 1},
    "search": {"model.rate": {"type": "float", "low": 0.01, "high": 0.2}},
}
MODEL = ("--condition-file", "quick.json", "--overrides", "{overrides}")
GRID = ("--models", "toys:Trained", "--conditions", "quick", "--sources", "domain_A", "--no-ray", "--jobs", "1")
TUNE = ("tune", "toys:Trained", "--condition", "quick", "--trials", "1", "--refit-seeds", "1", "--no-ray", *MODEL)
COMMANDS = [
    (0, "train", "toys:Trained", "--condition", "quick", *MODEL),
    (0, "grid", *GRID, "--plan", *MODEL),
    (0, "grid", *GRID, "--seeds", "0,1", *MODEL),
    (0, *TUNE),
    (0, *TUNE[:-2], "--status"),
    (0, "report", "--out", "report", "--uri", "{uri}"),
    (0, "rescore", "--uri", "{uri}"),
    (0, "verify", "{run}", "--trust-model", "--uri", "{uri}"),
    (0, "export", "{run}", "--out", "exported", "--uri", "{uri}"),
    (0, "upload", "{folder}", "--uri", "{uri}"),
    (2, "report", "--experiment", "none", "--uri", "{uri}"),
    (2, "export", "none", "--out", "none", "--uri", "{uri}"),
    (2, "train", "toys:Trained", "--condition", "quick", *MODEL[:-1], "{overrides},data.max_train=none"),
    (2, "train", "--overrides", "tracking.uri={uri}:port"),
    (2, "tune", "--storage", "{uri}"),
]


def spilled(folder: Path) -> list[str]:
    """The files below a folder that hold the password, in their content or in their name."""
    secrets = [word.encode() for word in (PASSWORD, SPOKEN)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(word in path.read_bytes() + os.fsencode(path) for word in secrets)]


def test_no_command_leaves_or_says_the_password_of_the_store(exit_code, capfd, maps, tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    Path("quick.json").write_text(json.dumps([QUICK]))
    said = []
    with mlflow_server(new_store(tmp_path / "server.db"), tmp_path / "artifacts") as address:
        uri = address.replace("://", f"://me:{PASSWORD}@")
        named = {"uri": uri, "overrides": f"tracking.uri={uri},tracking.output_dir=out,data.root={maps}"}
        for code, *words in COMMANDS:
            assert exit_code(*(word.format(**named) for word in words)) == code, (words, capfd.readouterr())
            said.append((words, "".join(capfd.readouterr())))
            if words[0] == "train" and not code:
                (file,) = Path("out").glob("*/*/record.jsonl")
                named |= {"folder": file.parent, "run": json.loads(file.open().readline())["run_id"]}
    assert not [(words, text) for words, text in said if PASSWORD in text or SPOKEN in text]
    assert sum("me:***@" in text for _, text in said) > 5, "it was masked, not left out"
    assert len(list(Path("out").glob("*/*/record.jsonl"))) == 3
    assert spilled(tmp_path) == []


def test_a_study_does_not_hold_the_password_of_its_storage(exit_code, capfd, maps, tmp_path, monkeypatch):
    import psycopg

    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path / "mlflow.db"))
    Path("quick.json").write_text(json.dumps([QUICK]))
    with postgresql() as address:
        url = address.replace("postgres@", f"postgres:{PASSWORD}@")
        words = [word.format(overrides=f"tracking.output_dir=out,data.root={maps}") for word in TUNE]
        assert exit_code(*words, "--storage", url) == 0, capfd.readouterr()
        assert exit_code(*TUNE[:-2], "--status", "--storage", url) == 0
        with psycopg.connect(address.replace("+psycopg", "")) as database:
            names = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            rows = [row for (name,) in names for row in database.execute(f'SELECT t::text FROM "{name}" t').fetchall()]
    said = "".join(capfd.readouterr())
    assert "postgres:***@" in said and "domain_A" in str(rows)
    assert not [text for text in (said, str(rows)) if PASSWORD in text or SPOKEN in text]
    assert spilled(tmp_path) == []
