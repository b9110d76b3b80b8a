"""Many runs over the GPUs of a machine or a cluster: models x conditions x sources x seeds, each exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hdmap_mlflow import interrupt
from hdmap_mlflow.console import markdown_table, show_table
from hdmap_mlflow.errors import Incomplete
from hdmap_mlflow.execution.board import Board, clock, final_rows
from hdmap_mlflow.execution.executor import ended_elsewhere, runs_here
from hdmap_mlflow.execution.task import Outcome, Task
from hdmap_mlflow.files import to_json, write_whole
from hdmap_mlflow.grid import adaptations, plan
from hdmap_mlflow.grid.plan import Cell
from hdmap_mlflow.models import builder
from hdmap_mlflow.names import Scope, Tag, metric_name

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Record, Store
from hdmap_mlflow.execution.launch import Launch

IDENTITY = (Tag.FINGERPRINT, Tag.PLANNED)
COLUMNS = ("run", "status", "seconds", "target AUROC", "where", "reason")


def wants(launch: Launch, cell: Cell) -> bool:
    """Whether a launch runs a cell: it is missing, or it is to be run again."""
    return launch.force and not cell.skipped or cell.status == "missing" or cell.status in launch.retry


def run(
    flags: Mapping[str, object], file: str | None, launch: Launch, *, repeat: int = 1, plan_only: bool = False
) -> None:
    """Run what the flags and a grid file ask for, or show what would run. Raises BadInput before anything starts."""
    if not plan_only:
        launch.check()
    cells = plan.expand(plan.read_blocks(flags, file), repeat, None if plan_only else launch.warm)
    if plan_only:
        show_plan(cells, launch)
        return
    builder.reach(cell.checked for cell in cells if not cell.skipped)
    store = open_store(cells)
    recover(cells)
    carry_out(plan.look_up(cells, store), store, launch)


def open_store(cells: Sequence[Cell]) -> Store:
    """The store that all the grid's runs share, initialised before any child opens it."""
    from hdmap_mlflow.tracking import Store

    tracking = cells[0].config.tracking
    return Store(tracking.uri or "", tracking.experiment)


def recover(cells: Sequence[Cell]) -> int:
    """Record runs of the cells that were computed while the store was away; returns how many."""
    from hdmap_mlflow.runs import upload

    own = {cell.fingerprint for cell in cells if not cell.skipped}
    return sum(
        upload.recover(folder, lambda tags: not own.isdisjoint({tags.get(name) for name in IDENTITY}))
        for folder in {cell.config.tracking.output_dir for cell in cells}
    )


def show_plan(cells: Sequence[Cell], launch: Launch) -> None:
    """Print what would run, what is there already, the expected time and memory, and the data's digests."""
    from hdmap_mlflow import tracking

    costs, place = {}, cells[0].config.tracking
    if tracking.project_run() or tracking.check_store(str(place.uri), place.experiment):  # a plan makes none
        store = open_store(cells)
        cells, costs = plan.look_up(cells, store), plan.estimate(cells, store)
    rows, total, unknown = [], 0.0, 0
    for cell in cells:
        seconds, memory = costs.get((cell.config.model.name, cell.config.condition), (0.0, 0.0))
        runs = wants(launch, cell)
        if runs:
            total, unknown = total + seconds, unknown + (not seconds)
        reason = cell.skipped or (cell.past.reason[:60] if cell.past and cell.status != "finished" else "")
        status = f"{cell.status}: {reason}" if cell.status not in ("finished", "missing") else cell.status
        rows.append(
            [
                cell.name,
                cell.tags.get(Tag.DATA_DIGEST, "-"),
                status,
                "run" if runs else "-",
                f"{seconds:.0f}" if seconds else "?",
                f"{memory:,.0f}" if memory else "?",
            ]
        )
    show_table("grid", ("run", "data", "status", "will", "seconds", "peak MB"), rows, left=4)
    todo = sum(wants(launch, cell) for cell in cells)
    hint = f", {unknown} of them never run before and not counted" if unknown else ""
    print(
        f"{len(cells)} runs, {sum(c.status == 'finished' for c in cells)} finished, {todo} to run: "
        f"{clock(total)} of run time{hint}; to be divided by the runs at once{_skipped(cells)}. "
        "Nothing was started."
    )
    if ways := list(dict.fromkeys(str(one) for cell in cells for one in cell.adaptations)):
        print(f"Each finished run is then adapted, without training again: {'; '.join(ways)}")


