"""What is said while runs go on: on a terminal and in a log, of runs that are known and of those still to come."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hdmap_mlflow.execution import board
from hdmap_mlflow.execution.board import Board
from hdmap_mlflow.execution.task import Outcome, Started


def started(index, log="out/one.log"):
    return Started(index=index, run_id="r", host="lab", gpu="0", log=Path.cwd() / log)


def ended(index, status="finished", seconds=10.0, reason=""):
    return Outcome(index=index, run_id="r", status=status, seconds=seconds, reason=reason)


def drawn(shown, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(shown.table())
    return console.file.getvalue()


def test_before_the_first_run_the_board_says_how_many_there_will_be():
    assert "0 running, 0 done, 0 failed of 20; time left unknown" in drawn(Board({}, {}, 2, 20))


def test_runs_are_named_as_they_come_and_the_rest_counts_in_the_time_left(monkeypatch):
    monkeypatch.setattr(board.time, "monotonic", lambda: 100.0)
    shown = Board({}, {}, 2, 6)
    for index, end in enumerate((ended(0), ended(1, "pruned"), ended(2, "failed", reason="no such layer"))):
        shown.names[index] = f"trial {index}: depth=[{index}]"
        shown.show(started(index))
        shown.show(end)
    shown.names[3] = "trial 3: layers=[layer1]"
    shown.show(started(3, "out/three.log"))
    shown.remark = "; best so far 0.75, trial 0"
    text = drawn(shown)
    assert "1 running, 2 done, 1 failed of 6; about 0:00:15 left; best so far 0.75, trial 0" in text, "3 x 10 s by two"
    assert "trial 3: layers=[layer1]" in text and "trial 2" not in text, "markup is no part of a name"
    assert "out/three.log" in text and "lab" in text
    narrow = drawn(shown, 60).splitlines()
    assert max(map(len, narrow)) <= 60 and "…" not in "".join(narrow), "nothing is cut off"


def test_a_log_gets_a_line_when_a_run_begins_and_one_when_it_ends(capsys):
    shown = Board({0: "one", 1: "two"}, {}, 1)
    for event in (started(0), ended(0, "failed", reason="no such layer"), started(1)):
        shown.show(event)
    shown.show(ended(1), "two, in words of its own")
    first, second, _, last = capsys.readouterr().out.splitlines()
    assert first == f"started one on lab, GPU 0; log {Path.cwd() / 'out/one.log'}"
    assert (second, last) == ("[1/2] failed one, 10 s: no such layer", "two, in words of its own")


@pytest.mark.parametrize(("seconds", "left"), [({0: 30.0, 1: 50.0}, 80.0), ({0: 30.0}, None)])
def test_before_anything_ended_the_time_left_is_that_of_past_runs(seconds, left):
    assert Board({0: "one", 1: "two"}, seconds, 1).remaining() == left
