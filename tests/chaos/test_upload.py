"""Folders that `hdmap upload` cannot record: refused before anything is recorded, and nothing is changed."""

import json

import pytest
from mlflow import MlflowClient
from servers import new_store

from hdmap_mlflow import tracking
from hdmap_mlflow.tracking.journal import Journal

pytestmark = pytest.mark.slow
NO_RUN = "is no folder of a run"


@pytest.fixture
def folder(tmp_path):
    """What a run left that its store did not take: the last line, which says that it did, is taken away."""
    uri, run = new_store(tmp_path / "mlflow.db"), tmp_path / "run"
    (run / "scores").mkdir(parents=True)
    (run / "scores/a.parquet").write_text("scores")
    with tracking.start(uri, "hdmap", "a run", {"hdmap.kind": "run"}, folder=run) as record:
        record.artifact(run / "scores/a.parquet", "scores")
    journal = run / "record.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    return run


def lines(change):
    """A spoiler that gets the lines of the record as they would be read, and gives them back changed."""

    def spoil(folder):
        file = folder / "record.jsonl"
        read = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in change(read)))

    return spoil


def head(**changes):
    return lines(lambda read: [read[0] | changes, *read[1:]])


def more(entry):
    return lines(lambda read: [*read, entry])


def written(content):
    return lambda folder: (folder / "record.jsonl").write_bytes(content)


SPOILT = {
    "no record": (lambda folder: (folder / "record.jsonl").unlink(), [NO_RUN, "record.jsonl"]),
    "a record that is a folder": (
        lambda folder: [(folder / "record.jsonl").unlink(), (folder / "record.jsonl").mkdir()],
        [NO_RUN, "record.jsonl"],
    ),
    "an empty record": (written(b""), [NO_RUN, "it is empty"]),
    "a blank record": (written(b"\n\n"), [NO_RUN, "record.jsonl"]),
    "no text": (written(b"\xff\xfe\x00\x01"), [NO_RUN, "cannot be read"]),
    "no JSON": (written(b"hello\n"), [NO_RUN, "cannot be read"]),
    "JSON of another kind": (written(b"[1, 2]\n"), [NO_RUN, "cannot be read"]),
    "no head": (lines(lambda read: read[1:]), [NO_RUN, "cannot be read"]),
    "a later version": (head(version=2), [NO_RUN, "cannot be read"]),
    "a number for an id": (head(run_id=7), [NO_RUN, "cannot be read"]),
    "an entry of another kind": (more({"delete": "everything"}), [NO_RUN, "cannot be read"]),
    "a metric that is a word": (more({"metrics": {"a": "b"}}), [NO_RUN, "cannot be read"]),
    "an end that is none": (more({"end": "DONE"}), [NO_RUN, "cannot be read"]),
    "a store that is none": (head(uri="ftp://host"), ["ftp://host", "is not a store"]),
    "a store that does not answer": (head(uri="http://127.0.0.1:9"), ["127.0.0.1:9", "does not answer"]),
    "scores that are gone": (
        lambda folder: (folder / "scores/a.parquet").unlink(),
        ["scores/a.parquet", "put it back"],
    ),
    "a file elsewhere": (more({"file": "../../../etc/passwd"}), ["etc/passwd", "outside"]),
    "an absolute path": (more({"file": "/etc/passwd"}), ["/etc/passwd", "outside"]),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_no_run_left_is_refused(refused, folder, what):
    spoil, says = SPOILT[what]
    spoil(folder)
    refused("upload", folder, says=says, leaves=("run/.recording",))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none"], ["none", NO_RUN]),
        (["mlflow.db"], ["mlflow.db", NO_RUN]),
        (["."], [NO_RUN, "record.jsonl"]),
        ([], ["folders"]),
        (["run", "none"], ["none", NO_RUN]),
        (["run", "--uri", "mlruns"], ["mlruns", "is not a store"]),
        (["run", "--url", "sqlite:///mlflow.db"], ["--url"]),
    ],
)
def test_nothing_is_recorded_where_an_argument_is_wrong(refused, folder, arguments, says):
    refused("upload", *arguments, says=[word for word in says if word != "folders"] or ["FOLDERS"])


def test_a_run_that_is_under_way_is_not_recorded_by_another(refused, folder):
    with Journal(folder):
        refused("upload", folder, says=["run", "under way", "wait"])


def test_the_whole_folder_is_recorded(exit_code, folder, capsys):
    """The folder that the rows above spoil is a good one."""
    assert exit_code("upload", str(folder)) == 0 and "is recorded, finished" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf", "1e999", "2 min"])
def test_a_patience_that_is_none_is_refused_before_anything_is_recorded(refused, folder, monkeypatch, given):
    monkeypatch.setenv("HDMAP_PATIENCE", given)
    refused("upload", folder, says=[f"HDMAP_PATIENCE={given}", "unset it"], leaves=("run/.recording",))


@pytest.mark.parametrize("command", ["train", "grid", "tune"])
def test_no_run_is_begun_with_a_patience_that_is_none(refused, maps, monkeypatch, command):
    monkeypatch.setenv("HDMAP_PATIENCE", "soon")
    few = ("--data-root", maps, "--source-domain", "domain_A", "--storage", "sqlite:///s.db", "--no-ray")
    given = {"train": ("train", *few[:4]), "tune": ("tune", *few), "grid": ("grid", *few[:2], *few[-1:])}[command]
    refused(*given, says=["HDMAP_PATIENCE=soon", "unset it"], seconds=40, leaves=("cache",))


def content(uri, run_id):
    run = tracking.get_run(uri, run_id)
    files = {one.path for one in MlflowClient(uri).list_artifacts(run_id)}
    return run.info.status, run.data.params, run.data.metrics, files


def test_a_run_is_recorded_in_another_store_once_and_in_its_own_as_well(exit_code, folder, tmp_path, capsys):
    other, own = f"sqlite:///{tmp_path / 'other.db'}", f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        assert exit_code("upload", str(folder), "--uri", other) == 0
    assert "was recorded before" in capsys.readouterr().out
    (copy,) = tracking.find_runs(other, "hdmap")
    (run,) = tracking.find_runs(own, "hdmap")
    assert copy.data.tags["hdmap.uploaded_from"] == run.info.run_id != copy.info.run_id
    assert exit_code("upload", str(folder)) == 0
    assert len(tracking.find_runs(own, "hdmap")) == 1
    assert content(other, copy.info.run_id) == content(own, run.info.run_id)
    assert content(own, run.info.run_id)[3] == {"scores"}


def test_what_a_store_refuses_for_good_does_not_keep_it_from_the_rest(exit_code, folder, tmp_path, capfd):
    """A value that another version of MLflow, or a server's law, does not take."""
    more({"metrics": {"what?": 1.0}})(folder)
    more({"metrics": {"source/image_AUROC": 0.75}, "end": "FINISHED"})(folder)
    assert exit_code("upload", str(folder)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("hdmap: ") and "refused a part of the record" in line and "what?" in line
    (run,) = tracking.find_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "hdmap")
    assert run.data.metrics == {"source/image_AUROC": 0.75}
    assert run.info.status == "FAILED" and "what?" in run.data.tags["hdmap.reason"]
