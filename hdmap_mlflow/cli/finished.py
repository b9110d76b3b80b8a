"""The commands for runs that have finished: read, scored anew, checked, written out, compared, recorded, shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.cli.app import app
from hdmap_mlflow.cli.options import (
    EXPERIMENT,
    Experiment,
    Folder,
    Out,
    Positive,
    RunId,
    Seconds,
    Switch,
    Text,
    Uri,
    Whole,
    given,
    of,
    says,
)
from hdmap_mlflow.errors import BadInput, one_line

WATCH = "runs.watch:Request"
Adapting = Annotated[Text, says("Adapters of scores, a comma list; with --reference.", "z")]
Reference = Annotated[Folder | None, says("Healthy maps of this machine, on whose scale alarms are raised.")]


def _machine(adapters: str | None, reference: Path | None) -> Document:
    """What is known of the machine whose maps are scored, as the requests of `predict` and `watch` have it."""
    from hdmap_mlflow.adaptation import chain

    return given(adapters=chain.parse(adapters) if adapters else None, reference=(reference,) if reference else None)


@app.command
def rescore(
    *,
    run: Annotated[Text, says("Id of one run in place of an experiment's.")] = None,
    sample: Annotated[Text, says("What intervals take for independent: recordings, order or maps.")] = None,
    experiment: Experiment = None,
    uri: Uri = None,
) -> None:
    """Recompute every metric of finished runs from their stored scores and log what is new; needs no GPU."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.config import TrackingConfig
    from hdmap_mlflow.runs import history, rescore

    if run and experiment:
        raise BadInput("--run and --experiment exclude each other: the id of a run is enough")
    store = tracking.absolute_uri(uri)
    name = experiment or TrackingConfig().experiment
    records, left_out = ([history.read_run(store, run)], []) if run else history.read_experiment(store, name)
    for record in records:
        try:
            done = rescore.rescore(store, record, sample)
        except BadInput as problem:
            if run:
                raise
            left_out.append(f"{record.name} ({record.run_id[:8]}): {problem}")
            continue
        print(
            f"{done.name} ({done.run_id[:8]}): {len(done.new)} new, {len(done.changed)} changed "
            f"{', '.join([*done.new, *done.changed][:4])}".rstrip()
        )
        if not done.adapted:
            left_out.append(f"{done.name} ({done.run_id[:8]}): its adaptation, for it keeps no reference scores")
    for line in left_out:
        print(f"left out: {line}")


