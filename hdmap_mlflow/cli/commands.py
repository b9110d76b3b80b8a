"""The commands: functions whose typed arguments are the flags.

Torch and anomalib cost seconds to import, so every command imports what it needs when it is called. Each reads its
options, calls what does the work, and prints; the number that it returns is the exit code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hdmap_mlflow.cli.app import app
from hdmap_mlflow.cli.options import (
    Amount,
    DataOptions,
    Folder,
    IdleOptions,
    Jobs,
    Limit,
    Maps,
    Model,
    Out,
    Positive,
    Reals,
    RepairOptions,
    RunOptions,
    ShareOptions,
    Switch,
    Text,
    Uri,
    Whole,
    Wholes,
    given,
    of,
    says,
)
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import expanded

BLOCK, SEARCH, SIMULATE = "grid.plan:Block", "tuning.request:SearchRequest", "data.simulate:simulate"
VIBRATION = "signals.simulate:simulate_vibration"


@app.command
def train(
    model: Model = None,
    /,
    *,
    condition: Annotated[
        Text, says("A condition of the model's file.", of("runs.setup:configure", "condition"))
    ] = None,
    run: RunOptions = RunOptions(),
    repair: RepairOptions = RepairOptions(),
) -> None:
    """Train a model on one domain, evaluate it on all, record the run in MLflow."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.cli.show import show
    from hdmap_mlflow.runs import flow, setup

    said = given(model=model, condition=condition, conditions=run.condition_file, overrides=run.overrides)
    result = flow.execute(setup.configure(**said, flags=run.flags() | repair.flags()))
    show(result)
    print(f"\nrun {result.run_id}; {tracking.invitation(result.uri, result.run_id)}")


@app.command
def simulate(
    *,
    out: Out,
    train: Annotated[Maps, says("Healthy training maps per domain.", of(SIMULATE, "train"))] = None,
    test: Annotated[Maps, says("Good and as many fault test maps per domain.", of(SIMULATE, "test"))] = None,
    seed: Annotated[Whole, says("Seed of the maps.", of(SIMULATE, "seed"))] = None,
    gain_confound: Annotated[
        bool | None, says("Recordings of good and fault differ in gain.", of(SIMULATE, "gain_confound"))
    ] = None,
    difficulty: Annotated[
        Text, says("published (as PatchCore and PaDiM find the real maps) or hard.", of(SIMULATE, "difficulty"))
    ] = None,
    recordings: Annotated[
        Whole, says("Cold and as many warm recordings per split; 0: independent maps.", of(SIMULATE, "recordings"))
    ] = None,
) -> None:
    """Write four SIMULATED domains with the published statistics of HDMAP."""
    from hdmap_mlflow.data.simulate import simulate as write

    counts = given(train=train, test=test, seed=seed, recordings=recordings)
    root = write(out, **counts, **given(gain_confound=gain_confound, difficulty=difficulty))
    print(f"simulated maps are in {root}; they say nothing about a real gearbox")


@app.command
def simulate_vibration(
    *,
    out: Out,
    train: Annotated[Maps, says("Healthy recordings to train on.", of(VIBRATION, "train"))] = None,
    test: Annotated[Maps, says("Recordings of each state to test on.", of(VIBRATION, "test"))] = None,
    maps: Annotated[Maps, says("Maps that a recording is long enough for.", of(VIBRATION, "maps"))] = None,
    averages: Annotated[Maps, says("Periods averaged in a map.", of(VIBRATION, "averages"))] = None,
    severities: Annotated[Reals, says("Damage, in amplitudes of the mesh.", of(VIBRATION, "severities"))] = None,
    teeth: Annotated[Wholes, says("Damaged teeth of the first planet.", of(VIBRATION, "teeth"))] = None,
    noise: Annotated[Amount, says("Its sd, in amplitudes of the mesh.", of(VIBRATION, "noise"))] = None,
    deviation: Annotated[
        Amount, says("Of healthy teeth, sd in amplitudes of the mesh.", of(VIBRATION, "deviation"))
    ] = None,
    encoder: Annotated[
        Text, says("sound, offset, once_a_turn, drift or missing (pulses).", of(VIBRATION, "encoder"))
    ] = None,
    seed: Annotated[Whole, says("Seed of the recordings.", of(VIBRATION, "seed"))] = None,
) -> None:
    """Write SIMULATED vibration of a planetary gearbox and the spec with which build-maps takes it."""
    from hdmap_mlflow.signals.simulate import SPEC
    from hdmap_mlflow.signals.simulate import simulate_vibration as write

    counts = given(train=train, test=test, maps=maps, averages=averages, seed=seed)
    damage = given(severities=severities, teeth=teeth, noise=noise, deviation=deviation, encoder=encoder)
    root = write(out, **counts, **damage)
    print(f"simulated vibration is in {root}; it says nothing about a real gearbox")
    print(f"next: hdmap build-maps {root / SPEC} --out maps")


