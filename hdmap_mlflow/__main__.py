"""The command line: a table of subcommands. `hdmap` = `python -m hdmap_mlflow`.

Torch and anomalib cost seconds to import, so every subcommand imports what it needs when it is called.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hdmap_mlflow.errors import BadInput

Root = Annotated[Path, typer.Argument(help="Data root: <root>/<domain>/{train/good,test/good,test/fault}.")]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty.")]


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
    from hdmap_mlflow import run, tracking

    flags = {
        "data.root": data_root,
        "data.source_domain": source_domain,
        "data.target_domains": target_domains,
        "data.validation": validation,
        "data.split_seed": split_seed,
        "train.seed": seed,
    }
    try:
        config = run.configure(model, condition, conditions or None, flags, overrides)
        result = run.execute(config)
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


def check_data(root: Root) -> None:
    """Print a table of every domain and every problem found; exit code 1 if there is one."""
    from hdmap_mlflow.data import layout
    from hdmap_mlflow.terminal import show_table

    frame, problems = layout.check(layout.find_root(str(root)))
    show_table(str(root), list(frame.columns), list(frame.itertuples(index=False)), left=2)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found")
    if problems:
        raise typer.Exit(1)


def models(
    name: Annotated[str, typer.Argument(help="One model, with all its settings; empty: the table of all.")] = "",
) -> None:
    """Print the registry: which models there are, what each needs, its conditions and its paper."""
    from hdmap_mlflow import catalogue

    catalogue.show_model(name) if name else catalogue.show_models()


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "simulate": simulate,
    "import-mat": import_mat,
    "check-data": check_data,
    "models": models,
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


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run a subcommand. Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error), 130 interrupted."""
    sys.path.append(os.getcwd())  # where a model of the user's own may lie
    signal.signal(signal.SIGTERM, _interrupt)  # a terminated run is recorded as KILLED
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries, at import
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file is no place for a progress bar
    try:
        app()
    except BadInput as problem:
        sys.exit(_complain(str(problem)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _complain(line: str) -> int:
    print(f"hdmap: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
