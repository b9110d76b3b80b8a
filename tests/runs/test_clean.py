"""What lies twice goes once a store has it whole; `hdmap clean` removes what may go, and nothing else."""

import os
import re
from pathlib import Path

import pytest
from chaos import tree
from filelock import FileLock
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException

from hdmap_mlflow import process, tracking
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs import clean, upload
from hdmap_mlflow.tracking.journal import Journal

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))


def write(store, name="run", keep=True, kind="run", ending=None, parent=None):
    """A run that leaves scores, a figure and its result in its folder; its folder and its id."""
    folder = Path("results/model") / name
    (folder / "scores").mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "scores/a.parquet").write_text("scores" * 100)
    (folder / "figures/b.png").write_text("a picture")
    (folder / "tensorboard.events").write_text("never sent")
    try:
        with tracking.start(
            store.uri, "hdmap", name, {"hdmap.kind": kind}, parent, folder=folder, keep_local=keep
        ) as record:
            record.params({"tracking.keep_local": str(keep).lower()})
            record.json({"status": "success"}, "result.json")
            record.artifact(folder / "scores/a.parquet", "scores")
            record.folder(folder / "figures", "figures")
            if ending:
                raise ending
    except Exception as error:
        assert error is ending
    return folder, record.run_id


def names(folder):
    return {name for name in tree(folder) if not name.startswith(".")}


EVERYTHING = {"record.jsonl", "result.json", "scores", "scores/a.parquet", "figures", "figures/b.png"}
EVERYTHING |= {"tensorboard.events"}
RECEIPT = {"record.jsonl", "result.json", "tensorboard.events"}  # and what was never sent


@pytest.mark.parametrize(("keep", "left"), [(True, EVERYTHING), (False, RECEIPT)])
def test_what_was_uploaded_whole_is_removed_unless_it_is_to_be_kept(store, keep, left):
    folder, run_id = write(store, keep=keep)
    assert names(folder) == left
    assert tracking.artifacts(store.uri, run_id, "scores").joinpath("a.parquet").read_text() == "scores" * 100


def test_what_the_store_does_not_have_whole_stays(store, monkeypatch):
    """As one does that a full disk cut off."""
    send = tracking.record.Entry.send

    def half(entry, client, run_id, home):
        send(entry, client, run_id, home)
        if entry.to == "scores":
            next(Path("mlartifacts").glob("**/a.parquet")).write_text("sco")

    monkeypatch.setattr(tracking.record.Entry, "send", half)
    folder, _ = write(store, keep=False)
    assert names(folder) == RECEIPT | {"scores", "scores/a.parquet"}


def test_a_folder_without_its_copies_is_recorded_already_and_cannot_be_recorded_elsewhere(store, tmp_path):
    folder, run_id = write(store, keep=False)
    (again,) = upload.upload([folder])
    assert again.before and again.run_id == run_id
    from servers import new_store

    other = new_store(tmp_path / "other.db")
    with pytest.raises(BadInput, match=f"misses scores/a.parquet.*run {run_id} has it; fetch it from there"):
        upload.upload([folder], other)
    assert not tracking.Store(other, "hdmap").runs()