@app.command
def verify(
    run_id: RunId,
    /,
    *,
    maps: Annotated[Positive, says("Maps per domain that are scored again.", of("runs.verify:verify", "maps"))] = None,
    data_root: Annotated[Text, says("Where the data is on this machine.", "as the run had it")] = None,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> int:
    """Reload a run's checkpoint, score a sample again, compare with the stored scores; exit code 1 if they differ."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import verify

    done = verify.verify(
        tracking.absolute_uri(uri), run_id, trust_model=trust_model, **given(maps=maps, data_root=data_root)
    )
    for domain, difference in done.differences.items():
        print(f"{domain}: largest difference {difference:.2g} sd of its stored scores")
    print("verified" if done.holds else f"NOT verified: the tolerance is {verify.TOLERANCE:g} sd")
    return int(not done.holds)


@app.command
def adapt(
    run_id: RunId,
    /,
    *,
    adapters: Annotated[Text, says("Adapters in their order, a comma list: z, or merge,z.", "z")] = None,
    k: Annotated[Positive, says("Healthy maps of each target that they get.", "none")] = None,
    data_root: Annotated[Text, says("Where the data is on this machine, or maps of new targets.")] = None,
    target_domains: Annotated[
        Text, says("New targets in it, a comma list.", "all, where the run's own are not")
    ] = None,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> None:
    """Adapt a finished run to its targets, or to new ones, by a few healthy maps of each; trains nothing."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.adaptation import chain
    from hdmap_mlflow.cli.show import show_adapted
    from hdmap_mlflow.runs import adapt

    names, targets = (
        chain.parse(adapters or "z"),
        [one.strip() for one in (target_domains or "").split(",") if one.strip()],
    )
    card = adapt.adapt(tracking.absolute_uri(uri), run_id, names, k or 0, data_root, targets, trust_model)
    show_adapted(card, chain.words(names), k or 0)


@app.command
def predict(
    run: Annotated[str, says("Id of a finished run, models:/NAME@ALIAS, or a folder that hdmap export wrote.")],
    paths: Annotated[list[Path], says("Maps, or folders of maps at any depth.")],
    /,
    *,
    out: Annotated[Folder, says("The table to write, .csv or .parquet; must not exist.")] = Path("scores.csv"),
    threshold: Annotated[
        Text, says("normal_q99, normal_q95, F1 or youden.", of("runs.predict:Request", "threshold"))
    ] = None,
    heatmaps: Annotated[Whole, says("Pictures of so many maps with the highest scores.")] = None,
    adapters: Adapting = None,
    reference: Reference = None,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> None:
    """Score new maps with a run's model: scores, p values, alarms, and whether the maps are unlike those it knows."""
    import sys

    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import predict

    said = given(threshold=threshold, heatmaps=heatmaps) | _machine(adapters, reference)
    asked = predict.Request(run, paths, out, trust_model=trust_model, **said)
    done = predict.predict(tracking.absolute_uri(uri), asked)
    print(f"{done.maps} maps in {out}, {done.alarms} above the threshold")
    if heatmaps:
        print(f"pictures in {asked.pictures}")
    for line in done.warnings:
        print(f"hdmap: {line}", file=sys.stderr)


@app.command
def promote(
    run_id: RunId,
    /,
    *,
    name: Annotated[str, says("The name in MLflow's registry.")],
    alias: Annotated[
        Text, says("models:/NAME@ALIAS is this version from now on.", of("runs.promote:promote", "alias"))
    ] = None,
    data_root: Annotated[Text, says("Where the data is on this machine.", "as the run had it")] = None,
    anyway: Annotated[Switch, says("Also an oracle, source_test, simulated maps, random weights, other data.")] = False,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> None:
    """Verify a run, and register its model in MLflow: models:/NAME@ALIAS."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import promote

    said = given(alias=alias, data_root=data_root)
    done = promote.promote(tracking.absolute_uri(uri), run_id, name, anyway=anyway, trust_model=trust_model, **said)
    for objection in done.objections:
        print(f"note: it {objection}")
    print(f"registered models:/{done.name}@{done.alias}, version {done.version}")


@app.command
def watch(
    run_id: Annotated[str, says("Id of a finished run, models:/NAME@ALIAS, or an exported folder.")],
    folder: Annotated[Folder, says("Folder in which new maps appear, at any depth.")],
    /,
    *,
    every: Annotated[Seconds, says("Seconds between two looks.", of(WATCH, "every"))] = None,
    alarm: Annotated[Text, says("An alarm: MofN maps above the threshold.", of(WATCH, "alarm"))] = None,
    threshold: Annotated[Text, says("normal_q99, normal_q95, F1 or youden.", of(WATCH, "threshold"))] = None,
    out: Annotated[Folder | None, says("Folder of the log.", "results/watch/RUN_ID")] = None,
    adapters: Adapting = None,
    reference: Reference = None,
    looks: Annotated[Positive, says("End after so many looks.", "until Ctrl-C")] = None,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> None:
    """Score every new map of a folder: a Parquet log, a run of kind watch in MLflow, alarms; until Ctrl-C."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import watch

    said = given(every=every, alarm=alarm, threshold=threshold, out=out) | _machine(adapters, reference)
    request = watch.Request(run_id, folder, trust_model=trust_model, **said)
    log = watch.watch(tracking.absolute_uri(uri), request, lambda line: print(line, flush=True), looks)
    print(f"{len(log)} maps in {request.place() / watch.LOG}; to go on: the same command")


@app.command
def export(run_id: RunId, /, *, out: Out, uri: Uri = None) -> None:
    """Write a run's pictures, scores and result in the guideline's folder form."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import export

    print(f"wrote {export.export(tracking.absolute_uri(uri), run_id, out)}")


@app.command
def export_onnx(
    run_id: RunId,
    /,
    *,
    out: Annotated[Folder | None, says("The file to write; must not exist.", "RUN_ID.onnx")] = None,
    data_root: Annotated[Text, says("Where the data is on this machine.", "as the run had it")] = None,
    trust_model: Annotated[Switch, says("Import a class that is not of the registry, from the run's record.")] = False,
    uri: Uri = None,
) -> None:
    """Write a run's model as an ONNX file, once onnxruntime gives the same scores on a sample of its maps."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.models import onnx
    from hdmap_mlflow.runs import export

    done = export.export_onnx(tracking.absolute_uri(uri), run_id, out, data_root, trust_model)
    height, width = done.size
    print(f"wrote {done.path}: {onnx.MAPS}, float32 (n, {height}, {width}), to {onnx.SCORE}, float32 (n,)")
    print(f"largest difference from the run's model {done.difference:.2g} sd of its scores")
    print("thresholds: " + ", ".join(f"{name} {value:.9g}" for name, value in done.thresholds.items()))


@app.command
def upload(
    folders: Annotated[list[Path], says("Folders of runs, as they were named when their store failed.")],
    /,
    *,
    uri: Annotated[Text, says("MLflow store.", "the one that the run was for")] = None,
) -> None:
    """Record runs that were computed while their store was away; what is recorded already is left as it is."""
    from hdmap_mlflow.runs import upload

    for done in upload.upload(folders, uri):
        print(
            f"{done.name}: run {done.run_id} {'was recorded before' if done.before else 'is recorded'}, {done.status}"
        )


@app.command
def clean(
    *,
    runs: Annotated[Text, says("Remove runs that ended so, too: failed, killed.", "none")] = None,
    cache: Annotated[Switch, says("Empty the cache, too; what it holds is made again.")] = False,
    dry_run: Annotated[Switch, says("Say what would go; remove nothing.")] = False,
    results: Annotated[Folder | None, says("The tracking.output_dir of the runs.", "results")] = None,
    experiment: Annotated[Text, says("The experiment of --runs.", EXPERIMENT)] = None,
    uri: Uri = None,
) -> int:
    """Remove files of runs that MLflow has as well, runs that failed, the cache; exit code 1 if something stayed."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.config import TrackingConfig
    from hdmap_mlflow.runs import clean

    if not runs and (experiment or uri):
        raise BadInput("--experiment and --uri say nothing without --runs; give it, too")
    if results and not results.is_dir():
        raise BadInput(f"--results {results} is no folder; give the tracking.output_dir of the runs")
    ends = tuple(word.strip() for word in (runs or "").split(",") if word.strip())
    name = experiment or TrackingConfig().experiment
    waste, left = clean.find(results or Path("results"), tracking.absolute_uri(uri), name, ends, cache)
    total = 0
    for one in waste:
        try:
            if not dry_run:
                one.remove()
        except (BadInput, OSError, *tracking.FAILURES) as problem:
            left.append(f"{one.what}: {one_line(problem)}")
            continue
        total += one.size
        print(f"{one.what}: {one.size / 1e6:.1f} MB, {one.why}")
    for line in left:
        print(f"left: {line}")
    print(f"{'would remove' if dry_run else 'removed'} {total / 1e6:.1f} MB")
    return int(bool(left))


@app.command
def report(
    *,
    experiment: Experiment = None,
    out: Annotated[Folder, says("Folder for report.html, .md, .csv, .tex and .bib.")] = Path("report"),
    validation: Annotated[Text, says("Only runs of this protocol.", "all, which must agree")] = None,
    data_digest: Annotated[Text, says("Only runs on this data.", "all, which must agree")] = None,
    uri: Uri = None,
) -> None:
    """Compare an experiment's finished runs: leaderboard, transfer matrix, tests; HTML, Markdown, CSV and LaTeX."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.config import TrackingConfig
    from hdmap_mlflow.report.summary import headline
    from hdmap_mlflow.report.write import write_report

    store, name = tracking.absolute_uri(uri), experiment or TrackingConfig().experiment
    page, tables = write_report(store, name, out, validation, data_digest)
    print("\n".join(line.replace("**", "") for line in headline(tables)))
    print(f"\nwrote {page}, and report.md, .csv, .tex and .bib beside it")
    print(tracking.invitation(store, tables.grid.runs[0].run_id))


@app.command
def ui(
    *,
    experiment: Experiment = None,
    port: Annotated[Positive, says("Port on this machine.", of("tracking.server:shown", "port"))] = None,
    browse: Annotated[Switch, says("Open the page in the browser.")] = False,
    uri: Uri = None,
) -> None:
    """Show an experiment's runs side by side in MLflow's UI; starts its server where none answers, until Ctrl-C."""
    import webbrowser

    from hdmap_mlflow import tracking
    from hdmap_mlflow.config import TrackingConfig
    from hdmap_mlflow.tracking import server

    store, name = tracking.absolute_uri(uri), experiment or TrackingConfig().experiment
    with server.shown(store, name, **given(port=port)) as (address, process):
        print(f"{name}: {address}", flush=True)
        if browse:
            webbrowser.open(address)
        if process:
            process.wait()
