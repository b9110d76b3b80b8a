"""The commands: functions whose typed arguments are the flags.

Torch and anomalib cost seconds to import, so every command imports what it needs when it is called. Each reads its
options, calls what does the work, and prints; the number that it returns is the exit code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import App

from hdmap_mlflow.cli.options import (
    IDLE,
    NOT_NEGATIVE,
    POSITIVE,
    SWITCH,
    TRACKING,
    Count,
    DataOptions,
    Experiment,
    IdleOptions,
    Limit,
    Model,
    Out,
    RunId,
    RunOptions,
    ShareOptions,
    Text,
    Uri,
    Whole,
    WholeOrNone,
    default_of,
    given,
    says,
)
from hdmap_mlflow.config.conditions import DEFAULT_CONDITION, DEFAULT_MODEL
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.grid.block import Block
from hdmap_mlflow.tuning.request import SearchRequest

BLOCK, of_simulate = Block(), partial(default_of, "data.simulate:simulate")

app = App(
    name="hdmap",
    help="Anomaly detection on gearbox health data maps: one flow and one honest record for every model.",
    version_flags=(),
    help_format="plaintext",  # anything else imports a Markdown parser
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
)


@app.command
def train(
    model: Model = DEFAULT_MODEL,
    /,
    *,
    condition: Annotated[str, says("A condition of the model's file.")] = DEFAULT_CONDITION,
    run: RunOptions = RunOptions(),
) -> None:
    """Train a model on one domain, evaluate it on all, record the run in MLflow."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import flow, setup

    result = flow.execute(setup.configure(model, condition, run.condition_file, run.flags(), run.overrides or ""))
    result.show()
    print(f"\nrun {result.run_id}; to compare runs: {tracking.ui_command(result.uri)}")


@app.command
def simulate(
    *,
    out: Out,
    train: Annotated[WholeOrNone, says("Healthy training maps per domain.", of_simulate("train"))] = None,
    test: Annotated[WholeOrNone, says("Good and as many fault test maps per domain.", of_simulate("test"))] = None,
    seed: Annotated[WholeOrNone, says("Seed of the maps.", of_simulate("seed"))] = None,
    gain_confound: Annotated[
        bool | None, says("Recordings of good and fault differ in gain.", of_simulate("gain_confound"))
    ] = None,
) -> None:
    """Write four SIMULATED domains with the published statistics of HDMAP."""
    from hdmap_mlflow.data.simulate import simulate as write

    root = write(out, **given(train=train, test=test, seed=seed, gain_confound=gain_confound))
    print(f"simulated maps are in {root}; they say nothing about a real gearbox")


@app.command
def import_mat(
    spec: Annotated[Path, says("JSON or YAML: domain -> files, scaling, counts, seed.")],
    /,
    *,
    source: Annotated[Path, says("Folder that holds the .mat files.")],
    out: Out,
) -> int:
    """Convert the raw .mat files (variable Xdata) to the folder layout."""
    from hdmap_mlflow.data.matfiles import import_mat as convert

    convert(spec, source, out)
    return check_data(out)


