"""`hdmap tune`: search a model's settings on source validation, each trial a run of its own."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hdmap_mlflow import interrupt, tracking
from hdmap_mlflow.config import RunConfig, with_values
from hdmap_mlflow.console import harmless, show_table
from hdmap_mlflow.errors import BadInput, Incomplete
from hdmap_mlflow.execution.board import Board
from hdmap_mlflow.execution.executor import ended_elsewhere, runs_here
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.task import Outcome, Started, Task
from hdmap_mlflow.files import to_json, write_whole
from hdmap_mlflow.models import builder
from hdmap_mlflow.names import Artifact, Scope, Tag, metric_name
from hdmap_mlflow.runs import setup, upload
from hdmap_mlflow.runs.identity import identity_tags
from hdmap_mlflow.tracking import Record, Store
from hdmap_mlflow.tuning import findings
from hdmap_mlflow.tuning.findings import Conclusion, Refit
from hdmap_mlflow.tuning.search import DIRECTIONS, Search, SearchRequest, study_name
from hdmap_mlflow.tuning.storage import StudyStorage, look
from hdmap_mlflow.tuning.study import Asked, Study, winner

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hdmap_mlflow.execution.executor import Executor

CONCLUDES = "concluded by"  # the study attribute that names the driver which does it
TRIALS, CONDITION = "trials.csv", "best_condition.json"


def tune(search: Search, launch: Launch) -> None:
    """Run what the study lacks, below one MLflow run, and conclude it. Raises Incomplete where no trial completed."""
    place, config = search.place, search.config.tracking
    store = Store(config.uri or "", config.experiment)
    recover(search)  # before the study asks what became of a dead driver's trials

    def rescue(run_id: str) -> list[float] | None:
        with contextlib.suppress(KeyError):  # it finished without an objective, and will say so when it is run again
            if store.has(run_id) and store.close(run_id, "killed", "its driver is gone"):
                return search.values(store.metrics(run_id) or {})
        return None

    study = Study(
        place,
        search.name,
        search.space,
        search.terms(),
        [DIRECTIONS[name] for name in search.objectives],
        metrics=search.objectives,
        sampler=search.wanted.sampler,
        seed=search.config.train.seed,
        rescue=rescue,
    )
    store.close_gone()
    tags = {
        Tag.KIND: "study",
        Tag.STUDY: search.name,
        Tag.ORACLE: str(search.oracle).lower(),
        Tag.RESUME: launch.resume,
        Tag.STORAGE: place.shown,
    }
    identity = identity_tags(search.config, search.data, search.code)
    tags |= {name: value for name, value in identity.items() if name != Tag.FINGERPRINT}
    name = f"study/{search.name}" + (" (oracle)" if search.oracle else "")

    def shared(known: str) -> str:
        return tracking.project_run() or (known if store.has(known) else store.create(name, tags, None))

    own = study.once("mlflow_run", shared)
    with tracking.start(store.uri, config.experiment, name, tags, resume=own) as record:
        record.params(search.terms())
        print(f"study {search.name} in {place.shown}; to watch it: {place.dashboard}")
        if search.oracle:
            print("ORACLE: the settings are chosen on target data; what comes out is no result")
        try:
            left = max(0, search.wanted.trials - len(study.trials()))
            with interrupt.explained(f"what finished is kept. To go on: {launch.resume}"):
                with launch.executor(store) as pool, Board({}, {}, pool.at_once, left) as board:
                    lost = _search(search, study, pool, launch, record, store, board)
                if unrecorded := lost - recover(search) if lost else 0:
                    raise Incomplete(
                        f"{unrecorded} trials are computed and not recorded; the same command records them"
                    )
                _conclude(search, study, launch, record, store)
            print(tracking.invitation(store.uri, record.run_id, tracking.STUDIES))
        finally:
            study.give_back()


def recover(search: Search) -> int:
    """Record the study's runs that were computed while the store was away; returns how many."""
    return upload.recover(search.config.tracking.output_dir, lambda tags: tags.get(Tag.STUDY) == search.name)


def _search(
    search: Search, study: Study, pool: Executor, launch: Launch, record: Record, store: Store, board: Board
) -> int:
    """Ask for trials and run them until the study has enough, or until time is up.

    Returns how many finished that the store did not take: the study has their values all the same.
    """
    began, total, lost = time.monotonic(), search.wanted.trials, 0
    running: dict[int, Asked] = {}
    while True:
        late = bool(search.wanted.timeout and time.monotonic() - began > search.wanted.timeout)
        while not late and len(running) < pool.at_once and (asked := study.ask(total)):
            board.names[asked.number] = _named(asked)
            try:
                pool.submit(search.task(asked, launch, record.run_id))
                running[asked.number] = asked
            except BadInput as problem:  # a trial fails alone, and a run of its own says so
                config, tags = search.trial(asked)
                run_id = store.create(config.name, tags | {Tag.KIND: "trial"}, record.run_id)
                store.close(run_id, "failed", str(problem))
                study.began(asked.number, run_id)
                refused = Outcome(index=asked.number, run_id=run_id, status="failed", reason=str(problem))
                _settle(search, study, asked, refused, record, store, board)
        if not running:
            if late or not study.others():
                break
            time.sleep(1)
        for event in pool.wait(0.2) if running else ():
            if isinstance(event, Started):
                study.began(event.index, event.run_id)
                board.show(event)
            else:
                lost += bool(event.unrecorded)
                _settle(search, study, running.pop(event.index), event, record, store, board)
        study.beat()
    if late:
        print(f"--timeout of {search.wanted.timeout:g} s is over; the trials that ran have ended")
    return lost