@app.command
def import_mat(
    spec: Annotated[Folder, says("JSON or YAML: domain -> files, scaling, counts, seed.")],
    /,
    *,
    source: Annotated[Folder, says("Folder that holds the .mat files.")],
    out: Out,
) -> int:
    """Convert the raw .mat files (variable Xdata) to the folder layout."""
    from hdmap_mlflow.data.matfiles import import_mat as convert

    convert(spec, source, out)
    return check_data(out)


@app.command
def build_maps(
    spec: Annotated[str, says("YAML: gears, records, phase references; or demo (small, simulated).")] = "demo",
    /,
    *,
    source: Annotated[Text, says("Folder that holds the records.", "the spec's own")] = None,
    out: Out = Path("maps"),
) -> int:
    """Build HDMAP-style maps from vibration and a phase reference; one that was interrupted goes on."""
    from hdmap_mlflow.report import sheets
    from hdmap_mlflow.signals import build

    path = build.demo() if spec == "demo" else expanded(spec)
    build.build_maps(path, expanded(source) if source else path.parent, out)
    print(f"pictures: {sheets.show(out, out / sheets.PAGE)}")
    return check_data(out)


@app.command
def show(
    place: Annotated[Folder, says("Data root, map, spec of records, the folder with its SPEC.yaml, or a record.")],
    /,
    *,
    out: Annotated[Folder, says("The picture: a name that ends in .png or .html.")],
) -> None:
    """Draw records, or maps and what they were built from: spectrum, average, difference, halves."""
    from hdmap_mlflow.report import sheets

    print(sheets.show(place, out))


