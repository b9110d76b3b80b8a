"""The commands: a table of functions whose typed arguments are the flags.

Torch and anomalib cost seconds to import, so every command imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hdmap_mlflow.errors import BadInput

Root = Annotated[Path, typer.Argument(help="Data root: <root>/<domain>/{train/good,test/good,test/fault}.")]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")]
Uri = Annotated[str, typer.Option(help="MLflow store; empty: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db.")]


def _flags(root: str, source: str, targets: str, validation: str, split_seed: str, seed: str) -> dict[str, str]:
    """What the command line says of the data and the seeds, by setting."""
    return {
        "data.root": root,
        "data.source_domain": source,
        "data.target_domains": targets,
        "data.validation": validation,
        "data.split_seed": split_seed,
        "train.seed": seed,
    }


def train(
    model: Annotated[str, typer.Argument(help="A model of the registry, or package.module:Class.")] = "patchcore",
    data_root: Annotated[str, typer.Option(help="Folder with the domains, or demo (small, simulated).")] = "demo",
    source_domain: Annotated[str, typer.Option(help="The domain to train on.")] = "domain_A",
    target_domains: Annotated[str, typer.Option(help="auto (all others) or a comma list.")] = "auto",
    condition: Annotated[str, typer.Option(help="A condition of the model's file.")] = "quickstart",
    conditions: Annotated[str, typer.Option(help="A condition file of your own; empty: the packaged one.")] = "",
    validation: Annotated[str, typer.Option(help="source_holdout, source_test or synthetic.")] = "source_holdout",
    seed: Annotated[str, typer.Option(help="Seed of weights, shuffling and synthetic training faults.")] = "0",
    split_seed: Annotated[str, typer.Option(help="Seed of the validation split.")] = "0",
    overrides: Annotated[str, typer.Option(help='e.g. "model.num_neighbors=5,train.max_epochs=3".')] = "",
) -> None:
    """Train a model on one domain, evaluate it on all, record the run in MLflow."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import flow, setup

    flags = _flags(data_root, source_domain, target_domains, validation, split_seed, seed)
    try:
        config = setup.configure(model, condition, conditions or None, flags, overrides)
        result = flow.execute(config)
    except BadInput as problem:
        tracking.fail_project_run(str(problem))
        raise
    result.show()
    print(f"\nrun {result.run_id}; to compare runs: {tracking.ui_command(result.uri)}")


def simulate(
    out: Out,
    train: Annotated[int, typer.Option(help="Healthy training maps a domain.")] = 400,
    test: Annotated[int, typer.Option(help="Good and as many fault test maps a domain.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the maps.")] = 0,
    gain_confound: Annotated[bool, typer.Option(help="Recordings of good and fault differ in gain.")] = True,
) -> None:
    """Write four SIMULATED domains with the published statistics of HDMAP."""
    from hdmap_mlflow.data.simulate import simulate as write

    root = write(out, train, test, seed, gain_confound)
    print(f"simulated maps are in {root}; they say nothing about a real gearbox")


def import_mat(
    spec: Annotated[Path, typer.Argument(help="JSON or YAML: domain -> files, scaling, counts, seed.")],
    source: Annotated[Path, typer.Option(help="Folder that holds the .mat files.")],
    out: Out,
) -> None:
    """Convert the raw .mat files (variable Xdata) to the folder layout."""
    from hdmap_mlflow.data.matfiles import import_mat as convert

    convert(spec, source, out)
    check_data(out)