def _named(asked: Asked) -> str:
    """A trial as the terminal names it, with its settings."""
    settings = " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in asked.settings.items()
    )
    return f"trial {asked.number}{' (baseline)' if asked.baseline else ''}: {settings}"


def _settle(
    search: Search, study: Study, asked: Asked, outcome: Outcome, record: Record, store: Store, board: Board
) -> None:
    """Tell the study how a trial ended, and say it. Raises Incomplete for an error that is not the settings'."""
    number, told = asked.number, ""
    if outcome.status == "finished":
        try:
            values = search.values(outcome.metrics or store.metrics(outcome.run_id) or {})
        except KeyError as missing:
            told = f"failed: its run has no {missing.args[0]}"
            study.fail(number, told)
        else:
            study.finish(number, values)
            told = ", ".join(f"{name} {value:.4g}" for name, value in zip(search.objectives, values, strict=True))
            named = zip(search.objectives, values, strict=True)
            record.metrics({metric_name(Scope.STUDY, name): value for name, value in named}, number)
    elif outcome.status == "pruned":
        study.prune(number, outcome.reason)
        told = outcome.reason
    else:
        study.fail(number, outcome.reason)
        told = f"{outcome.status}: {outcome.reason}"
    best, trials = study.best(), study.trials()
    done = sum(trial.state.is_finished() for trial in trials)
    if best:
        record.metrics({metric_name(Scope.STUDY, f"best_{search.objectives[0]}"): best.values[0]}, number)
    so_far = f"best so far {best.values[0]:.4g}, trial {best.number}" if best else ""
    name, _, settings = _named(asked).partition(": ")
    board.remark = f"; {so_far}" if best else ""
    board.show(
        outcome,
        f"[{done}/{search.wanted.trials}] {name}: {told}{f' ({so_far})' if best else ''}, "
        f"{outcome.seconds:.0f} s; {settings}",
    )
    if outcome.bug:
        raise Incomplete(
            f"trial {number} met an error that is not its settings' ({outcome.reason}); its log is "
            f"{outcome.log}. Mend it, then the same command goes on"
        )


def _conclude(search: Search, study: Study, launch: Launch, record: Record, store: Store) -> None:
    """Conclude, train again, record and print. Raises Incomplete if nothing completed or a refit failed."""
    import pandas as pd

    best, trials = study.best(), study.trials()
    if best is None:
        reasons = "; ".join(dict.fromkeys(t.user_attrs.get("reason", "") for t in trials))[:300]
        raise Incomplete(f"no trial of study {search.name} completed ({reasons}); nothing can be concluded")
    if not study.claim(CONCLUDES):
        print(f"another driver concludes the study: {study.optuna.user_attrs[CONCLUDES]}")
        return
    end = conclude(search, trials, best)
    search.folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(end.rows).map(harmless).to_csv(search.folder / TRIALS, index=False)
    write_whole(search.folder / CONDITION, to_json(end.condition) + "\n")
    try:
        end = replace(end, refits=_refit(search, study, end, launch, record, store))
    finally:
        _record(search, study, end, record, store)
    for line in findings.headline(trials, best, search.objectives):
        print(line.replace("**", ""))
    if end.refits:
        show_table("trained again, mean ± sd over seeds", findings.GAIN_COLUMNS, findings.gains(end.refits))
    print(f"best settings: {search.folder / CONDITION}\n  {end.command}")
    failed = sum((one.best is None) + (one.baseline is None) for one in end.refits)
    if failed:
        raise Incomplete(
            f"{failed} of the refits failed; the reasons stand above and in MLflow. The same command tries them again"
        )


