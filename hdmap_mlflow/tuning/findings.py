"""What a study found: its figures, its tables, and its best settings as a condition file."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

from hdmap_mlflow import config as configuration
from hdmap_mlflow.annotations import Document, Settings
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.names import MEAN_AUROC, SOURCE_AUROC, VAL_AUROC, WORST_AUROC
from hdmap_mlflow.tuning.space import Space

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

COMPARED = {
    VAL_AUROC: "source, validation half",
    SOURCE_AUROC: "source, reported maps",
    MEAN_AUROC: "mean of the targets",
    WORST_AUROC: "worst target",
}
TOP = 15  # trials in a run's description; all of them are in trials.csv


@dataclass(frozen=True)
class Refit:
    """Metrics of the baseline and of the best settings, trained again with one seed; None where a run failed."""

    seed: int
    baseline: Mapping[str, float] | None
    best: Mapping[str, float] | None


@dataclass(frozen=True)
class Conclusion:
    """What a study says at its end: its trials, as rows too, and the best one as a condition that `command` trains."""

    trials: Sequence[FrozenTrial]
    best: FrozenTrial
    rows: Sequence[Settings]
    condition: Settings  # the content of a condition file
    command: str
    refits: Sequence[Refit] = ()


def figures(study: optuna.Study, objectives: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Optuna's own plots by name, of what completed; a plot for which there are too few trials is left out."""
    from optuna.visualization import matplotlib as plots

    done = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    spread = {t.values[0] for t in done}
    first: Document = {"target_name": objectives[0]}
    if len(objectives) > 1:
        first["target"] = lambda trial: trial.values[0]
    drawn: Document = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its plots experimental
        drawn["optimization_history"] = plots.plot_optimization_history(study, **first)
        if len([t for t in done if t.params]) > 1:
            drawn["slice"] = plots.plot_slice(study, **first)
            drawn["parallel_coordinate"] = plots.plot_parallel_coordinate(study, **first)
            if len(spread) > 1:
                drawn["param_importances"] = plots.plot_param_importances(study, **first)
        if len(objectives) == 2:
            drawn["pareto_front"] = plots.plot_pareto_front(study, target_names=list(objectives))
    for name, axes in drawn.items():
        yield name, _tidied(name, axes)