def carry_out(cells: Sequence[Cell], store: Store, launch: Launch) -> None:
    """Run what is to be run, below one grid run in MLflow, and print the table. Raises Incomplete if any failed."""
    from hdmap_mlflow import tracking

    if not any(wants(launch, cell) for cell in cells):
        failed = _adapt(cells, {}, store, launch)
        _finish(cells, {}, store, None, failed)
        return
    able = [cell for cell in cells if not cell.skipped]
    fingerprint = hashlib.sha256("".join(sorted({c.fingerprint for c in able})).encode()).hexdigest()[:16]
    tags = {Tag.KIND: "grid", Tag.FINGERPRINT: fingerprint, Tag.RESUME: launch.resume}
    name, place = f"grid/{len(able)} runs/{fingerprint[:6]}", cells[0].config.tracking
    own = None if tracking.project_run() else store.shared("grid", fingerprint, name, tags)
    with tracking.start(store.uri, place.experiment, name, tags, resume=own) as record:
        record.json({"runs": [{"name": c.name, "fingerprint": c.fingerprint} for c in able]}, "grid.json")
        print(f"grid {record.run_id}: {sum(wants(launch, cell) for cell in cells)} of {len(able)} runs to do")
        with interrupt.explained(f"what finished is kept. To go on: {launch.resume}"):
            outcomes = _run(cells, store, launch, record)
        lost = sum(bool(outcome.unrecorded) for outcome in outcomes.values())
        left = lost - recover(cells) if lost else 0
        failed = _adapt(cells, outcomes, store, launch)
        _finish(cells, outcomes, store, record, failed)
        if left:
            raise Incomplete(f"{left} runs are computed and not recorded, see above; the same command records them")


def _adapt(cells: Sequence[Cell], outcomes: Mapping[int, Outcome], store: Store, launch: Launch) -> str:
    """Adapt the finished runs of the cells, those of before among them; returns what failed, in words."""
    done = {i: outcome.run_id for i, outcome in outcomes.items() if outcome.status == "finished"}
    done |= {i: c.past.run_id for i, c in enumerate(cells) if i not in outcomes and c.past and c.status == "finished"}
    with interrupt.explained(f"what is adapted is kept. To go on: {launch.resume}"):
        return adaptations.carry_out({done[i]: (cells[i].name, cells[i].adaptations) for i in sorted(done)}, store)


def _run(cells: Sequence[Cell], store: Store, launch: Launch, record: Record) -> dict[int, Outcome]:
    """Outcomes by index of the cells that were run; one that ran out of memory was tried again with half the batch."""
    folders = _Folders()
    todo = {i: cell for i, cell in enumerate(cells) if wants(launch, cell)}
    costs = plan.estimate(todo.values(), store)
    seconds = {i: costs.get((c.config.model.name, c.config.condition), (0.0, 0.0))[0] for i, c in todo.items()}
    outcomes: dict[int, Outcome] = {}
    with launch.executor(store) as pool, Board({i: c.name for i, c in todo.items()}, seconds, pool.at_once) as board:
        print(f"{pool.at_once} at once, each with {pool.share.cpus:g} CPUs and {pool.share.gpus or 0:g} GPUs")
        tasks = {
            i: Task(
                index=i,
                config=cell.checked,
                folder=folders(cell),
                parent=record.run_id,
                tags={**cell.tags, Tag.PLANNED: cell.fingerprint},
                command=launch.child,
                seen=cell.seen,
            )
            for i, cell in todo.items()
        }
        for task in tasks.values():
            pool.submit(task)
        halved: set[int] = set()
        elsewhere: dict[int, str] = {}  # the runs that another launch on this machine has
        while pool.busy or elsewhere:
            for event in pool.wait() if pool.busy else ended_elsewhere(elsewhere, tasks, pool):
                if isinstance(event, Outcome) and runs_here(event):
                    elsewhere[event.index] = event.run_id
                    print(f"{cells[event.index].name}: {event.reason}", flush=True)
                    continue
                if isinstance(event, Outcome) and event.status == "out_of_memory" and event.index not in halved:
                    halved.add(event.index)
                    if half := _halved(todo[event.index], event, record, folders, launch.child):
                        print(
                            f"{cells[event.index].name} ran out of memory; again with batch size "
                            f"{half.config.data.batch_size}"
                        )
                        pool.submit(half)
                        continue
                board.show(event)
                if isinstance(event, Outcome):
                    outcomes[event.index] = event
                    if event.result:
                        folders.write(cells[event.index], event)
                    counts = {"finished": len(outcomes) - board.failed, "failed": board.failed}
                    record.metrics({metric_name(Scope.GRID, name): n for name, n in counts.items()}, len(outcomes))
    return outcomes


