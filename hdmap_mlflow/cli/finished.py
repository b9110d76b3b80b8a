"""The commands for runs that have finished: read, scored anew, checked, written out, compared, recorded, shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hdmap_mlflow.cli.app import app
from hdmap_mlflow.cli.options import (
    Experiment,
    Folder,
    Out,
    Positive,
    RunId,
    Switch,
    Text,
    Uri,
    given,
    of,
    says,
)
from hdmap_mlflow.errors import BadInput


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
def export(run_id: RunId, /, *, out: Out, uri: Uri = None) -> None:
    """Write a run's pictures, scores and result in the guideline's folder form."""
    from hdmap_mlflow import tracking
    from hdmap_mlflow.runs import export

    print(f"wrote {export.export(tracking.absolute_uri(uri), run_id, out)}")


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