@app.command
def check_data(
    root: Annotated[Folder, says("Data root: <root>/<domain>/{train/good,test/good,test/fault}.")], /
) -> int:
    """Print a table of every domain and every problem found; exit code 1 if there is one."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.data.built import built as how_built

    frame, problems = layout.check(place := layout.find_root(str(root)))
    show_table(str(root), list(frame.columns), list(frame.itertuples(index=False)), left=2)
    if built := how_built(place):
        print(built)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found")
    return int(bool(problems))


@app.command
def grid(
    *,
    models: Annotated[Text, says("Comma list, or all.", of(BLOCK, "models"))] = None,
    conditions: Annotated[Text, says("Comma list, or all.", of(BLOCK, "conditions"))] = None,
    sources: Annotated[
        Text, says("Comma list (A+B: trained on both), all, or leave-one-out.", of(BLOCK, "sources"))
    ] = None,
    targets: Annotated[Text, says("auto (all other domains) or a comma list.", of(BLOCK, "targets"))] = None,
    seeds: Annotated[Text, says("Comma list.", of(BLOCK, "seeds"))] = None,
    adapters: Annotated[
        Text, says("What each run is adapted with: source_only,z,merge+z.", "z where k is given")
    ] = None,
    k: Annotated[Text, says("With so many healthy maps of each target: 0,4,16,64.", "none")] = None,
    data: DataOptions = DataOptions(),
    grid: Annotated[Text, says("YAML file with the flags above, or a list of such blocks.")] = None,
    plan: Annotated[Switch, says("Show what would run; start nothing.")] = False,
    retry: Annotated[Text, says("Run again: failed, running (of a host that is gone).")] = None,
    force: Annotated[Switch, says("Run everything, finished or not.")] = False,
    repeat: Annotated[Positive, says("Each run so many times.", of("grid.driver:run", "repeat"))] = None,
    jobs: Annotated[Jobs, says("Runs at once; 0: as many as fit.")] = None,
    share: ShareOptions = ShareOptions(),
    stagger: Annotated[Amount, says("Seconds between two starts.", "5 through Ray, else 0")] = None,
    wait_idle: Annotated[Switch, says("Each run waits until its GPU is idle.")] = False,
    idle: IdleOptions = IdleOptions(),
    max_wait: Annotated[Amount, says("Seconds to wait for idle GPUs.", "as long as it takes")] = None,
) -> None:
    """Run models x conditions x sources x seeds over all GPUs; what is finished is not run again."""
    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.grid import driver

    flags = {**vars(data), "models": models, "conditions": conditions, "sources": sources, "targets": targets}
    if not wait_idle and (max_wait is not None or idle != IdleOptions()):
        raise BadInput("--max-wait, --idle-utilisation and --idle-memory say nothing without --wait-idle; give it, too")
    again = frozenset(word.strip() for word in (retry or "").split(",") if word.strip())
    launch = Launch(
        share.share(idle.idle(max_wait) if wait_idle else None),
        jobs,
        False if share.no_ray else None,
        share.ray_address,
        retry=again,
        force=force,
        **given(stagger=stagger),
    )
    driver.run(
        {**flags, "seeds": seeds, "adapters": adapters, "k": k}, grid, launch, plan_only=plan, **given(repeat=repeat)
    )


@app.command
def tune(
    model: Model = None,
    /,
    *,
    trials: Annotated[Whole, says("Trials in all, the baseline among them.", of(SEARCH, "trials"))] = None,
    timeout: Annotated[Limit, says("Seconds after which no trial is started; 0: no limit.")] = None,
    objective: Annotated[
        Text,
        says("val_auroc; with seconds or memory: val_auroc,seconds; target_mean: an oracle.", of(SEARCH, "objective")),
    ] = None,
    sampler: Annotated[Text, says("tpe, random, gp, qmc, nsga2 or cmaes.", of(SEARCH, "sampler"))] = None,
    pruner: Annotated[Text, says("median, hyperband or none.", "median where epochs train")] = None,
    storage: Annotated[
        Text, says("sqlite:///FILE, journal://FILE, postgresql://..., mysql://...", of(SEARCH, "storage"))
    ] = None,
    study: Annotated[Text, says("Name; one that exists goes on.", "MODEL_CONDITION_SOURCE")] = None,
    refit_seeds: Annotated[
        str | None, says("Winner and baseline are trained again on these; empty: no.", of(SEARCH, "refit_seeds"))
    ] = None,
    status: Annotated[Switch, says("Print the study so far; start nothing.")] = False,
    condition: Annotated[Text, says("What is not searched, and the search itself.", of(SEARCH, "condition"))] = None,
    run: RunOptions = RunOptions(),
    repair: RepairOptions = RepairOptions(),
    jobs: Annotated[Jobs, says("Trials at once; 0: as many as fit.")] = 1,
    share: ShareOptions = ShareOptions(),
) -> None:
    """Search a model's settings on source validation; each trial is a run of its own. The same command resumes."""
    from hdmap_mlflow.execution.launch import Launch
    from hdmap_mlflow.tuning import driver, search

    said = given(
        model=model,
        condition=condition,
        condition_file=run.condition_file,
        overrides=run.overrides,
        objective=objective,
        trials=trials,
        timeout=timeout,
        sampler=sampler,
        pruner=pruner,
        storage=storage,
        study=study,
        refit_seeds=refit_seeds,
    )
    wanted = search.SearchRequest(**said, flags=run.flags() | repair.flags())
    if status:
        driver.status(wanted)
    else:
        alone = share.no_ray or (jobs == 1 and share.ray_address is None)
        launch = Launch(share.share(), jobs, False if alone else None, share.ray_address, stagger=0)
        launch.check()
        driver.tune(search.check(wanted, launch.warm), launch)


@app.command
def gpus(*, idle: IdleOptions = IdleOptions()) -> int:
    """Print every NVIDIA GPU of this machine and whether it is idle; exit code 1 if none is."""
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.execution.gpus import visible

    free, there = idle.idle().holds, visible()
    rows = [
        [
            g.index,
            g.name,
            f"{g.utilisation:g} %",
            f"{g.used_mb:,.0f} of {g.total_mb:,.0f}",
            g.processes,
            "idle" if free(g) else "busy",
        ]
        for g in there
    ]
    if rows:
        show_table("GPUs", ("GPU", "name", "used", "MB", "processes", "is"), rows, left=2)
    print(f"{sum(map(free, there))} of {len(there)} GPUs idle" if there else "no NVIDIA GPU, or no driver for it")
    return int(not any(map(free, there)))


@app.command
def models(
    name: Annotated[Text, says("One model, with all its settings.", "all")] = None,
    /,
    *,
    registered: Annotated[Switch, says("What hdmap promote put into MLflow's registry instead.")] = False,
    uri: Uri = None,
) -> None:
    """Print the registry: which models there are, what each needs, its conditions and its paper."""
    from hdmap_mlflow.cli import catalogue

    if registered:
        return catalogue.show_registered(uri, name)
    catalogue.show_model(name) if name else catalogue.show_models()
