"""Ctrl-C and SIGTERM: said at once and then obeyed; Ctrl-C once more ends the process at once."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from hdmap_mlflow.errors import NotRecorded, Stopped, masked

CODE = 130  # of a process that was interrupted
SAME_SECONDS = 0.5  # a terminal, `timeout` and `mlflow run` may each pass on the same Ctrl-C
AGAIN_SECONDS = 0.05  # until a dropped interrupt is raised again: what dropped it is over by then
_ways_on: list[str] = []
_own_ear = False
_heard: _Heard | None = None  # while this process obeys


def command() -> str:
    """This command, as a shell takes it again."""
    return masked(shlex.join(["hdmap", *sys.argv[1:]]))


@contextlib.contextmanager
def explained(way_on: str) -> Iterator[None]:
    """What an interrupt says meanwhile: what is kept, and the command that goes on."""
    _ways_on.append(way_on)
    try:
        yield
    finally:
        _ways_on.pop()


def _way_on() -> str:
    return _ways_on[-1] if _ways_on else "the same command starts again"  # before, and after, it is known


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt in the main thread, as soon as that comes back to Python.

    A thread of its own hears all of them, whatever the main one computes: it says the first, and ends the process at
    the next Ctrl-C. Further SIGTERMs say nothing new. Where Ctrl-C is ignored from the start, as in the background of
    a script, it stays so. Call it in the main thread.
    """
    global _own_ear
    (ear, mouth), silent = socket.socketpair(), logging.root.manager.disable
    mouth.setblocking(False)
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    with obeyed(*numbers) as heard:
        woken = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=heard.listen, args=(ear,), daemon=True)
        thread.start()
        _own_ear = True
        try:
            yield
        finally:
            _own_ear = False
            signal.set_wakeup_fd(woken)
            mouth.shutdown(socket.SHUT_WR)  # closing it is not enough where processes were forked
            thread.join()
            logging.disable(silent)
            mouth.close()
            ear.close()


@contextlib.contextmanager
def obeyed(*numbers: int) -> Iterator[_Heard]:
    """The first of these signals raises KeyboardInterrupt in the main thread, and again where Python drops it."""
    global _heard
    heard, outer = _Heard(), _heard
    before = {number: signal.signal(number, heard.obey) for number in numbers}
    reported, sys.unraisablehook = sys.unraisablehook, lambda what: heard.raise_again(what) or reported(what)
    _heard = heard
    try:
        yield heard
    finally:
        _heard = outer
        sys.unraisablehook = reported
        for number, handler in before.items():
            last = heard.first and number == signal.SIGINT  # Python's own end may wait for threads: the next ends it
            signal.signal(number, signal.SIG_DFL if last else handler)


@contextlib.contextmanager
def recognised() -> Iterator[None]:
    """What is raised in an interrupt's place is raised as that interrupt: a run that was told to end did not fail.

    Lightning makes SystemExit of it, TensorBoard's writer an OSError where it is closed once more, and matplotlib's C
    code a ValueError. What says where a record lies stays.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped, NotRecorded):
        raise
    except BaseException as error:
        if (_heard and _heard.obeyed) or _follows_interrupt(error):
            raise KeyboardInterrupt from error
        raise


@contextlib.contextmanager
def ends() -> Iterator[None]:
    """An interrupt is the way to end this, and is over then: what fails afterwards has failed by itself."""
    try:
        with recognised():
            yield
    except KeyboardInterrupt:
        if _heard:
            _heard.obeyed = False


def _follows_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt was being handled when an error was raised: seen without our own handlers, too."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _follows_interrupt(error.__context__))


@contextlib.contextmanager
def held() -> Iterator[None]:
    """An interrupt of the main thread waits until the end of this.

    In the midst of a database's transaction it would leave that open: the process then waits for a lock of its own.
    """
    late: list[int] = []
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if here}
    obeyed = {number: handler for number, handler in before.items() if callable(handler)}
    for number in obeyed:
        signal.signal(number, lambda number, _: late.append(number))
    try:
        yield
    finally:
        for number, handler in obeyed.items():
            signal.signal(number, handler)
        if late:
            obeyed[signal.Signals(late[0])](late[0], None)


class _Heard:
    """The signals that this process was sent."""

    def __init__(self) -> None:
        self.first = 0.0  # when
        self.obeyed = False
        self._way_on = ""  # as it was when the interrupt was raised: unwinding may be quicker than the ear
        self._process, self._raised = os.getpid(), False

    def obey(self, number: int, frame: FrameType | None) -> None:
        """The handler, in the main thread. What was forked obeys every signal."""
        if not self._raised or os.getpid() != self._process:
            self.obeyed = self._raised = True
            self._way_on = self._way_on or _way_on()
            raise KeyboardInterrupt

    def raise_again(self, what: sys.UnraisableHookArgs) -> bool:
        """Raise an interrupt again that Python dropped, in a destructor or a callback; False for any other error.

        From a thread, for here it would be dropped once more; by SIGTERM, as a second Ctrl-C would end the process.
        """
        dropped = issubclass(what.exc_type, KeyboardInterrupt)
        if dropped:
            self._raised = False
            main = threading.main_thread().ident
            threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGTERM)).start()
        return dropped

    def listen(self, ear: socket.socket) -> None:
        while numbers := ear.recv(1):
            if numbers[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if not self.first:
                self.first = time.monotonic()
                logging.disable(logging.INFO)  # what the libraries say of it
                more = "; Ctrl-C once more ends at once" if numbers[0] == signal.SIGINT else ""
                with contextlib.suppress(OSError, ValueError):  # nobody listens any more
                    print(f"interrupted{more}; {self._way_on or _way_on()}", file=sys.stderr, flush=True)
            elif numbers[0] == signal.SIGINT and time.monotonic() - self.first > SAME_SECONDS:
                os._exit(CODE)


def _forked() -> None:
    if _own_ear:  # what this process is sent is not its parent's
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forked)