@app.command
def check_data(root: Annotated[Path, says("Data root: <root>/<domain>/{train/good,test/good,test/fault}.")], /) -> int:
    """Print a table of every domain and every problem found; exit code 1 if there is one."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.data import layout

    frame, problems = layout.check(layout.find_root(str(root)))
    show_table(str(root), list(frame.columns), list(frame.itertuples(index=False)), left=2)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found")
    return int(bool(problems))


@app.command
def grid(
    *,
    models: Annotated[Text, says("Comma list, or all.", BLOCK.models)] = None,
    conditions: Annotated[Text, says("Comma list, or all.", BLOCK.conditions)] = None,
    sources: Annotated[Text, says("Comma list, or all.", BLOCK.sources)] = None,
    targets: Annotated[Text, says("auto (all other domains) or a comma list.", BLOCK.targets)] = None,
    seeds: Annotated[Text, says("Comma list.", str(BLOCK.seeds))] = None,
    data: DataOptions = DataOptions(),
    grid: Annotated[Text, says("YAML file with the flags above, or a list of such blocks.")] = None,
    plan: Annotated[bool, SWITCH, says("Show what would run; start nothing.")] = False,
    retry: Annotated[Text, says("Run again: failed, running (of a host that is gone).")] = None,
    force: Annotated[bool, SWITCH, says("Run everything, finished or not.")] = False,
    repeat: Annotated[Whole, POSITIVE, says("Each run so many times.")] = 1,
    jobs: Annotated[Count, says("Runs at once; 0: as many as fit.")] = None,
    share: ShareOptions = ShareOptions(),
    stagger: Annotated[float, NOT_NEGATIVE, says("Seconds between two starts.")] = Launch.stagger,
    wait_idle: Annotated[bool, SWITCH, says("Each run waits until its GPU is idle.")] = False,
    idle: IdleOptions = IdleOptions(),
    max_wait: Annotated[float, NOT_NEGATIVE, says("Seconds to wait for idle GPUs.")] = IDLE.max_wait,
) -> None:
    """Run models x conditions x sources x seeds over all GPUs; what is finished is not run again."""
    from hdmap_mlflow.grid import driver

    flags = vars(data) | {"models": models, "conditions": conditions, "sources": sources, "targets": targets}
    again = frozenset(word.strip() for word in (retry or "").split(",") if word.strip())
    launch = Launch(share.share(idle.idle(max_wait) if wait_idle else None), jobs, not share.no_ray, share.ray_address,
                    stagger=stagger, retry=again, force=force)  # fmt: skip
    driver.run({**flags, "seeds": seeds}, grid, repeat, launch, plan_only=plan)


@app.command
def tune(
    model: Model = DEFAULT_MODEL,
    /,
    *,
    trials: Annotated[Whole, says("Trials of the study in all, the baseline among them.")] = (SearchRequest.trials),
    timeout: Annotated[Limit, says("Seconds after which no trial is started; 0: no limit.", "0")] = None,
    objective: Annotated[
        str, says("val_auroc, or val_auroc,seconds or val_auroc,memory; target_mean: an oracle.")
    ] = SearchRequest.objective,
    sampler: Annotated[str, says("tpe, random, gp, qmc, nsga2 or cmaes.")] = SearchRequest.sampler,
    pruner: Annotated[Text, says("median, hyperband or none.", "median where epochs train")] = None,
    storage: Annotated[str, says("sqlite:///FILE, journal://FILE, postgresql://..., mysql://...")] = (
        SearchRequest.storage
    ),
    study: Annotated[Text, says("Name; one that exists goes on.", "MODEL_CONDITION_SOURCE")] = None,
    refit_seeds: Annotated[str, says("Winner and baseline are trained again on these; empty: no.")] = (
        SearchRequest.refit_seeds
    ),
    status: Annotated[bool, SWITCH, says("Print the study so far; start nothing.")] = False,
    condition: Annotated[str, says("What is not searched, and the search itself.")] = SearchRequest.condition,
    run: RunOptions = RunOptions(),
    jobs: Annotated[Count, says("Trials at once; 0: as many as fit.")] = 1,
    share: ShareOptions = ShareOptions(),
) -> None:
    """Search a model's settings on source validation; each trial is a run of its own. The same command resumes."""
    from hdmap_mlflow.tuning import driver, search

    wanted = SearchRequest(model, condition, run.condition_file, run.flags(), run.overrides or "", objective, trials,
                           timeout, sampler, pruner, storage, study, refit_seeds)  # fmt: skip
    if status:
        driver.status(wanted)
    else:
        ray = not share.no_ray and (jobs != 1 or share.ray_address is not None)
        driver.tune(search.check(wanted), Launch(share.share(), jobs, ray, share.ray_address, stagger=0))


