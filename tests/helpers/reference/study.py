"""What a study records and concludes, from plain trials, by definition; nothing of the package.

A trial is a dict: number, state (complete, pruned, failed, lost, running), values, settings, baseline, seconds, reason.
"""

from __future__ import annotations

import statistics

SMALLER_IS_BETTER = {"seconds", "memory"}
COMPARED = ("val/image_AUROC", "source/image_AUROC", "target_mean/image_AUROC", "target_worst/image_AUROC")


def values(metrics, objectives):
    """The objectives of a trial from its run's metrics; None where the run lacks one."""
    names = {
        "val_auroc": (["val/image_AUROC"], sum),
        "target_mean": (["target_mean/image_AUROC"], sum),
        "seconds": (["cost/fit_seconds", "cost/evaluate_seconds"], sum),
        "memory": (["cost/fit_peak_MB", "cost/evaluate_peak_MB"], max),
    }
    out = []
    for objective in objectives:
        needed, join = names[objective]
        if any(name not in metrics for name in needed):
            return None
        out.append(join(metrics[name] for name in needed))
    return out


def winner(trials, objectives):
    """The completed trial with the best first objective; alike ones by the next, then the first that was asked for."""
    best = None
    for trial in trials:
        if trial["state"] != "complete":
            continue
        if best is None:
            best = trial
            continue
        for name, mine, its in zip(objectives, trial["values"], best["values"], strict=True):
            if mine != its:
                if (mine < its) == (name in SMALLER_IS_BETTER):
                    best = trial
                break
    return best


def row(trial, objectives):
    """A trial's line in trials.csv."""
    told = {"trial": trial["number"], "state": trial["state"] + (" (baseline)" if trial["baseline"] else "")}
    done = trial["state"] == "complete"
    told |= {name: trial["values"][i] if done else None for i, name in enumerate(objectives)}
    told["seconds"] = round(trial["seconds"], 1) if trial["state"] in ("complete", "pruned") else None
    return told | trial["settings"] | {"reason": trial["reason"]}


def headline(trials, objectives):
    """Counts by state, the winner's number and values, and the baseline with the winner's gain over it (or None)."""
    best = winner(trials, objectives)
    base = next((t for t in trials if t["baseline"] and t["state"] == "complete"), None)
    counts = {state: sum(t["state"] == state for t in trials) for state in {t["state"] for t in trials}}
    told = {"counts": counts, "best": best and best["number"], "values": best and best["values"], "baseline": None}
    if best and base and base is not best:
        told["baseline"] = (base["values"][0], best["values"][0] - base["values"][0])
    return told


def gains(refits):
    """Metric -> mean and sd of baseline, best and their difference by seed, and how many seeds have both.

    `refits` are (seed, metrics of the baseline, metrics of the best), None for a run that failed.
    """
    out = {}
    for metric in COMPARED:
        both = [
            (before[metric], after[metric])
            for _, before, after in refits
            if before is not None and after is not None and metric in before and metric in after
        ]
        if both:
            columns = [[b for b, _ in both], [a for _, a in both], [a - b for b, a in both]]
            spread = [statistics.stdev(one) if len(both) > 1 else None for one in columns]
            out[metric] = [*zip(map(statistics.fmean, columns), spread, strict=True)], len(both)
    return out


def best_so_far(history, objectives):
    """Step by step, the first objective of the best trial yet; `history`: (number, values) as trials ended."""
    out, best = {}, None
    for number, found in history:
        if found is not None and (best is None or (found[0] < best) == (objectives[0] in SMALLER_IS_BETTER)):
            best = found[0]
        out[number] = best
    return out