def rescore(
    run: Annotated[str, typer.Option(help="Id of one run.")] = "",
    experiment: Annotated[str, typer.Option(help="All finished runs of an experiment.")] = "hdmap",
    uri: Uri = "",
) -> None:
    """Recompute every metric of finished runs from their stored scores and log what is new; needs no GPU."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import history, rescore

    store = tracking.absolute_uri(uri or None)
    records, left_out = ([history.read_run(store, run)], []) if run else history.read_experiment(store, experiment)
    for record in records:
        done = rescore.rescore(store, record)
        print(f"{done.name} ({done.run_id[:8]}): {len(done.new)} new, {len(done.changed)} changed "
              f"{', '.join([*done.new, *done.changed][:4])}".rstrip())  # fmt: skip
    for line in left_out:
        print(f"left out: {line}")


def verify(
    run_id: Annotated[str, typer.Argument(help="Id of a finished run.")],
    maps: Annotated[int, typer.Option(help="Maps a domain that are scored again.", min=1)] = 16,
    data_root: Annotated[str, typer.Option(help="Where the data is on this machine; empty: as the run had it.")] = "",
    uri: Uri = "",
) -> None:
    """Reload a run's checkpoint, score a sample again, compare with the stored scores; exit code 1 if they differ."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import verify

    found = verify.verify(tracking.absolute_uri(uri or None), run_id, maps, data_root or None)
    for domain, difference in found.differences.items():
        print(f"{domain}: largest difference {difference:.2g} sd of its stored scores")
    print("verified" if found.holds else f"NOT verified: the tolerance is {verify.TOLERANCE:g} sd")
    if not found.holds:
        raise typer.Exit(1)


def export(
    run_id: Annotated[str, typer.Argument(help="Id of a finished run.")],
    out: Out,
    uri: Uri = "",
) -> None:
    """Write a run's pictures, scores and result in the guideline's folder form."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import export

    print(f"wrote {export.export(tracking.absolute_uri(uri or None), run_id, out)}")


def report(
    experiment: Annotated[str, typer.Option(help="The experiment whose finished runs are reported.")] = "hdmap",
    out: Annotated[Path, typer.Option(help="Folder for report.html, report.md and report.csv.")] = Path("report"),
    validation: Annotated[str, typer.Option(help="Only runs of this protocol; empty: all, which must agree.")] = "",
    data_digest: Annotated[str, typer.Option(help="Only runs on this data; empty: all, which must agree.")] = "",
    uri: Uri = "",
) -> None:
    """Compare an experiment's finished runs: transfer matrix, leaderboard, selection rules; HTML, Markdown and CSV."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.report.sections import headline
    from hdmap_mlflow.report.write import write_report

    store = tracking.absolute_uri(uri or None)
    page, tables = write_report(store, experiment, out, validation or None, data_digest or None)
    print("\n".join(line.replace("**", "") for line in headline(tables)))
    print(f"\nwrote {page}, and report.md and report.csv beside it")