def conclude(search: Search, trials: Sequence[FrozenTrial], best: FrozenTrial) -> Conclusion:
    """What the study says of its trials, before the best settings are trained again."""
    name, data, chosen = f"{search.config.condition}-best", search.config.data, ", chosen on TARGETS"
    about = f"The best of {len(trials)} trials of study {search.name}{chosen if search.oracle else ''}"
    content = findings.condition_file(
        search.space, search.condition, search.wanted.overrides, name, about, best.user_attrs["settings"]
    )
    command = shlex.join(
        [
            "hdmap",
            "train",
            search.wanted.model,
            "--data-root",
            data.root,
            "--source-domain",
            data.source_domain,
            "--condition-file",
            str(search.folder / CONDITION),
            "--condition",
            name,
        ]
    )
    rows = [findings.trial_row(trial, search.objectives) for trial in trials]
    return Conclusion(trials, best, rows, content, command)


def _record(search: Search, study: Study, end: Conclusion, record: Record, store: Store) -> None:
    """Write a conclusion to the study's run, and name the winner's run so in any list, and no other."""
    for name in (TRIALS, CONDITION):
        record.artifact(search.folder / name)
    for trial in end.trials:
        run_id = trial.user_attrs.get("run_id")
        if run_id and store.metrics(run_id) is not None:
            store.mark_best(run_id, trial.number == end.best.number)
    record.note(findings.note(search.name, end, search.objectives, search.space))
    record.tags({Tag.BEST_TRIAL: str(end.best.number)})
    for title, figure in findings.figures(study.optuna, search.objectives):
        path = search.folder / f"{title}.png"
        figure.savefig(path, dpi=100)
        record.artifact(path, Artifact.FIGURES)


def _refit(search: Search, study: Study, end: Conclusion, launch: Launch, record: Record, store: Store) -> list[Refit]:
    """Train the baseline and the best settings on every seed, evaluate them on all domains; what exists is read."""
    if not search.seeds:
        return []
    pairs: dict[str, RunConfig] = {"baseline": search.config}
    if "baseline" not in end.best.user_attrs:
        (name,) = end.condition
        best = setup.configure(search.wanted.model, name, str(search.folder / CONDITION), search.wanted.flags)
        data = best.data.model_copy(update={"root": search.config.data.root})
        pairs["best"] = best.model_copy(update={"data": data, "tracking": search.config.tracking})
    configs = {
        (role, seed): builder.check(with_values(config, {"train.seed": seed}))
        for seed in search.seeds
        for role, config in pairs.items()
    }
    found: dict[tuple[str, int], Mapping[str, float] | None] = {}
    tasks: dict[int, Task] = {}
    keys = list(configs)
    for index, (key, config) in enumerate(configs.items()):
        tags = identity_tags(config, search.data, search.code)
        past = store.runs(fingerprint=tags[Tag.FINGERPRINT])
        if finished := [one for one in past if one.kind == "run" and one.status == "finished"]:
            found[key] = store.metrics(finished[0].run_id)
            continue
        oracle = search.oracle and key[0] == "best"
        tasks[index] = Task(
            index=index,
            config=config,
            folder=search.folder,
            parent=record.run_id,
            tags=tags | {Tag.STUDY: search.name, Tag.ROLE: key[0], Tag.ORACLE: str(oracle).lower()},
            command=launch.child,
            seen=tuple(one.run_id for one in past if one.kind != "run" or one.status != "running"),
        )
    elsewhere: dict[int, str] = {}  # the refits that another launch on this machine has
    with launch.executor(store) as pool:
        for task in tasks.values():
            pool.submit(task)
        while pool.busy or elsewhere:
            for event in pool.wait() if pool.busy else ended_elsewhere(elsewhere, tasks, pool):
                if not isinstance(event, Outcome):
                    continue
                role, seed = key = keys[event.index]
                if runs_here(event):
                    elsewhere[event.index] = event.run_id
                    print(f"{role}, seed {seed}: {event.reason}", flush=True)
                    continue
                found[key] = event.metrics or store.metrics(event.run_id)
                why = f": {event.reason}" if event.reason else ""
                print(f"{role}, seed {seed}: {event.status}, {event.seconds:.0f} s{why}", flush=True)
            study.beat()
    winner = list(pairs)[-1]
    return [Refit(seed, found.get(("baseline", seed)), found.get((winner, seed))) for seed in search.seeds]


def status(wanted: SearchRequest) -> None:
    """Print a study's trials and what it has found so far; nothing is started or changed."""
    place = StudyStorage.of(wanted.storage)
    name = study_name(wanted)
    found = look(place, name)
    objectives = found.user_attrs.get("terms", {}).get("study.objective", "val_auroc").split(",")
    trials = found.get_trials(deepcopy=False)
    rows = [findings.trial_row(trial, objectives) for trial in trials]
    settings = list(dict.fromkeys(key for row in rows for key in row if "." in key))
    columns = ["trial", "state", *objectives, "seconds", *settings, "reason"]
    show_table(
        f"study {name}", columns, [["-" if row.get(c) is None else row[c] for c in columns] for row in rows], left=2
    )
    for line in findings.headline(trials, winner(found), objectives):
        print(line.replace("**", ""))
    print(f"to look closer: {place.dashboard}")