def _halved(
    cell: Cell, event: Outcome, record: Record, folders: Callable[[Cell], Path], child: tuple[str, ...] | None
) -> Task | None:
    """The task once more with half the batch, tagged so; None where the batch is 1 already."""
    data = cell.config.data
    if data.batch_size < 2:
        return None
    sizes = {"batch_size": data.batch_size // 2, "eval_batch_size": max(1, data.validation_batch // 2)}
    config = cell.checked.model_copy(update={"data": data.model_copy(update=sizes)})
    tags = {name: value for name, value in cell.tags.items() if name != Tag.FINGERPRINT}  # that of other settings
    tags |= {
        Tag.PLANNED: cell.fingerprint,
        Tag.RETRY: "out_of_memory",
        Tag.RETRY_OF: event.run_id,
        Tag.BATCH_SIZE_PLANNED: str(data.batch_size),
    }
    return Task(index=event.index, config=config, folder=folders(cell), parent=record.run_id, tags=tags, command=child)


def _finish(
    cells: Sequence[Cell], outcomes: Mapping[int, Outcome], store: Store, record: Record | None, failed: str = ""
) -> None:
    """The table at the end, on the terminal and as the grid run's description; raises Incomplete if any failed."""
    from hdmap_mlflow import tracking

    before = {i: (cell.status, cell.skipped or "before this launch") for i, cell in enumerate(cells)}
    rows = final_rows([cell.name for cell in cells], outcomes, before)
    show_table("grid", COLUMNS, rows, left=2)
    bad = [row[1] for row in rows if row[1] not in ("finished", "skipped")]
    able = len(rows) - sum(row[1] == "skipped" for row in rows)
    if record:
        record.note("\n".join(markdown_table(COLUMNS, rows, left=len(COLUMNS)))[:5000])
    known = [record.run_id] if record else [cell.past.run_id for cell in cells if cell.past]
    if not bad:
        print(f"all {able} runs are finished" + _skipped(cells))
    if known and len(bad) < able:  # otherwise there is nothing to compare
        print(f"to report on them: {tracking.report_command(store.uri, store.experiment)}")
        print(tracking.invitation(store.uri, known[0]))
    if bad:
        hint = "elsewhere they still run, or add --retry running" if set(bad) == {"running"} else "add --retry failed"
        raise Incomplete(
            f"{len(bad)} of {able} runs did not finish; the reasons stand above and in MLflow. "
            f"To run them again: {hint}"
        )
    if failed:
        raise Incomplete(failed)


def _skipped(cells: Sequence[Cell]) -> str:
    count = sum(bool(cell.skipped) for cell in cells)
    return f"; {count} skipped, which this machine cannot run" if count else ""


class _Folders:
    """The guideline's folders `<output_dir>/<model>/<timestamp>/` of one launch, and their result files."""

    def __init__(self) -> None:
        self.stamp = datetime.now().strftime("%Y%m%d_%H%M%S")

    def __call__(self, cell: Cell) -> Path:
        return Path(cell.config.tracking.output_dir) / cell.config.model.name.replace(":", ".") / self.stamp

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """`result_exp_<ii>_<condition>_gpu<g>.json` of a run that finished; that it is there means success."""
        if outcome.status == "finished":
            file = f"result_exp_{outcome.index:02d}_{cell.config.condition}_gpu{outcome.gpu or 'none'}.json"
            try:
                write_whole(self(cell) / file, to_json(outcome.result))
            except OSError as error:
                print(f"left out: {file} ({error.strerror}); the run's own record has it")
