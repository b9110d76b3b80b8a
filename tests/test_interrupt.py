"""Ctrl-C and SIGTERM, sent to small programs: what is said, when, and what still comes to its end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from hdmap_mlflow import interrupt
from hdmap_mlflow.errors import BadInput, NotRecorded, Stopped

START = "import signal; signal.signal(signal.SIGINT, signal.{how})\n"
PROGRAM = """
import contextlib, hashlib, os, sys, time
from hdmap_mlflow import interrupt
with interrupt.listening(), interrupt.explained("to run it again: hdmap"):
    {before}
    try:
        print("ready", flush=True)
        {work}
    except KeyboardInterrupt:
        {ending}
        sys.exit(interrupt.CODE)
"""
# What it prints before it is listened to would be lost with the line that says that it is ready.
LISTENED = "sys.stdin.read()"
HEARD = "interrupted; Ctrl-C once more ends at once; to run it again: hdmap\n"
ENDED = "interrupted; to run it again: hdmap\n"
# A signal that comes between two lines and before a sleep begins waits for its end, so that a long one is many.
SLEEPING = "[time.sleep(0.1) for _ in range(600)]"
DEAF = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)"  # half a minute without a line of Python


@pytest.fixture
def program():
    """Starts a program, and waits until it is ready."""
    started = []

    def start(work=SLEEPING, ending="pass", before="pass", how="default_int_handler"):
        text = START.format(how=how) + PROGRAM.format(work=work, ending=ending, before=before)
        pipes = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), "text": True}
        started.append(subprocess.Popen([sys.executable, "-c", text], **pipes))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_it_is_said_at_once_whatever_is_computed_and_ctrl_c_once_more_ends_it(program):
    process = program(DEAF)
    time.sleep(0.5)  # it has begun
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == HEARD
    time.sleep(0.7)
    assert process.poll() is None, "the first is obeyed when what is computed ends"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130 and time.monotonic() - began < 10
    assert process.communicate() == ("", "")


@pytest.mark.parametrize(("how", "line"), [(signal.SIGINT, HEARD), (signal.SIGTERM, ENDED)])
def test_what_is_sent_twice_at_the_same_moment_is_one(program, how, line):
    """`timeout`, `mlflow run` and schedulers do so; a scheduler's second SIGTERM may come later, too."""
    process = program(ending="time.sleep(1); print('closed')")
    process.send_signal(how)
    assert process.stderr.readline() == line
    process.send_signal(how)
    if how == signal.SIGTERM:
        time.sleep(0.6)
        process.send_signal(how)
    assert process.communicate(timeout=20) == ("closed\n", "") and process.returncode == 130


def test_what_a_forked_process_is_sent_is_not_its_parents(program):
    """As a worker of a loader is: it obeys, and its parent goes on."""
    fork = f"pid = os.fork(); pid or (os.write(2, b'%d\\n' % os.getpid()), {SLEEPING})"
    process = program(before=fork, work="print(os.waitpid(pid, 0)[1] != 0)", ending="os._exit(7)")
    os.kill(int(process.stderr.readline()), signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out.splitlines()[-1] == "True" and process.returncode == 0 and "interrupted" not in err


def test_where_ctrl_c_was_ignored_from_the_start_it_stays_so(program):
    process = program("time.sleep(1); print('through')", how="SIG_IGN")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("through\n", "")


def test_the_handlers_from_before_are_back_in_the_end():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interrupt.listening():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert signal.set_wakeup_fd(-1) == -1


HOLDING = f"with interrupt.held(): {LISTENED}; os.kill(os.getpid(), signal.{{name}}); "
HOLDING += "time.sleep(0.2); print('whole', flush=True)"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_what_must_not_be_cut_in_two_ends_before_an_interrupt_is_obeyed(program, name):
    process = program(HOLDING.format(name=name), 'print("obeyed")', before="import signal")
    out, err = process.communicate(timeout=20)
    assert out == "whole\nobeyed\n" and process.returncode == 130
    assert err.startswith("interrupted"), "it is said at once"


DROPS = {
    "a destructor": "type('Any', (), {{'__del__': lambda self: signal.raise_signal(signal.{name})}})()",
    "the garbage collector": (
        "gc.callbacks.append(lambda *_: gc.callbacks.clear() or signal.raise_signal(signal.{name})); gc.collect()"
    ),
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("where", DROPS)
def test_an_interrupt_that_python_drops_is_obeyed_all_the_same(program, where, name):
    """What is raised in a destructor or in a callback of the garbage collector, Python prints and goes on."""
    work = f"{LISTENED}; {DROPS[where].format(name=name)}; {SLEEPING}"
    process = program(work, 'print("obeyed")', before="import gc, signal")
    assert process.communicate(timeout=20) == ("obeyed\n", HEARD if name == "SIGINT" else ENDED)
    assert process.returncode == 130


LOSSES = {
    "C code has lost it": "try: signal.raise_signal(signal.{name})\nexcept KeyboardInterrupt: pass\nraise ValueError",
    "it is cleaned up after": "try: signal.raise_signal(signal.{name})\nfinally: raise OSError('Writer is closed')",
    "a library ends the program": "try: signal.raise_signal(signal.{name})\nexcept KeyboardInterrupt: sys.exit(1)",
}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("how", LOSSES)
def test_what_is_raised_in_an_interrupts_place_is_that_interrupt(program, how, name):
    work = f"with interrupt.recognised(): {LISTENED}; exec({LOSSES[how].format(name=name)!r})"
    process = program(work, 'print("obeyed")', before="import signal")
    assert process.communicate(timeout=20) == ("obeyed\n", HEARD if name == "SIGINT" else ENDED)
    assert process.returncode == 130


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3), Stopped("pruned"), NotRecorded("it lies in x")])
def test_an_error_is_no_interrupt_where_there_was_none(error):
    with pytest.raises(type(error)) as raised, interrupt.obeyed(signal.SIGTERM), interrupt.recognised():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [Stopped("pruned"), NotRecorded("it lies in x")])
def test_what_must_be_said_after_an_interrupt_is_said(error):
    with pytest.raises(type(error)), interrupt.obeyed(signal.SIGTERM), interrupt.recognised():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error


def test_an_interrupt_is_seen_behind_an_error_without_handlers_of_ours():
    """As in a notebook; `from None`, which our own lines are raised with, hides nothing."""
    with pytest.raises(KeyboardInterrupt), interrupt.recognised():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            try:
                raise OSError("a part of a file")
            except OSError:
                raise BadInput("the file is damaged") from None


def test_what_an_interrupt_ends_on_purpose_is_over_and_what_fails_then_has_failed():
    """As a watch, whose log is written when it has ended."""
    with pytest.raises(ValueError, match="no space"), interrupt.obeyed(signal.SIGTERM), interrupt.recognised():
        with interrupt.ends():
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("no space")


def test_what_is_to_end_by_an_interrupt_can_fail_all_the_same():
    with pytest.raises(ValueError, match="no map"), interrupt.obeyed(signal.SIGTERM), interrupt.ends():
        raise ValueError("no map")


def test_what_was_obeyed_is_over_with_the_command():
    with pytest.raises(KeyboardInterrupt), interrupt.obeyed(signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(ValueError, match="a bug"), interrupt.recognised():
        raise ValueError("a bug")


def test_what_is_held_leaves_the_handlers_as_they_were_and_disturbs_no_other_thread():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    done = []
    with interrupt.held():
        threading.Thread(target=lambda: done.append(interrupt.held().__enter__())).start()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before and done == [None]