def _tidied(name: str, axes: Any) -> Figure:
    """Wide enough for the names of settings, and in nobody's list of open figures."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    first = np.ravel(axes)[0]
    figure = first.figure
    figure.set_size_inches(max(8.0, 3.2 * np.size(axes) + 1.5 if name == "slice" else 8.0), 4.5)
    if name == "optimization_history":
        first.xaxis.set_major_locator(MaxNLocator(integer=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parallel axes have no place in a layout, and keep their own
        figure.tight_layout()
    plt.close(figure)
    return figure


def trial_row(trial: FrozenTrial, objectives: Sequence[str]) -> dict[str, object]:
    """A trial as a row: number, state, objectives, seconds, settings, and why it ended early."""
    ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    values = trial.values if trial.state == TrialState.COMPLETE else None
    out: dict[str, object] = {"trial": trial.number, "state": state(trial)}
    out |= dict(zip(objectives, values or [None] * len(objectives), strict=True))
    out["seconds"] = round(trial.duration.total_seconds(), 1) if ended and trial.duration else None
    return out | trial.user_attrs.get("settings", {}) | {"reason": trial.user_attrs.get("reason", "")}


def state(trial: FrozenTrial) -> str:
    named = {TrialState.FAIL: "lost" if trial.user_attrs.get("lost") else "failed"}
    told = named.get(trial.state, trial.state.name.lower())
    return f"{told} (baseline)" if "baseline" in trial.user_attrs else told


def condition_file(
    space: Space, condition: Settings, overrides: str, name: str, description: str, settings: Settings
) -> dict[str, dict[str, object]]:
    """A condition file that trains with settings as the study's trials did, in the guideline's form."""
    content: dict[str, object] = {}
    searched = condition.get("search") or {}
    fixed = {key: value for key, value in searched.items() if not isinstance(value, dict)}
    for layer in (condition["config"], fixed, configuration.parse_overrides(overrides), settings):
        content |= {configuration.dotted_key(key): value for key, value in layer.items()}
    left = {key for key in space.dimensions if key not in settings}  # they did not matter beside the others
    content = {key: value for key, value in content.items() if key not in left}
    content = {key: value for key, value in content.items() if not key.startswith("tracking.")}
    return {name: {"name": name, "description": description, "config": content}}


def gains(refits: Sequence[Refit]) -> list[list[str]]:
    """Rows of metric, baseline, best and their paired difference: mean and sd (ddof 1) over the seeds of both."""
    rows = []
    for metric, name in COMPARED.items():
        pairs = [
            (one.baseline[metric], one.best[metric])
            for one in refits
            if one.baseline and one.best and metric in one.baseline and metric in one.best
        ]
        if pairs:
            before, after = zip(*pairs, strict=True)
            change = [b - a for a, b in pairs]
            rows.append([name, _spread(before), _spread(after), _spread(change, sign=True), str(len(pairs))])
    return rows


def _spread(values: Sequence[float], sign: bool = False) -> str:
    mean = statistics.fmean(values)
    told = f"{mean:+.4f}" if sign else f"{mean:.4f}"
    return f"{told} ± {statistics.stdev(values):.4f}" if len(values) > 1 else told


GAIN_COLUMNS = ("image AUROC", "baseline", "best", "best less baseline", "seeds")


def note(name: str, end: Conclusion, objectives: Sequence[str], space: Space) -> str:
    """The study run's description: which trial is the best and why, whether it carried over, and the best trials."""
    best, baseline, settings = end.best, space.baseline(), end.best.user_attrs["settings"]
    lines = [f"# Study {name}", "", *headline(end.trials, best, objectives)]
    lines += [
        f"Trained again, {of}: {change} over {seeds} seeds."
        for of, _, _, change, seeds in gains(end.refits)
        if "mean" in of
    ]
    rows = [
        [setting, one.describe(), _cell(baseline.get(setting, "-")), f"**{_cell(settings.get(setting, '-'))}**"]
        for setting, one in space.dimensions.items()
    ]
    lines += [
        "",
        "## Settings",
        "",
        *markdown_table(("setting", "searched", "published", f"trial {best.number}"), rows),
        "",
    ]
    if end.refits:
        lines += ["## Trained again, all domains", "", "Mean ± sd over seeds; the difference is paired by seed.", ""]
        lines += [*markdown_table(GAIN_COLUMNS, gains(end.refits)), ""]
        failed = [
            f"- seed {one.seed}: the {role} failed"
            for one in end.refits
            for role, metrics in (("baseline", one.baseline), ("best", one.best))
            if metrics is None
        ]
        lines += [*failed, ""] if failed else []
    first = f" (the first {TOP} of {len(end.trials)})" if len(end.trials) > TOP else ""
    lines += ["To train with these settings:", "", f"    {end.command}", "", f"## Trials{first}", ""]
    keys = ["trial", "state", *objectives, "seconds", *space.dimensions]
    shown = [trial_row(trial, objectives) for trial in ranked(end.trials)[:TOP]]
    cells = [[_cell(row.get(key)) for key in keys] for row in shown]
    return "\n".join(lines + markdown_table([key.removeprefix("model.") for key in keys], cells))


def headline(trials: Sequence[FrozenTrial], best: FrozenTrial | None, objectives: Sequence[str]) -> list[str]:
    """Which trial is the best so far, by how much, and what became of the others."""
    counts = ", ".join(f"{n} {kind}" for kind, n in tally(trials).items())
    lines = [f"{len(trials)} trials: {counts}."]
    if "target_mean" in objectives:
        lines.insert(0, "**ORACLE: the settings were chosen on target data. Nothing here is a result.**")
    if best:
        told = ", ".join(f"{name} {value:.4g}" for name, value in zip(objectives, best.values, strict=True))
        base = next((t for t in trials if "baseline" in t.user_attrs and t.state == TrialState.COMPLETE), None)
        if base is None:
            against = "the baseline did not complete"
        elif base.number == best.number:
            against = "it is the baseline: no drawn settings were better"
        else:
            against = f"baseline {base.values[0]:.4g}, difference {best.values[0] - base.values[0]:+.4g}"
        settings = best.user_attrs["settings"].items()
        drawn = ", ".join(f"{name.partition('.')[2]} {_cell(value)}" for name, value in settings)
        lines.append(f"**Trial {best.number} is the best so far: {told}** ({against}), with {drawn}.")
    return lines


def tally(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """How many trials are complete, pruned, failed, running."""
    kinds = [state(trial).removesuffix(" (baseline)") for trial in trials]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Completed trials by their first objective, which is maximised, then the others in order."""
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(done, key=lambda t: -t.values[0]) + [t for t in trials if t.state != TrialState.COMPLETE]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
