"""A study that drivers share: nothing is lost with a driver, run twice or begun otherwise."""

import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from servers import free_port
from studies import CONFIG, DIMENSIONS, study

from hdmap_mlflow.errors import BadInput, Pruned
from hdmap_mlflow.models.searchspace import Int
from hdmap_mlflow.process import process_name
from hdmap_mlflow.tuning.pruning import pruning
from hdmap_mlflow.tuning.space import Space
from hdmap_mlflow.tuning.storage import StudyStorage, look
from hdmap_mlflow.tuning.study import GONE_SECONDS

pytestmark = pytest.mark.slow


def states(found):
    return [trial.state.name for trial in found.optuna.get_trials(deepcopy=False)]


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_the_baseline_comes_first_and_there_are_so_many_trials_and_no_more(kind):
    one, other = study(kind), study(kind)
    first, second = one.ask(3), other.ask(3)
    assert first.baseline and first.settings == {"model.x": 0.5, "model.n": 3} and first.number == 0
    assert not second.baseline and set(second.settings) == set(DIMENSIONS) and second.number == 1
    one.finish(0, [0.5])
    other.fail(1, "why")
    assert one.ask(3).number == 2 and other.ask(3) is None
    assert one.others() == 0 and other.others() == 1
    one.finish(2, [0.7])
    assert one.best().number == 2 and states(other) == ["COMPLETE", "FAIL", "COMPLETE"]
    assert one.trials(TrialState.FAIL)[0].user_attrs["reason"] == "why"


def test_a_baseline_outside_a_narrowed_space_is_run_all_the_same():
    narrow = Space(DIMENSIONS | {"model.n": Int(low=5, high=9)}, CONFIG)
    found = study(space=narrow)
    assert found.ask(2).settings == {"model.x": 0.5, "model.n": 3}
    found.finish(0, [0.5])
    assert found.trials()[0].params == {} and found.ask(2).settings["model.n"] >= 5


def test_a_study_begun_otherwise_is_refused_with_the_difference():
    study()
    with pytest.raises(BadInput, match="data_digest: d then, e now.*--study"):
        study(terms={"data_digest": "e"})
    study()


HELPERS = str(Path(__file__).parents[1] / "helpers")
GONE = """
import sys; sys.path[:0] = sys.argv[2:]
from studies import study
found = study(sys.argv[1])
for number in range(2):
    asked = found.ask(9)
found.began(1, "run of 1")
print(asked.settings["model.n"], asked.settings["model.x"])
"""


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_trial_whose_driver_died_is_asked_for_again_and_one_that_had_finished_is_kept(kind):
    """The dead driver had the baseline, whose run never began, and trial 1, whose run finished in MLflow."""
    found = subprocess.run(
        [sys.executable, "-c", GONE, kind, HELPERS], text=True, check=True, capture_output=True
    ).stdout.split()
    ours = study(kind, rescue={"run of 1": [0.9]}.get)
    again = ours.ask(3)
    assert again.baseline and again.number == 2, "the lost baseline is the next"
    assert states(ours) == ["FAIL", "COMPLETE", "RUNNING"]
    assert ours.best().values == [0.9] and ours.best().params["model.n"] == int(found[0])
    assert ours.ask(3).number == 3 and ours.ask(3) is None, "the lost trial does not count"


