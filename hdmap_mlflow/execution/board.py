"""How a grid goes on, live: what runs where, what is done, and how long the rest will take."""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from hdmap_mlflow.execution.task import Outcome, Started
from hdmap_mlflow.names import MEAN_AUROC

if TYPE_CHECKING:
    from rich.console import Group


class Board:
    """A live table on a terminal; one line per event where the output is a file or a pipe.

    `names` has the runs by index, `seconds` what each is expected to take (0 where nothing is known). Where not all
    runs are known from the beginning, `total` is how many there will be, and `names` is added to. `remark` ends the
    line of counts.
    """

    def __init__(
        self, names: Mapping[int, str], seconds: Mapping[int, float], at_once: int, total: int | None = None
    ) -> None:
        from rich.live import Live

        self.names, self.expected, self.at_once = dict(names), dict(seconds), at_once
        self.total, self.remark = len(names) if total is None else total, ""
        self.running: dict[int, tuple[Started, float]] = {}
        self.ended: dict[int, Outcome] = {}
        live = Live(get_renderable=self.table, refresh_per_second=1, transient=True)
        self.live = live if sys.stdout.isatty() else None

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def show(self, event: Started | Outcome, words: str = "") -> None:
        """Take note of an event, and say it, the end of a run in these words where some are given."""
        name = self.names[event.index]
        if isinstance(event, Started):
            self.running[event.index] = (event, time.monotonic())
            line = f"started {name} on {event.host}, GPU {event.gpu}; log {event.log}"
        else:
            self.running.pop(event.index, None)
            self.ended[event.index] = event
            said = event.reason or event.unrecorded
            why = f": {said}" if said else ""
            line = words or f"[{len(self.ended)}/{self.total}] {event.status} {name}, {event.seconds:.0f} s{why}"
        if not self.live:
            print(line, flush=True)
        elif isinstance(event, Outcome):
            self.live.console.print(line, highlight=False, markup=False)

    @property
    def failed(self) -> int:
        return sum(outcome.status not in ("finished", "pruned") for outcome in self.ended.values())

    def remaining(self) -> float | None:
        """Seconds until all is done, from what ended here and, before that, from past runs; None: nobody knows."""
        took = [outcome.seconds for outcome in self.ended.values() if outcome.status == "finished"]
        usual = statistics.mean(took) if took else 0.0
        left = 0.0
        for index in self.names.keys() - self.ended.keys():
            expected = self.expected.get(index) or usual
            if not expected:
                return None
            since = time.monotonic() - self.running[index][1] if index in self.running else 0.0
            left += max(0.0, expected - since)
        unnamed = max(0, self.total - len(self.names))
        if unnamed and not usual:
            return None
        left += unnamed * usual
        return left / max(1, min(self.at_once, self.total - len(self.ended)))

    def table(self) -> Group:
        """The runs that are under way, below a line of counts."""
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        eta = self.remaining()
        done = len(self.ended) - self.failed
        title = (
            f"{len(self.running)} running, {done} done, {self.failed} failed of {self.total}; "
            f"{'time left unknown' if eta is None else f'about {clock(eta)} left'}{self.remark}"
        )
        cells = {
            "run": [self.names[event.index] for event, _ in self.running.values()],
            "host": [event.host for event, _ in self.running.values()],
            "GPU": [event.gpu for event, _ in self.running.values()],
            "since": [clock(time.monotonic() - began) for _, began in self.running.values()],
            "log": [_from_here(event.log) for event, _ in self.running.values()],
        }
        for column, unsaid in (("host", socket.gethostname()), ("GPU", "none")):
            if set(cells[column]) <= {unsaid}:  # the same for all, and no news: room for the names
                del cells[column]
        table = Table(box=box.SIMPLE_HEAD)
        for column in cells:
            long = column in ("run", "log")  # which a narrow terminal gets in several lines, and whole
            table.add_column(column, no_wrap=not long, overflow="fold" if long else "ellipsis")
        for row in zip(*cells.values(), strict=True):
            table.add_row(*map(escape, row))
        return Group(title, table)  # a title of the table's own would be no wider than the table


def _from_here(path: Path) -> str:
    return str(path.relative_to(here) if path.is_relative_to(here := Path.cwd()) else path)


def clock(seconds: float) -> str:
    """`h:mm:ss`."""
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def final_rows(
    names: Sequence[str], outcomes: Mapping[int, Outcome], before: Mapping[int, tuple[str, str]]
) -> list[list[str]]:
    """One row per run for the table at the end; `before` has status and reason of what this launch did not run."""
    rows = []
    for index, name in enumerate(names):
        outcome = outcomes.get(index)
        if outcome is None:
            status, reason = before[index]
            rows.append([name, status, "-", "-", "-", reason])
            continue
        auroc = outcome.metrics.get(MEAN_AUROC)
        where = f"{outcome.host} GPU {outcome.gpu}" if outcome.host else "-"
        rows.append(
            [
                name,
                outcome.status,
                f"{outcome.seconds:.0f}",
                "-" if auroc is None else f"{auroc:.3f}",
                where,
                (outcome.reason or "").split("\n")[0][:80],
            ]
        )
    return rows
