"""New maps in a folder, scored as they come: a log of scores and alarms, and a run of kind `watch` that draws them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from filelock import FileLock, Timeout

from hdmap_mlflow import interrupt
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import own_experiment
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.data.formats import check_values, is_map, read_map
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.alarms import Rule, drift
from hdmap_mlflow.files import write_whole
from hdmap_mlflow.names import Scope, Tag, metric_name
from hdmap_mlflow.process import using_cache
from hdmap_mlflow.runs import reading as readings
from hdmap_mlflow.runs import trained
from hdmap_mlflow.runs.loose import passed_over
from hdmap_mlflow.runs.reading import Reading
from hdmap_mlflow.runs.trained import Trained

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Record

LOG, LOCK = "log.parquet", ".watching"
WINDOW = 100  # maps whose scores, alarms and drift are a point in MLflow's charts
BATCH = 32
LOOKS = 3  # at a file that cannot be read and changes no more, before it is given up
# One row per map: times in ns and ms since 1970, `looked` the same for all maps of one look; `problem` says why a map
# has no score, and is empty where it has one.
COLUMNS: Document = {
    **dict.fromkeys(("run", "path"), "object"),
    **dict.fromkeys(("bytes", "modified_ns", "looked"), "int64"),
    **dict.fromkeys(("score", "threshold"), "float64"),
    **dict.fromkeys(("above", "alarm"), "bool"),
    **dict.fromkeys(("image_max", "image_mean", "image_row", "seconds"), "float64"),
    "problem": "object",
}
State = tuple[int, int]  # of a file: its bytes, and when it was changed


@dataclass(frozen=True)
class Request:
    """What is watched: the run, the folder of maps, how often, and what an alarm is; the rest as for `predict`."""

    run_id: str  # or models:/NAME@ALIAS, or an exported folder
    folder: Path
    every: float = 60.0
    alarm: str = "3of5"
    threshold: str = "normal_q99"
    out: Path | None = None
    trust_model: bool = False
    adapters: Sequence[str] = ()
    reference: Sequence[Path] = ()

    def place(self) -> Path:
        """The folder of the log."""
        return (self.out or Path("results/watch") / self.run_id).absolute()


@using_cache()
def watch(uri: str, request: Request, say: Callable[[str], None] = print, looks: int | None = None) -> pd.DataFrame:
    """Score what is new in a folder, again and again, until Ctrl-C or SIGTERM, or for so many `looks`.

    A map is scored once: the log says which were, and a restart goes on with it. It is written before MLflow is told,
    and a store that is away is waited for while the watch goes on. Returns the log, one row per map. Raises BadInput
    for a folder that is not there, a run that cannot score, and a run that is watched already.
    """
    from hdmap_mlflow import tracking

    rule = Rule.parse(request.alarm)
    if not request.folder.is_dir():
        raise BadInput(f"{request.folder} is no folder; give the one in which new maps appear")
    given, request = request.run_id, replace(request, run_id=trained.id_of(uri, request.run_id))
    log = Log(request.place(), request.run_id)
    run = trained.load(uri, given, request.trust_model)
    reading = readings.of(run, request.threshold, request.adapters, request.reference)
    store = tracking.Watched(uri, request.run_id, own_experiment() if trained.exported(given) else None)
    if len(log.table) < store.last_step:
        raise BadInput(
            f"{log.path} has {len(log.table)} maps, MLflow was told of {store.last_step}; give --out the folder of "
            f"that log, or delete run {store.run_id} in MLflow"
        )
    kept = interrupt.explained("what was scored is kept, and the same command goes on")
    with log.locked(), kept, store.start(run.record.name, _tags(run, request, rule, reading)) as record:
        watcher = _Watcher(run, request, rule, reading, log, record, say, store.last_step)
        say(
            f"watching {request.folder} with {run.record.name}: threshold {reading.threshold:.6g}, alarm {rule}; "
            "Ctrl-C ends it"
        )
        with interrupt.ends():
            watcher.look_on(looks)
        watcher.record_looks()
        record.patience = min(record.patience, tracking.LAST_WORD)
        if log.path.exists():
            record.artifact(log.path)
    return log.table


def _tags(run: Trained, request: Request, rule: Rule, reading: Reading) -> dict[str, str]:
    kept = {name: run.record.tags[name] for name in (Tag.MODEL, Tag.CONDITION, Tag.SOURCE, Tag.DATA_DIGEST)}
    return kept | {
        Tag.KIND: "watch",
        Tag.WATCHED: request.run_id,
        Tag.FOLDER: str(request.folder.absolute()),
        Tag.THRESHOLD: f"{request.threshold} = {reading.threshold:.6g}",
        Tag.ALARM: str(rule),
    }


def point(log: pd.DataFrame, known: pd.DataFrame) -> dict[str, float]:
    """What MLflow draws of a log, by metric, with `known` as the scores of a healthy machine.

    Quantiles, rates and drift (see `alarms.drift`) are those of the last `WINDOW` maps that have a score.
    """
    scored = log[log["problem"] == ""]
    recent = scored.tail(WINDOW)
    values: Document = {"maps": len(scored), "unreadable": len(log) - len(scored)}
    if len(recent):
        score = recent["score"]
        values |= {"score_q50": score.median(), "score_q95": score.quantile(0.95), "score_max": score.max()}
        values |= {"above_rate": recent["above"].mean(), "alarm_rate": recent["alarm"].mean()}
        values |= {"alarm": float(recent["alarm"].iloc[-1]), **drift(known, recent)}
    return {metric_name(Scope.WATCH, name): float(value) for name, value in values.items()}


class Log:
    """The Parquet file of a watch: one row per map, in the order in which they were scored."""

    def __init__(self, folder: Path, run_id: str) -> None:
        """Raises BadInput for a file that is no such log, or that of another run."""
        self.folder, self.path, self.run_id = folder, folder / LOG, run_id
        self.table = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
        if self.path.exists():
            try:
                self.table = pd.read_parquet(self.path)[list(COLUMNS)]
            except Exception as error:  # whatever the reader makes of a damaged file
                raise BadInput(f"{self.path} is no log of a watch ({one_line(error)}); move it away") from None
            if others := set(self.table["run"]) - {run_id}:
                raise BadInput(f"{self.path} is the log of run {min(others)[:8]}; give --out another folder")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else writes the log meanwhile. Raises BadInput where somebody does, or where it cannot be written."""
        lock = FileLock(self.folder / LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise BadInput(f"{self.folder} is written by another watch; end it, or give --out another folder") from None
        except OSError as error:
            raise BadInput(f"cannot write to {self.folder} ({error.strerror}); give --out another folder") from None
        try:
            yield
        finally:
            lock.release()

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows: the file has all of them or none."""
        self.table = pd.concat([self.table, rows.astype(COLUMNS)[list(COLUMNS)]], ignore_index=True)
        write_whole(self.path, self.table.to_parquet(index=False))

    def states(self) -> dict[str, State]:
        """What was looked at, by path: as it was the last time."""
        rows = self.table[["path", "bytes", "modified_ns"]].itertuples(index=False, name=None)
        return {path: (size, modified) for path, size, modified in rows}


@dataclass
class _Watcher:
    """A watch under way. `recorded` is how many rows of the log MLflow was told of."""

    run: Trained
    request: Request
    rule: Rule
    reading: Reading
    log: Log
    record: Record
    say: Callable[[str], None]
    recorded: int
    seen: dict[str, State] = field(default_factory=dict)  # at the last look
    broken: dict[tuple[str, State], int] = field(default_factory=dict)  # looks at what cannot be read

    def look_on(self, looks: int | None) -> None:
        done = 0
        while looks is None or done < looks:
            time.sleep(self.request.every if done else 0)
            done += 1
            try:
                self.score(self.ready())
            except FileNotFoundError as error:  # of a share that is away, or of a map that was moved meanwhile
                self.say(f"{error.filename} is gone; it is looked for again")
            self.record_looks()

    def ready(self) -> list[Path]:
        """The maps that are new and whole, the oldest first; one that changed since the last look is waited for."""
        known, rest, found = self.log.states(), time.time_ns() - int(max(self.request.every, 2) * 1e9), {}
        folder = self.request.folder.absolute()
        for path in folder.rglob("*"):
            if is_map(path) and not passed_over(path.relative_to(folder)) and path.is_file():
                state = path.stat()
                found[str(path)] = (state.st_size, state.st_mtime_ns)
        before, self.seen = self.seen, found
        fresh = [path for path, state in found.items() if known.get(path) != state]
        whole = [path for path in fresh if before.get(path) == found[path] or found[path][1] < rest]
        return [Path(path) for path in sorted(whole, key=lambda path: (found[path][1], path))]

    def score(self, new: list[Path]) -> None:
        """Score maps and write the log, all of it or nothing."""
        from hdmap_mlflow.data.datamodule import loose_loader

        sizes, tables = dict[Path, tuple[int, ...]](), list[pd.DataFrame]()
        for path in new:
            try:
                pixels = read_map(path)
                check_values(path, pixels)
                sizes[path] = pixels.shape
            except BadInput as problem:
                if self._given_up(path):
                    self.say(f"no score: {problem}")
                    tables.append(pd.DataFrame({"path": [str(path)], "problem": [one_line(problem)]}))
        for _, paths in groupby(sizes, sizes.__getitem__):
            loader = loose_loader(list(paths), BATCH)
            scores = scoring.score(self.run.model, loader, "the folder", "new", self.run.device, progress=False)
            tables.append(scores.table.assign(problem=""))
        if tables:
            self._append(pd.concat(tables, ignore_index=True))

    def _given_up(self, path: Path) -> bool:
        """Whether a file that cannot be read was looked at often enough; until then it may be half written."""
        key = (str(path), self.seen[str(path)])
        self.broken[key] = self.broken.get(key, 0) + 1
        return self.broken[key] >= LOOKS and path.exists()

    def _append(self, new: pd.DataFrame) -> None:
        log, states = self.log.table, [self.seen[path] for path in new["path"]]
        before = log[log["problem"] == ""].tail(self.rule.last)
        scored = new["problem"] == ""
        above = scored.copy()
        if scored.any():
            above[scored] = self.reading.above(new["score"][scored].to_numpy(float))
        raised = self.rule([*before["above"], *above[scored]])[len(before) :]
        new = new.reindex(columns=list(COLUMNS)).assign(
            run=self.log.run_id,
            bytes=[size for size, _ in states],
            modified_ns=[changed for _, changed in states],
            looked=time.time_ns() // 1_000_000,
            threshold=self.reading.threshold,
            above=above,
            alarm=pd.Series(raised, new.index[scored]).reindex(new.index, fill_value=False),
        )
        self.log.append(new)
        self._tell(new[scored], bool(len(before)) and bool(before["alarm"].iloc[-1]))

    def _tell(self, new: pd.DataFrame, alarm: bool) -> None:
        """One line of a look, and one for each time that an alarm begins or ends."""
        if new.empty:
            return
        rate = f"{int(new['above'].sum())} of {len(new)} new maps above the threshold"
        self.say(f"{time.strftime('%H:%M:%S')} {rate}, largest score {new['score'].max():.6g}")
        for path, now in zip(new["path"], new["alarm"], strict=True):
            if now != alarm:
                self.say(f"ALARM: {self.rule} at {path}" if now else f"the alarm is over at {path}")
            alarm = now

    def record_looks(self) -> None:
        """Tell MLflow of the looks that it has not, those before an interruption among them; twice is once."""
        looked = self.log.table["looked"]
        for when in looked[self.recorded :].unique():
            rows = int((looked <= when).sum())
            values = point(self.log.table[:rows], self.reading.normals)
            self.record.metrics(values, rows, int(when))
            self.recorded = rows
            self.record.note(self._described(values))

    def _described(self, values: Mapping[str, float]) -> str:
        """The description that MLflow shows on the page of the watch."""
        state = "**ALARM**" if values.get(metric_name(Scope.WATCH, "alarm")) else "no alarm"
        rows = [[name.partition("/")[2], f"{value:.4g}"] for name, value in values.items()]
        lines = [
            f"Maps of `{self.request.folder.absolute()}`, scored by {self.run.record.name} ({self.request.run_id}).",
            "",
            f"Now: {state}. An alarm is {self.rule.least} of the last {self.rule.last} maps above the threshold "
            f"{self.reading.threshold:.6g} ({self.request.threshold}; healthy: {self.reading.of}). "
            f"Rates, quantiles and drift are those of the last {WINDOW} maps.",
            "",
            *markdown_table(["measure", "last"], rows),
        ]
        return "\n".join(lines)