KILLED = """
import os, signal, sys; sys.path[:0] = sys.argv[2:]
from studies import study
turn = study(sys.argv[1])._turn()
turn.__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_driver_killed_inside_its_turn_holds_the_next_up_for_a_while_only(kind, monkeypatch):
    assert subprocess.run([sys.executable, "-c", KILLED, kind, HELPERS], check=False).returncode == -signal.SIGKILL
    monkeypatch.setattr("hdmap_mlflow.tuning.study.TURN_SECONDS", 3)
    began = time.monotonic()
    assert study(kind).ask(1).baseline
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_drivers_take_turns_and_every_turn_is_renewed(kind):
    one, other, order = study(kind), study(kind), []
    waiting = threading.Thread(target=lambda: order.append(other.claim("refit") and "other"))
    renewed = Path("s.log.turn").stat().st_mtime_ns if kind == "journal" else 0
    with one._turn():
        waiting.start()
        time.sleep(0.3)
        order.append("one")
    waiting.join()
    assert order == ["one", "other"]
    assert kind == "sqlite" or Path("s.log.turn").stat().st_mtime_ns > renewed and not Path("s.log.turn.lock").exists()


def test_a_journal_needs_no_locks_of_the_file_system(monkeypatch):
    asked = []

    def refused(*_):
        asked.append("a lock")
        raise OSError(errno.ENOSYS, "as on many shared disks")

    monkeypatch.setattr("fcntl.flock", refused)
    found = study("journal")
    found.finish(found.ask(1).number, [0.5])
    assert found.best().values == [0.5] and not asked


def test_drawn_settings_of_a_dead_driver_are_drawn_again():
    subprocess.run([sys.executable, "-c", GONE, "sqlite", HELPERS], check=True, capture_output=True)
    ours = study()
    lost = [trial.user_attrs["settings"] for trial in ours.optuna.get_trials(deepcopy=False)]
    assert [ours.ask(9).settings for _ in range(2)] == lost


def test_a_driver_on_another_host_is_gone_after_a_long_silence_only():
    found = study()
    asked = found.ask(2)
    found._mine.clear()
    for beat, freed in ((time.time() - GONE_SECONDS / 2, False), (time.time() - 2 * GONE_SECONDS, True)):
        found._storage.set_trial_user_attr(asked.trial_id, "driver", "elsewhere:1:1")
        found.optuna.set_user_attr("beat elsewhere:1:1", beat)
        assert found.others() == (0 if freed else 1)
    assert found.ask(2).settings == asked.settings


def test_what_was_given_up_by_its_driver_is_not_overwritten_by_it():
    slow, quick = study(), study()
    asked = slow.ask(2)
    quick._lose(quick._frozen(asked.number))  # as after a silence
    slow.finish(asked.number, [0.9])
    assert states(quick) == ["FAIL", "WAITING"] and quick.ask(2).baseline


def test_settings_that_completed_are_not_run_again():
    few = Space({"model.n": Int(low=3, high=4)}, CONFIG)
    found = study(space=few, sampler="random")
    run = []
    while asked := found.ask(8):
        run.append(asked.settings["model.n"])
        found.finish(asked.number, [asked.settings["model.n"] / 10])
    assert sorted(run) == [3, 4]
    assert len(found.trials(TrialState.COMPLETE)) == 8
    assert all(t.values == [t.params["model.n"] / 10] for t in found.trials())


def test_a_study_that_goes_on_does_not_draw_its_first_trials_again():
    drawn = []
    for _ in range(3):  # a driver of its own each time, with one seed
        found = study(sampler="random", seed=1)
        asked = found.ask(9)
        drawn.append(asked.settings["model.x"])
        found.finish(asked.number, [0.1])
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("drawn", [True, False])
def test_a_study_whose_driver_died_draws_what_it_would_have_drawn(drawn):
    calm, other = (study(kind, sampler="random") for kind in ("sqlite", "journal"))
    expected = [calm.ask(4).settings for _ in range(4)]
    asked = [other.ask(4) for _ in range(2)]
    for one in asked if drawn else ():
        other._lose(other._frozen(one.number))
        del other._mine[one.number]
    if not drawn:  # it died before it had drawn the second
        lost = other.optuna.ask()
        other._lose(other._frozen(lost.number))
    rest = [other.ask(4).settings for _ in range(4 if drawn else 2)]
    assert (rest if drawn else [one.settings for one in asked] + rest) == expected


def test_only_one_driver_does_what_only_one_may():
    one = study()
    assert one.claim("refit") and one.claim("refit")
    other = study()
    other.driver = "elsewhere:1:1"
    other.optuna.set_user_attr("beat elsewhere:1:1", time.time())
    assert not other.claim("refit")
    one.optuna.set_user_attr("refit", process_name().rpartition(":")[0] + ":1")  # a process that is gone
    assert other.claim("refit")


def test_pruning_reports_every_epoch_and_stops_what_is_worse_than_the_others():
    found = study()
    for _ in range(4):
        asked = found.ask(9)
        on_epoch = pruning("sqlite:///s.db", "s", asked.trial_id, "median", 3)
        for epoch in range(3):
            on_epoch({"val_image_AUROC": 0.8}, epoch)
        found.finish(asked.number, [0.8])
    on_epoch = pruning("sqlite:///s.db", "s", found.ask(9).trial_id, "median", 3)
    on_epoch({"val_image_AUROC": 0.3}, 0)  # the first epochs are a warm-up
    with pytest.raises(Pruned, match="pruned at epoch 1 by median: validation AUROC 0.3000"):
        on_epoch({"val_image_AUROC": 0.3}, 1)
    assert found.trials()[-1].intermediate_values == {0: 0.3, 1: 0.3}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("optuna.db", "give sqlite:///FILE"),
        ("sqlite://", "give sqlite:///FILE"),
        ("redis://host", "give sqlite:///FILE"),
        ("sqlite:////proc/nowhere/s.db", "/proc/nowhere/s.db cannot be opened (No such file or directory)"),
        ("journal:///proc/nowhere/s.log", "/proc/nowhere/s.log cannot be opened (No such file or directory)"),
        ("postgresql+psycopg://me:secret@127.0.0.1:{port}/db", "does not answer"),
        ("mysql://me:secret@127.0.0.1:{port}/db", "does not answer"),
    ],
)
def test_a_storage_that_does_not_answer_is_one_line_without_its_password(url, message):
    began = time.monotonic()
    with pytest.raises(BadInput) as problem:
        StudyStorage.of(url.format(port=free_port())).open()
    assert message in str(problem.value) and "secret" not in str(problem.value) and "\n" not in str(problem.value)
    assert time.monotonic() - began < 15


def test_a_study_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(BadInput, match="no study storage"):
        look(StudyStorage.of("sqlite:///none.db"), "s")
    study()
    with pytest.raises(BadInput, match=r"no study 'ss' .*did you mean 's'"):
        look(StudyStorage.of("sqlite:///s.db"), "ss")


def test_an_unknown_sampler_is_refused():
    with pytest.raises(BadInput, match="did you mean 'tpe'"):
        study(sampler="tep")


@pytest.mark.parametrize("name", ["que?st", "a%20b", "a#b", "it's", 'a "b" c', "100%", "a%3Fb", "ü?=&"])
def test_stores_and_storages_land_where_their_paths_say(tmp_path, name):
    """SQLAlchemy 2.1 decodes addresses; each library opens the very file that was named, and none beside it."""
    from hdmap_mlflow import sqlite
    from hdmap_mlflow.tracking import Store

    folder = tmp_path / name
    folder.mkdir()
    for address in (sqlite.url(folder / "o.db"), f"journal://{folder}/o.log"):
        place = StudyStorage.of(address)
        optuna.create_study(storage=place.open(), study_name="s")
        assert place.file and place.file.is_file() and place.file.parent == folder
        assert StudyStorage.of(place.url) == place, "an address of ours means the same once more"
        assert look(place, "s").study_name == "s"
    store = Store(sqlite.url(folder / "mlflow.db"), "hdmap")
    run_id = store.create("r", {}, None)
    store.client.log_text(run_id, "text", "a.txt")
    assert sqlite.file_of(store.uri) == folder / "mlflow.db" and (folder / "mlflow.db").is_file()
    assert list((folder / "mlartifacts").rglob("a.txt")) and [path.name for path in tmp_path.iterdir()] == [name]