@app.command
def gpus(*, idle: IdleOptions = IdleOptions()) -> int:
    """Print every NVIDIA GPU of this machine and whether it is idle; exit code 1 if none is."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.execution.gpus import visible

    free, there = idle.idle().holds, visible()
    rows = [[g.index, g.name, f"{g.utilisation:g} %", f"{g.used_mb:,.0f} of {g.total_mb:,.0f}", g.processes,
             "idle" if free(g) else "busy"] for g in there]  # fmt: skip
    if rows:
        show_table("GPUs", ("GPU", "name", "used", "MB", "processes", "is"), rows, left=2)
    print(f"{sum(map(free, there))} of {len(there)} GPUs idle" if there else "no NVIDIA GPU, or no driver for it")
    return int(not any(map(free, there)))


@app.command
def models(name: Annotated[Text, says("One model, with all its settings.", "all")] = None, /):
    """Print the registry: which models there are, what each needs, its conditions and its paper."""
    from hdmap_mlflow.cli import catalogue

    catalogue.show_model(name) if name else catalogue.show_models()


@app.command
def rescore(
    *,
    run: Annotated[Text, says("Id of one run in place of an experiment's.")] = None,
    experiment: Experiment = TRACKING.experiment,
    uri: Uri = None,
) -> None:
    """Recompute every metric of finished runs from their stored scores and log what is new; needs no GPU."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import history, rescore

    store = tracking.absolute_uri(uri)
    records, left_out = ([history.read_run(store, run)], []) if run else history.read_experiment(store, experiment)
    for record in records:
        done = rescore.rescore(store, record)
        print(f"{done.name} ({done.run_id[:8]}): {len(done.new)} new, {len(done.changed)} changed "
              f"{', '.join([*done.new, *done.changed][:4])}".rstrip())  # fmt: skip
    for line in left_out:
        print(f"left out: {line}")


@app.command
def verify(
    run_id: RunId,
    /,
    *,
    maps: Annotated[
        WholeOrNone, POSITIVE, says("Maps per domain that are scored again.", default_of("runs.verify:verify", "maps"))
    ] = None,
    data_root: Annotated[Text, says("Where the data is on this machine.", "as the run had it")] = None,
    uri: Uri = None,
) -> int:
    """Reload a run's checkpoint, score a sample again, compare with the stored scores; exit code 1 if they differ."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import verify

    done = verify.verify(tracking.absolute_uri(uri), run_id, **given(maps=maps, data_root=data_root))
    for domain, difference in done.differences.items():
        print(f"{domain}: largest difference {difference:.2g} sd of its stored scores")
    print("verified" if done.holds else f"NOT verified: the tolerance is {verify.TOLERANCE:g} sd")
    return int(not done.holds)


@app.command
def export(run_id: RunId, /, *, out: Out, uri: Uri = None) -> None:
    """Write a run's pictures, scores and result in the guideline's folder form."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import export

    print(f"wrote {export.export(tracking.absolute_uri(uri), run_id, out)}")


@app.command
def report(
    *,
    experiment: Experiment = TRACKING.experiment,
    out: Annotated[Path, says("Folder for report.html, report.md and report.csv.")] = Path("report"),
    validation: Annotated[Text, says("Only runs of this protocol.", "all, which must agree")] = None,
    data_digest: Annotated[Text, says("Only runs on this data.", "all, which must agree")] = None,
    uri: Uri = None,
) -> None:
    """Compare an experiment's finished runs: transfer matrix, leaderboard, selection rules; HTML, Markdown and CSV."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.report.sections import headline
    from hdmap_mlflow.report.write import write_report

    page, tables = write_report(tracking.absolute_uri(uri), experiment, out, validation, data_digest)
    print("\n".join(line.replace("**", "") for line in headline(tables)))
    print(f"\nwrote {page}, and report.md and report.csv beside it")
