"""What helps across domains: a second source, the context of a row, the row score.

python -m benchmarks.transfer --data SpectraQuest=FOLDER --data simulated=FOLDER --out docs/transfer.md

Quickstarts of five models x single sources and leave-one-out x seeds x ways; one at a time, in this process. Models
that are trained see as many maps from several sources as from one: more training is no second source. The runs
lie in a store of their own below `--work`, so a stop costs one run, and the same command goes on. Beside the page, as
CSV, one row per data, run and domain. `--page` writes the page of what is there by now.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks import machine
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.evaluation.intervals import Comparison
from hdmap_mlflow.report.arrange import Entry, Grid, arrange
from hdmap_mlflow.report.stacks import mean_over, of_targets, versus

BANKS, TRAINED = ("patchcore", "padim"), ("reverse_distillation", "draem_sevnet", "cutpaste")
CONTEXT, ROW = "model.row_context=[2,3]", "score.image=row"
SEEDS, DATA = 3, ("SpectraQuest", "simulated")
WAYS = {"as it is": "", "row context": CONTEXT, "row score": ROW, "both": f"{CONTEXT},{ROW}"}
# Neighbouring files resemble one another where no recordings are named: stretches of them are the sample.
COMMON = "evaluation.sample=order,tracking.figures=false,tracking.heatmaps=0,tracking.model=none"
QUESTIONS = {
    "more sources": "All domains but the target as sources, in place of one",
    "row context": "`model.row_context=[2,3]`",
    "row score": "`score.image=row`",
    "both": "Row context and row score together",
}


@dataclass(frozen=True)
class Measured:
    """The entries of a data set by (model, way), and what was asked for and has not run."""

    entries: Mapping[tuple[str, str], Entry]
    grid: Grid
    missing: int


def budget(root: str, model: str) -> str | None:
    """The maps that the quickstart of a model that is trained sees of one domain; None for the others."""
    from hdmap_mlflow.runs.setup import configure

    if model not in TRAINED:
        return None
    maps = sum(1 for _ in next(Path(root).glob("*/train/good")).iterdir())
    return f"maps={configure(model).train.max_epochs * maps}"


def blocks(root: str, models: Sequence[str], ways: Sequence[str], seed: int) -> Iterator[tuple[str, str, object]]:
    """Model, way and grid block; the models that are trained in the first way alone."""
    from hdmap_mlflow.grid.plan import Block

    for model in models:
        for way in ways if model in BANKS else ways[:1]:
            yield (
                model,
                way,
                Block(
                    models=model,
                    sources="all,leave-one-out",
                    seeds=str(seed),
                    data_root=root,
                    experiment="transfer",
                    budget=budget(root, model),
                    overrides=",".join(filter(None, [WAYS[way], COMMON])),
                ),
            )


def measure(root: str, models: Sequence[str], ways: Sequence[str], seeds: int, run: bool) -> Measured:
    """Run what is not there yet, unless the page alone is wanted, and read all of it."""
    from hdmap_mlflow.grid import driver, plan
    from hdmap_mlflow.runs import flow, history

    missing, of = 0, dict[str, tuple[str, str]]()
    for seed in range(seeds):
        for model, way, block in blocks(root, models, ways, seed):
            cells = plan.expand([block])  # type: ignore[list-item]
            store = driver.open_store(cells)
            for cell in plan.look_up(cells, store):
                of[cell.fingerprint] = model, way
                if cell.status != "finished" and run:
                    started = time.process_time()
                    flow.execute(cell.checked, tags=cell.tags, say=lambda _: None)
                    took = time.process_time() - started
                    print(f"{cell.name}, {way}: {took:.0f} s of processor", flush=True)
                elif cell.status != "finished":
                    missing += 1
    records, _ = history.read_experiment(os.environ["MLFLOW_TRACKING_URI"], "transfer")
    ours = [record for record in records if record.tag("fingerprint") in of]
    grid = arrange(ours)
    return Measured({of[entry.first.tag("fingerprint")]: entry for entry in grid.entries}, grid, missing)


def compared(one: Entry | None, other: Entry | None, keys: Sequence[tuple[str, int]]) -> Comparison | None:
    """The first over the second on runs that both have."""
    both = [key for key in keys if one and other and key in one.runs and key in other.runs]
    return versus(of_targets(one, both), of_targets(other, both)) if one and other and both else None


def answers(found: Measured) -> dict[str, dict[str, Comparison]]:
    """Question -> model (with its sources) -> what it gains, on the same maps of the same targets."""
    out: dict[str, dict[str, Comparison]] = {question: {} for question in QUESTIONS}
    for (model, way), entry in found.entries.items():
        single, all_but = keys_of(found.grid, entry)
        if way == "as it is":
            gain = versus(of_targets(entry, all_but), of_targets(entry, single)) if single and all_but else None
            out["more sources"] |= {model: gain} if gain else {}
            continue
        for words, keys in (("one source", single), ("all but the target", all_but)):
            if gain := compared(entry, found.entries.get((model, "as it is")), keys):
                out[way][f"{model}, {words}"] = gain
    return out


def keys_of(grid: Grid, entry: Entry) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """The runs of an entry from one source, and from all domains but one."""
    single = [key for key, run in entry.runs.items() if len(run.sources) == 1]
    return single, [key for key in entry.runs if grid.left_out(key[0])]


def table(found: Measured) -> list[str]:
    """One row per model and way: mean target AUROC from one source and from all others, with 95 % intervals."""
    rows = []
    for (model, way), entry in found.entries.items():
        cells = []
        for keys in keys_of(found.grid, entry):
            stacks = of_targets(entry, keys)
            mean = mean_over(stacks) if stacks else None
            ends = f" ({mean.low:.3f} to {mean.high:.3f})" if mean and not mean.few else ""
            cells += [f"{mean.value:.3f}{ends}" if mean else "not run", str(len(keys))]
        rows.append([model, way, *cells])
    header = ["model", "way", "one source", "runs", "all but the target", "runs"]
    return markdown_table(header, rows, left=2)


def lines(name: str, found: Measured) -> list[str]:
    """What a reviewer may take from the table: for each question who gains, who loses and who is not told apart."""
    out = []
    for question, of in answers(found).items():
        kinds: dict[str, list[str]] = {"helps": [], "harms": [], "not shown for": []}
        for who, gain in of.items():
            kind = (
                "not shown for"
                if gain.few
                else "helps"
                if gain.low > 0
                else "harms"
                if gain.high < 0
                else "not shown for"
            )
            ends = "" if gain.few else f", {gain.low:+.3f} to {gain.high:+.3f}"
            kinds[kind].append(f"{who} ({gain.difference:+.3f}{ends})")
        told = "; ".join(f"{kind} {', '.join(who)}" for kind, who in kinds.items() if who)
        out.append(f"- {name}. {QUESTIONS[question]}: {told or 'not run'}.")
    return out


def absent(found: Measured) -> str:
    """What of the whole plan (all models, all ways of the banks, three seeds) a data set has no run of, in words."""
    lacks = []
    for model in (*BANKS, *TRAINED):
        for way in WAYS if model in BANKS else [*WAYS][:1]:
            entry = found.entries.get((model, way))
            have = {seed for _, seed in entry.runs} if entry else set()
            seeds = [str(seed) for seed in range(SEEDS) if seed not in have]
            lacks += [f"`{model}` {way} with seed {' and '.join(seeds)}"] if seeds else []
    return ", ".join(lacks) or "nothing"


def page(measured: Mapping[str, Measured], asked: str, command: str) -> str:
    """The whole page."""
    left = {name: found.missing for name, found in measured.items()}
    text = [
        "# What helps across domains?",
        "",
        "Mean image AUROC over targets that a model never saw; in brackets the 95 % interval of the difference on the "
        "same maps (paired, Obuchowski over stretches of neighbouring files; the fitted models as given). Quickstart "
        "settings, small and offline: an answer for these data and sizes, no ranking of methods. Where neighbouring "
        "files are much alike few stretches are independent, and the interval is as wide as that: it cannot tell. "
        "Models that are trained see as many maps from several sources as from one (`--budget maps=`).",
        "",
        *(line for name, found in measured.items() for line in lines(name, found)),
        "",
    ]
    for name, found in measured.items():
        text += [f"## {name}", "", *table(found), ""]
    text += [
        "## What was run",
        "",
        f"Asked for: {asked}.",
        *(
            f"{name}: {len(found.grid.runs)} runs, {left[name]} of those asked for not run. Of the whole plan there is "
            f"none of: {absent(found)}."
            for name, found in measured.items()
        ),
        *(f"Not run at all: {name} maps." for name in DATA if name not in measured),
        f"`{command}`; {machine.described()}.",
    ]
    return "\n".join(text) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run, data set by data set, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", action="append", required=True, help="NAME=FOLDER of the domains; may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file; rows go beside it as CSV")
    parser.add_argument("--work", type=Path, default=Path("transfer"), help="folder of the store and of the cache")
    parser.add_argument("--models", default=",".join((*BANKS, *TRAINED)))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many training seeds")
    parser.add_argument("--page", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    out, asked = args.out.absolute(), [one.partition("=") for one in args.data]
    roots = {name: str(Path(root).absolute()) for name, _, root in asked}
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path('mlflow.db').absolute()}"
    models, ways = args.models.split(","), args.ways.split(",")
    measured = {name: measure(root, models, ways, args.seeds, not args.page) for name, root in roots.items()}
    words = f"{', '.join(models)}; {', '.join(ways)}; {args.seeds} seed{'s' * (args.seeds > 1)}"
    command = "python -m benchmarks.transfer " + " ".join(f"--data {name}=FOLDER" for name in roots)
    out.write_text(page(measured, words, f"{command} --seeds {args.seeds}"), encoding="utf-8")
    from hdmap_mlflow.report.tables import long_table

    tables = [long_table(found.grid).assign(data=name) for name, found in measured.items()]
    pd.concat(tables).to_csv(out.with_suffix(".csv"), index=False)
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