def check_data(root: Root) -> None:
    """Print a table of every domain and every problem found; exit code 1 if there is one."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.data import layout

    frame, problems = layout.check(layout.find_root(str(root)))
    show_table(str(root), list(frame.columns), list(frame.itertuples(index=False)), left=2)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found")
    if problems:
        raise typer.Exit(1)


def grid(
    models: Annotated[str, typer.Option(help="Comma list, or all. Default: patchcore.")] = "",
    conditions: Annotated[str, typer.Option(help="Comma list, or all. Default: quickstart.")] = "",
    sources: Annotated[str, typer.Option(help="Comma list, or all (default).")] = "",
    targets: Annotated[str, typer.Option(help="auto (all other domains, default) or a comma list.")] = "",
    seeds: Annotated[str, typer.Option(help="Comma list. Default: 0.")] = "",
    data_root: Annotated[str, typer.Option(help="Folder with the domains. Default: demo.")] = "",
    validation: Annotated[str, typer.Option(help="source_holdout (default), source_test or synthetic.")] = "",
    split_seed: Annotated[str, typer.Option(help="Seed of the validation split. Default: 0.")] = "",
    overrides: Annotated[str, typer.Option(help='For every run, e.g. "train.max_epochs=3".')] = "",
    condition_file: Annotated[str, typer.Option(help="A condition file of your own.")] = "",
    grid: Annotated[str, typer.Option(help="YAML file with the flags above, or a list of such blocks.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run; start nothing.")] = False,
    retry: Annotated[str, typer.Option(help="Run again: failed, running (of a host that is gone).")] = "",
    force: Annotated[bool, typer.Option("--force", help="Run everything, finished or not.")] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Each run so many times.")] = 1,
    jobs: Annotated[int, typer.Option(min=0, help="Runs at once; 0: as many as fit.")] = 0,
    gpus_per_run: Annotated[float, typer.Option(help="Fractions allowed; -1: one where there are any.")] = -1,
    cpus_per_run: Annotated[float, typer.Option(min=0, help="Threads of a run; 0: divided evenly.")] = 0,
    memory_per_run: Annotated[float, typer.Option(min=0, help="Limit in MB; 0: none.")] = 0,
    run_timeout: Annotated[float, typer.Option(min=0, help="Limit of a run in seconds; 0: none.")] = 0,
    stagger: Annotated[float, typer.Option(min=0, help="Seconds between two starts.")] = 5,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Without Ray; in order, unless --jobs says more.")] = False,
    ray_address: Annotated[str, typer.Option(help="A Ray cluster's HOST:PORT or auto; empty: this machine.")] = "",
    wait_idle: Annotated[bool, typer.Option("--wait-idle", help="Each run waits until its GPU is idle.")] = False,
    idle_utilisation: Annotated[float, typer.Option(min=0, max=100, help="Idle is up to so many percent ...")] = 10,
    idle_memory: Annotated[float, typer.Option(min=0, help="... and so many MB.")] = 2000,
    max_wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for idle GPUs.")] = 3600,
) -> None:
    """Run models x conditions x sources x seeds over all GPUs; what is finished is not run again."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.execution.gpus import Idle
    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.execution.task import Share
    from hdmap_mlflow.grid import driver
    from hdmap_mlflow.grid import plan as planning

    idle = Idle(utilisation=idle_utilisation, memory_mb=idle_memory, max_wait=max_wait) if wait_idle else None
    share = Share(cpus=cpus_per_run, gpus=None if gpus_per_run < 0 else gpus_per_run, memory_mb=memory_per_run,
                  timeout=run_timeout, idle=idle)  # fmt: skip
    again = frozenset(word.strip() for word in retry.split(",") if word.strip())
    wanted = {"models": models, "conditions": conditions, "sources": sources, "targets": targets, "seeds": seeds,
              "data_root": data_root, "validation": validation, "split_seed": split_seed, "overrides": overrides,
              "condition_file": condition_file}  # fmt: skip
    try:
        launch = Launch(share, jobs, not no_ray, ray_address, stagger=stagger, retry=again, force=force)
        cells = planning.expand(planning.read_blocks({k: v or None for k, v in wanted.items()}, grid), repeat)
        store = driver.open_store(cells)
        cells = planning.look_up(cells, store)
        (driver.show_plan if plan else driver.carry_out)(cells, store, launch)
    except BadInput as problem:
        tracking.fail_project_run(str(problem))
        raise


