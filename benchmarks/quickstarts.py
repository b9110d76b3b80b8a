"""Every model's quickstart on the demo data, and the page that answers which to try first: docs/models.md.

python -m benchmarks.quickstarts                     # all models, each in a process of its own; resumes
python -m benchmarks.quickstarts --models padim,dfm  # these again
python -m benchmarks.quickstarts --models ""         # the page alone

What was measured is kept in a file (`--results`), so that the page can be written again; remove it to start anew.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypedDict

from benchmarks import machine
from hdmap_mlflow import console

TRIVIAL = {"image max": "*image maximum*", "image mean": "*image mean*", "row ratio": "*row ratio*"}


class Measured(TypedDict, total=False):
    """One model: the transfer table's rows, processor seconds, peak memory in MB and weights; or why it failed."""

    rows: list[dict[str, str]]
    seconds: float
    peak_mb: float
    weights: str
    failed: str


def one(model: str) -> Measured:
    """Run the quickstart of a model in this process, in the folder that it was started in."""
    from mlflow.tracking import MlflowClient

    from hdmap_mlflow.names import Tag
    from hdmap_mlflow.runs import flow, setup, train  # noqa: F401 - imports are not what is measured

    config = setup.configure(model)
    started = os.times()
    result = flow.execute(config, say=lambda _: None)
    ended = os.times()
    tags = MlflowClient(result.uri).get_run(result.run_id).data.tags
    return {
        "rows": [dict(zip(result.header(), row, strict=True)) for row in result.rows()],
        "seconds": ended.user + ended.system - started.user - started.system,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "weights": tags[Tag.WEIGHTS].partition(":")[0],
    }


def child(model: str, timeout: float) -> Measured:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.quickstarts", "--child", model]
    with tempfile.TemporaryDirectory() as folder:
        place = {"PYTHONPATH": str(Path(__file__).parents[1]), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        environment = os.environ | place | {"TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, cwd=folder, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not finished after {timeout:.0f} s"}
    if done.returncode:
        return {"failed": re.sub(r"^[\w.]+: ", "", done.stderr.strip().splitlines()[-1])}  # without the error's class
    return json.loads(done.stdout.splitlines()[-1])


def page(results: dict[str, Measured]) -> str:
    """The Markdown page: trivial scores and models in one table, sorted by the mean AUROC of the targets."""
    from hdmap_mlflow.models.registry import REGISTRY

    done = {model: found for model, found in results.items() if "rows" in found}
    domains = [row["domain"] for row in next(iter(done.values()))["rows"]]
    trivial = {name: [row[name] for row in next(iter(done.values()))["rows"]] for name in TRIVIAL}
    lines = [(_mean(cells), [label, "", *cells, f"{_mean(cells):.3f}", *[""] * 4]) for label, cells in _scores(trivial)]
    for model, found in done.items():
        cells = [row["AUROC"] for row in found["rows"]]
        shown = [f"{row['AUROC']} ({row['95 % interval']})" for row in found["rows"]]
        weights, mark = found["weights"], _mark(cells, trivial)
        cost = [f"{found['seconds']:,.0f}", f"{found['peak_mb']:,.0f}"]
        name = f"**{model}**" if not mark else f"`{model}`"
        lines.append((_mean(cells), [name, mark, *shown, f"{_mean(cells):.3f}", *cost, weights, _kind(model)]))
    lines.sort(key=lambda line: -line[0])
    head = [
        "score",
        "below",
        f"{domains[0]} (source)",
        *domains[1:],
        "targets' mean",
        "s",
        "MB",
        "weights",
        "fitted by",
    ]
    random = {m: REGISTRY[m].random_why for m, found in sorted(done.items()) if found["weights"] == "random"}
    reasons = [f"- `{model}`: {why}" for model, why in random.items() if why]
    scratch = ", ".join(f"`{model}`" for model, why in random.items() if not why)
    failed = [f"- `{model}`: {found['failed']}" for model, found in sorted(results.items()) if "failed" in found]
    missing = ", ".join(f"`{model}`" for model in REGISTRY if model not in results)
    return "\n".join(
        [
            "# Which model shall I try first?",
            "",
            *_answer(lines, done, trivial),
            "",
            *console.markdown_table(head, [line for _, line in lines], left=2),
            "",
            "*below*: the trivial scores that the model does not reach on the source; **bold**: it reaches all three.",
            "The row ratio is `toothwise` without a threshold. Intervals are the 95 % ones of each run's own record.",
            "",
            "## Random weights",
            "",
            "These show the flow, not the method. Published settings: `-P condition=baseline` where the hub can be",
            "reached, or `hdmap weights import` and `model.weights=local`.",
            "",
            *(reasons or ["None."]),
            *(["", f"Trained from random weights, as in the paper: {scratch}."] if scratch else []),
            *(["", "## Not run", "", *failed] if failed else []),
            *(["", "## Not measured yet", "", f"{missing}."] if missing else []),
            "",
            *_origin(),
            "",
        ]
    )


def _scores(trivial: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    return [(TRIVIAL[name], cells) for name, cells in trivial.items()]


def _mean(cells: list[str]) -> float:
    """Of the targets."""
    return sum(map(float, cells[1:])) / len(cells[1:])


def _mark(cells: list[str], trivial: dict[str, list[str]]) -> str:
    return ", ".join(name for name, scores in trivial.items() if float(cells[0]) < float(scores[0]))


def _kind(model: str) -> str:
    from hdmap_mlflow.models.registry import REGISTRY

    return "epochs" if REGISTRY[model].trains else "passes"


def _answer(
    lines: list[tuple[float, list[str]]], done: dict[str, Measured], trivial: dict[str, list[str]]
) -> list[str]:
    """The three models with the best targets among those above image maximum and mean on the source."""
    names = [line[0].strip("*`") for _, line in lines]
    cells = {model: [row["AUROC"] for row in found["rows"]] for model, found in done.items()}
    good = [
        m for m in names if m in cells and not {"image max", "image mean"} & {*_mark(cells[m], trivial).split(", ")}
    ]
    first = [f"`{model}` ({_mean(cells[model]):.3f}, {done[model]['seconds']:,.0f} s)" for model in good[:3]]
    return [
        "On a CPU and without a hub: " + (", then ".join(first) or "none is above the trivial scores") + ".",
        "In brackets: the mean AUROC on domains that it never saw, and processor seconds of the whole run.",
        "The maps are **simulated**, the settings those of `quickstart` (small, offline): an order for first tries, no",
        "ranking of methods. A model that is not above the trivial scores has learned nothing of these maps.",
    ]


def _origin() -> list[str]:
    return [
        f"Made by `python -m benchmarks.quickstarts`: {machine.described()}.",
        "*s* is processor time of a whole run, imports excluded; *MB* the peak of its process. One seed. The demo data",
        "have 128 training and 2 x 64 test maps per domain; of the source's test maps half are reported.",
    ]


def main() -> None:
    from hdmap_mlflow.models.registry import REGISTRY

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="comma list, run again; without it those that have no result yet")
    parser.add_argument("--results", type=Path, default=Path("quickstarts.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one model")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(one(arguments.child)))
        return
    results: dict[str, Measured] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    todo = [model for model in REGISTRY if "rows" not in results.get(model, {})]
    for model in todo if arguments.models is None else filter(None, arguments.models.split(",")):
        results[model] = child(model, arguments.timeout)
        print(model, results[model].get("failed") or f"{results[model]['seconds']:.0f} s", flush=True)
        arguments.results.write_text(json.dumps(results, indent=1))
    arguments.page.write_text(page(results))


if __name__ == "__main__":
    main()