def test_an_upload_removes_the_copies_of_a_run_that_was_not_to_keep_them(store):
    folder, run_id = write(store, keep=False)
    for name in ("scores/a.parquet", "figures/b.png"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("a picture" if name.endswith("png") else "scores" * 100)
    journal = folder / "record.jsonl"  # as if the store had been away
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    (done,) = upload.upload([folder])
    assert not done.before and done.run_id == run_id and names(folder) == RECEIPT


def old(folder):
    """The folder as a version wrote it that knew no `tracking.keep_local`."""
    journal = folder / "record.jsonl"
    journal.write_text(journal.read_text().replace('"tracking.keep_local":"true"', '"data.root":"demo"'))
    return folder


def test_copies_of_runs_of_before_go_and_a_dry_run_removes_nothing(store, exit_code, capsys):
    folder = old(write(store)[0])
    kept, _ = write(store, "kept")
    before = tree(Path())
    assert exit_code("clean", "--dry-run") == 0
    said = capsys.readouterr().out
    assert str(folder) in said and str(kept) not in said and "would remove 0.0 MB" in said
    assert {name for name in tree(Path()) if name not in before} <= {"mlflow.db.lock"}
    assert exit_code("clean") == 0 and "\nremoved 0.0 MB" in capsys.readouterr().out
    assert names(folder) == RECEIPT and names(kept) == EVERYTHING
    assert exit_code("clean") == 0 and capsys.readouterr().out == "removed 0.0 MB\n"


@pytest.mark.parametrize("what", ["the store is gone", "the run was deleted", "it is not recorded", "it is written"])
def test_the_only_copy_is_never_removed(store, what):
    folder, run_id = write(store)
    old(folder)
    if what == "the store is gone":
        Path("mlflow.db").rename("elsewhere.db")
    elif what == "the run was deleted":
        store.client.delete_run(run_id)
    elif what == "it is not recorded":
        journal = folder / "record.jsonl"
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    waste, left = clean.find(Path("results"), store.uri, "hdmap")
    if what == "it is written":
        with Journal(folder), pytest.raises(BadInput, match="under way"):
            waste[0].remove()
    else:
        assert waste == [] and len(left) == (what != "it is not recorded")
    assert names(folder) == EVERYTHING


@pytest.mark.parametrize(("ends", "gone"), [("failed", {"failed"}), ("failed, killed", {"failed", "killed", "lost"})])
def test_runs_that_came_to_nothing_go_with_their_folders_and_artifacts(store, exit_code, capsys, ends, gone):
    runs = {
        "failed": write(store, "failed", ending=ValueError("no reason")),
        "killed": write(store, "killed", ending=tracking.record.Stopped("enough")),
        "good": write(store, "good"),
        "a trial": write(store, "trial", kind="trial", ending=ValueError("pruned")),
    }
    other = {"hdmap.kind": "run", "hdmap.process": "another-host:1:1"}
    runs["of another host"] = (None, store.create("of another host", other, None))
    dead = process.process_name().replace(f":{os.getpid()}:", ":1:").rpartition(":")[0] + ":1"
    runs["lost"] = (None, store.create("lost", {"hdmap.kind": "run", "hdmap.process": dead}, None))
    lost = {name: (folder, run_id) for name, (folder, run_id) in runs.items() if name in gone}
    assert exit_code("clean", "--runs", ends) == 0
    assert set(re.findall(r"\b(failed|killed|good|trial|lost|of another host) \(", capsys.readouterr().out)) == gone
    for name, (folder, run_id) in runs.items():
        run = store.client.get_run(run_id)
        assert (run.info.lifecycle_stage == "deleted") == (name in lost), name
        assert folder is None or folder.exists() == (name not in lost)
        assert folder is None or bool(store.client.list_artifacts(run_id)) == (name not in lost)


@pytest.mark.parametrize("model", ["there", "deleted by hand"])
def test_a_run_that_goes_takes_its_logged_model_along(store, model):
    _, run_id = write(store, ending=ValueError("no reason"))
    home = store.client.get_run(run_id).info.experiment_id
    logged = store.client.create_logged_model(home, "toothwise", run_id)
    store.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    Path("model").mkdir()
    Path("model/a.ckpt").write_bytes(b"w" * 100_000)
    store.client.log_model_artifacts(logged.model_id, "model")
    if model != "there":
        store.client.delete_logged_model(logged.model_id)
    (waste,) = clean.find(Path("results"), store.uri, "hdmap", ("failed",))[0]
    assert (waste.size > 100_000) == (model == "there")
    waste.remove()
    assert store.client.get_run(run_id).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="not found"):
        store.client.get_logged_model(logged.model_id)
    assert bool(list(Path("mlartifacts").rglob("a.ckpt"))) == (model != "there"), "what a person deleted is theirs"


def test_the_failed_run_of_a_grid_that_is_under_way_stays(store):
    parent = store.create("a grid", {"hdmap.kind": "grid", "hdmap.process": process.process_name()}, None)
    write(store, ending=ValueError("no reason"), parent=parent)
    assert clean.find(Path("results"), store.uri, "hdmap", ("failed",))[0] == []
    store.close(parent, "finished")
    assert len(clean.find(Path("results"), store.uri, "hdmap", ("failed",))[0]) == 1


OURS = ["maps/0123456789ab-0123456789ab0123456789ab/maps.npy", "checked/0123456789abcdef0123456789abcdef.json"]
OURS += ["features/0123456789abcdef-8x8-layer1/a.features", "demo-simulated-g2-train8-test8/a.tiff"]
OURS += ["textures/sums.json", "weights/tf_efficientnet_lite0/model.safetensors", "textures.lock"]
THEIRS = ["maps/mine.tiff", "maps/domain_A/a.tiff", "weights/local/resnet18/model.safetensors", "notes.txt"]
THEIRS += ["features/thesis.docx", "checked/list.json", "demo/a.tiff"]


def test_the_cache_is_emptied_of_what_is_made_again_and_of_nothing_else(store, tmp_path, exit_code, capsys):
    for name in OURS + THEIRS:
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a" * 1000)
    assert exit_code("clean", "--cache") == 0
    assert not [name for name in OURS if (tmp_path / "cache" / name).exists()]
    assert not [name for name in THEIRS if not (tmp_path / "cache" / name).exists()]


def test_a_folder_of_textures_that_is_not_ours_stays(store, tmp_path):
    (tmp_path / "cache/textures").mkdir(parents=True)
    (tmp_path / "cache/textures/mine.png").write_text("a")
    assert clean.find(Path("results"), store.uri, "hdmap", cache=True)[0] == []


def test_a_cache_that_a_process_uses_is_not_touched(store, tmp_path):
    with process.using_cache(), pytest.raises(BadInput, match=f"in use by .*{os.getpid()}.*--cache"):
        clean.find(Path("results"), store.uri, "hdmap", cache=True)
    folder = tmp_path / "cache/maps/0123456789ab-0123456789ab0123456789ab"
    folder.mkdir(parents=True)
    with FileLock(f"{folder}.lock"), pytest.raises(BadInput, match=f"in use by the process that makes {folder.name}"):
        clean.find(Path("results"), store.uri, "hdmap", cache=True)
    (tmp_path / "cache/.used-by-1-abc").write_text(process.process_name().rpartition(":")[0] + ":1")  # long gone
    assert len(clean.find(Path("results"), store.uri, "hdmap", cache=True)[0]) == 1