def tune(
    model: Annotated[str, typer.Argument(help="A model of the registry, or package.module:Class.")] = "patchcore",
    trials: Annotated[int, typer.Option(help="Trials of the study in all, the baseline among them.")] = 20,
    timeout: Annotated[float, typer.Option(help="Seconds after which no trial is started; 0: no limit.")] = 0,
    objective: Annotated[
        str, typer.Option(help="val_auroc, or val_auroc,seconds or val_auroc,memory; target_mean: an oracle.")
    ] = "val_auroc",
    sampler: Annotated[str, typer.Option(help="tpe, random, gp, qmc, nsga2 or cmaes.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="median, hyperband or none; empty: median where epochs train.")] = "",
    storage: Annotated[
        str, typer.Option(help="sqlite:///FILE, journal://FILE, postgresql://..., mysql://...")
    ] = "sqlite:///optuna.db",
    study: Annotated[str, typer.Option(help="Name; one that exists goes on. Empty: model_condition_source.")] = "",
    refit_seeds: Annotated[
        str, typer.Option(help="Winner and baseline are trained again on these; empty: no.")
    ] = "0,1,2",
    status: Annotated[bool, typer.Option("--status", help="Print the study so far; start nothing.")] = False,
    data_root: Annotated[str, typer.Option(help="Folder with the domains, or demo (small, simulated).")] = "demo",
    source_domain: Annotated[str, typer.Option(help="The domain to train on.")] = "domain_A",
    target_domains: Annotated[str, typer.Option(help="For the refits: auto (all others) or a comma list.")] = "auto",
    condition: Annotated[str, typer.Option(help="What is not searched, and the search itself.")] = "baseline",
    conditions: Annotated[str, typer.Option(help="A condition file of your own; empty: the packaged one.")] = "",
    validation: Annotated[str, typer.Option(help="source_holdout, source_test or synthetic.")] = "source_holdout",
    seed: Annotated[str, typer.Option(help="Seed of the trials' training and of the sampler.")] = "0",
    split_seed: Annotated[str, typer.Option(help="Seed of the validation split.")] = "0",
    overrides: Annotated[str, typer.Option(help="For every trial; what stands here is not searched.")] = "",
    jobs: Annotated[int, typer.Option(min=0, help="Trials at once; 0: as many as fit.")] = 1,
    gpus_per_run: Annotated[float, typer.Option(help="Fractions allowed; -1: one where there are any.")] = -1,
    cpus_per_run: Annotated[float, typer.Option(min=0, help="Threads of a trial; 0: divided evenly.")] = 0,
    memory_per_run: Annotated[float, typer.Option(min=0, help="Limit in MB; 0: none.")] = 0,
    run_timeout: Annotated[float, typer.Option(min=0, help="Limit of a trial in seconds; 0: none.")] = 0,
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Without Ray; so it is with --jobs 1 anyway.")] = False,
    ray_address: Annotated[str, typer.Option(help="A Ray cluster's HOST:PORT or auto; empty: this machine.")] = "",
) -> None:
    """Search a model's settings on source validation; each trial is a run of its own. The same command resumes."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.execution.task import Share
    from hdmap_mlflow.tuning import driver, search

    flags = _flags(data_root, source_domain, target_domains, validation, split_seed, seed)
    wanted = search.SearchRequest(model, condition, conditions, flags, overrides, objective, trials, timeout, sampler,
                                  pruner, storage, study, refit_seeds)  # fmt: skip
    share = Share(cpus=cpus_per_run, gpus=None if gpus_per_run < 0 else gpus_per_run, memory_mb=memory_per_run,
                  timeout=run_timeout)  # fmt: skip
    try:
        if status:
            driver.status(wanted)
        else:
            ray = not no_ray and (jobs != 1 or bool(ray_address))
            driver.tune(search.check(wanted), Launch(share, jobs, ray, ray_address, stagger=0))
    except BadInput as problem:
        tracking.fail_project_run(str(problem))
        raise


def gpus(
    idle_utilisation: Annotated[float, typer.Option(min=0, max=100, help="Idle is up to so many percent ...")] = 10,
    idle_memory: Annotated[float, typer.Option(min=0, help="... and so many MB.")] = 2000,
) -> None:
    """Print every NVIDIA GPU of this machine and whether it is idle; exit code 1 if none is."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.execution.gpus import Idle, visible

    idle, found = Idle(utilisation=idle_utilisation, memory_mb=idle_memory), visible()
    rows = [[g.index, g.name, f"{g.utilisation:g} %", f"{g.used_mb:,.0f} of {g.total_mb:,.0f}", g.processes,
             "idle" if idle.holds(g) else "busy"] for g in found]  # fmt: skip
    if rows:
        show_table("GPUs", ("GPU", "name", "used", "MB", "processes", "is"), rows, left=2)
    print(f"{sum(map(idle.holds, found))} of {len(found)} GPUs idle" if found else "no NVIDIA GPU, or no driver for it")
    if not any(map(idle.holds, found)):
        raise typer.Exit(1)


def models(
    name: Annotated[str, typer.Argument(help="One model, with all its settings; empty: the table of all.")] = "",
) -> None:
    """Print the registry: which models there are, what each needs, its conditions and its paper."""
    from hdmap_mlflow.cli import catalogue

    catalogue.show_model(name) if name else catalogue.show_models()


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "simulate": simulate,
    "import-mat": import_mat,
    "check-data": check_data,
    "grid": grid,
    "tune": tune,
    "gpus": gpus,
    "models": models,
    "rescore": rescore,
    "verify": verify,
    "export": export,
    "report": report,
}

app = typer.Typer(
    name="hdmap",
    help="Anomaly detection on gearbox health data maps: one flow and one honest record for every model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _name, _function in COMMANDS.items():
    app.command(_name)(_function)
