"""Every number of a report from the runs' records, by definition: slowly, and with nothing of the package.

A run is anything with `params`, `metrics`, `tags`, and `scores`: a table a domain with the columns label, split, score,
image_max and image_mean. Runs come as {entry's label: runs}. Two runs' maps are the same ones where label, maximum and
mean agree; the made maps have maxima of their own, so that these name them.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from reference import intervals, scores

TRIVIAL = {"image_max": "image maximum", "image_mean": "image mean", "image_row": "row ratio"}
READ = {}  # tables as rows, by the table: pandas takes its time


def tag(run, name):
    return run.tags.get(f"hdmap.{name}", "")


def key(run):
    return tag(run, "source"), int(run.params["train.seed"])


def rows(run, domain, split="test"):
    """The maps of a domain in one role: a list of plain rows."""
    table = run.scores[domain]
    if id(table) not in READ:
        READ[id(table)] = table, table.to_dict("records")
    return [row for row in READ[id(table)][1] if row["split"] == split]


def auroc(found, column="score"):
    label = np.array([row["label"] for row in found])
    if len(set(label)) < 2:
        return None
    return intervals.components(label, [row[column] for row in found]).mean()


def targets(run):
    return sorted(set(run.scores) - {tag(run, "source")})


def by_map(found, column="score"):
    return {(row["label"], row["image_max"], round(row["image_mean"], 4)): row[column] for row in found}


def table(runs, domain, column="score"):
    """Map -> its scores by the runs; None where the runs have other maps."""
    each = [by_map(rows(run, domain), column) for run in runs]
    if any(set(one) != set(each[0]) for one in each):
        return None
    return {name: [one[name] for one in each] for name in sorted(each[0])}


def arrays(found):
    return np.array([name[0] for name in found]), np.array(list(found.values())).T


def target_tables(runs, column="score"):
    """Target domain -> table, where it has both classes."""
    out = {}
    for domain in sorted({d for run in runs for d in targets(run)}):
        found = table([run for run in runs if domain in targets(run)], domain, column)
        if found and len({name[0] for name in found}) == 2:
            out[domain] = found
    return out


def mean(values):
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def sd(values):
    values = list(values)
    if len(values) < 2:
        return None
    middle = sum(values) / len(values)
    return (sum((value - middle) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def matrix(runs):
    """(source, domain) -> mean, sd, n, and the interval of the mean of the models (or None)."""
    out = {}
    for source in sorted({tag(run, "source") for run in runs}):
        own = [run for run in runs if tag(run, "source") == source]
        for domain in sorted({domain for run in own for domain in run.scores}):
            having = [run for run in own if domain in run.scores]
            values = [auroc(rows(run, domain)) for run in having]
            if None in values:
                continue
            found = table(having, domain)
            bounds = intervals.auroc_interval(*arrays(found))[1:] if found else None
            out[source, domain] = {"mean": mean(values), "sd": sd(values), "n": len(values), "interval": bounds}
    return out


def compared(one, other):
    """Of two entries' target tables: (difference, low, high, p), or None where maps differ or no domain is shared."""
    both = sorted(set(one) & set(other))
    if not both or any(set(one[d]) != set(other[d]) for d in both):
        return None
    return intervals.compare({d: (*arrays(one[d]), arrays(other[d])[1]) for d in both})


def pairs(entries, common):
    """(better, other) -> difference, low, high, p, and Holm's p over all pairs."""
    found = {}
    kept = {label: target_tables([r for r in runs if key(r) in common]) for label, runs in entries.items()}
    for one, other in combinations(sorted(kept), 2):
        result = compared(kept[one], kept[other])
        if result:
            difference, low, high, p = result
            turned = (other, one, (-difference, -high, -low, p))
            better, worse, result = (one, other, result) if difference >= 0 else turned
            found[better, worse] = result
    adjusted = intervals.holm([result[3] for result in found.values()])
    return {pair: (*result, p) for (pair, result), p in zip(found.items(), adjusted, strict=True)}


def complete(entries):
    """Labels of the entries that are ranked: the largest block of entries x pairs, less who lacks what most have."""
    have = {label: {key(run) for run in runs} for label, runs in entries.items()}
    blocks = [some for n in range(1, len(have) + 1) for some in combinations(sorted(have), n)]
    size = {some: len(some) * len(set.intersection(*(have[label] for label in some))) for some in blocks}
    block = max(blocks, key=lambda some: (size[some], len(some)))
    pairs = set().union(*(have[label] for label in block))
    usual = {pair for pair in pairs if sum(pair in have[label] for label in block) > len(block) / 2}
    finished = [label for label in block if usual <= have[label]]
    chosen = finished if len(finished) > 1 else list(block)
    rivals = [label for label in have if label not in chosen and len(have[label]) >= len(have[chosen[0]])]
    return [] if len(chosen) == 1 and rivals else chosen


def unproven(runs):
    """Whether the mean AUROC on the sources is not shown to be above chance and above every trivial score."""
    own = {}
    for run in runs:
        source = tag(run, "source")
        if auroc(rows(run, source)) is not None:
            own.setdefault(source, []).append(run)
    found = {source: table(of, source) for source, of in own.items()}
    if not own:
        return False
    if None in found.values():
        return any(unproven([run]) for of in own.values() for run in of)
    low = intervals.mean_interval({source: arrays(t) for source, t in found.items()})[1]
    bars = [[auroc(rows(of[0], source), column) for source, of in own.items()] for column in TRIVIAL]
    return low <= max([0.5, *(mean(values) for values in bars if None not in values)])


def standing(label, entries, common, tests):
    """One line of the leaderboard, or of the incomplete entries."""
    runs = entries[label]
    lacks = sorted(common - {key(run) for run in runs})
    used = runs if lacks else [run for run in runs if key(run) in common] or runs
    cells, mine = matrix(runs), target_tables(used)
    value, low, high = intervals.mean_interval({d: arrays(t) for d, t in mine.items()}) if mine else (None,) * 3
    trivial = [compared(mine, target_tables(used, column)) for column in TRIVIAL] if mine else []
    source = mean(cell["mean"] for (s, d), cell in cells.items() if s == d)
    away = {f"{s} to {d}": cell["mean"] for (s, d), cell in cells.items() if s != d}
    worst = min(away, key=away.get) if away else None
    by_seed = {}
    for run in used:
        by_seed.setdefault(key(run)[1], []).extend(auroc(rows(run, d)) for d in targets(run))
    means = [m for values in by_seed.values() if (m := mean(values)) is not None]
    rivals = [o for o in entries if o != label and common <= {key(run) for run in entries[o]}]
    others = [target_tables([r for r in entries[o] if key(r) in common]) for o in rivals]
    matched = all(set(mine[d]) == set(other[d]) for other in others for d in mine if d in other)
    ranked = bool(common) and not lacks and bool(mine) and matched
    over = min(trivial, key=lambda found: found[0]) if trivial else None
    both = value is not None and source is not None
    proven = not unproven(runs)
    costs = {
        name: [run.metrics[f"cost/{name}"] for run in used if f"cost/{name}" in run.metrics]
        for name in ("train_maps", "fit_seconds", "evaluate_seconds", "fit_peak_MB")
    }
    return {
        "label": label,
        "rank": 1 + sum(1 for (_, o), found in tests.items() if o == label and found[4] < 0.05) if ranked else None,
        "runs": len(runs),
        "source": source,
        "target": {"value": value, "low": low, "high": high} if mine else None,
        "target_sd": sd(means),
        "with_seeds": intervals.with_seeds(value, low, high, means) if mine and len(means) > 1 else None,
        "worst": (worst, away[worst]) if worst else None,
        "ratio": value / source if both and proven else None,
        "gap": source - value if both else None,
        "skill": (value - 0.5) / (source - 0.5) if both and proven else None,
        "unproven": not proven,
        "lacks": lacks,
        "over_trivial": dict(zip(("difference", "low", "high", "p"), over, strict=True)) if over else None,
        "beats_trivial": bool(trivial) and all(found[1] > 0 for found in trivial),
        "train_maps": mean(costs["train_maps"]),
        "fit_seconds": mean(costs["fit_seconds"]),
        "evaluate_seconds": mean(costs["evaluate_seconds"]),
        "peak_mb": max(costs["fit_peak_MB"], default=None),
    }


def trivial(entries):
    """Name -> mean over domains, and the worst of them; every domain that is a target counts once."""
    out = {}
    for column, name in TRIVIAL.items():
        values = {d: auroc(rows(run, d), column) for runs in entries.values() for run in runs for d in targets(run)}
        values = {d: value for d, value in values.items() if value is not None}
        if values:
            worst = min(sorted(values), key=values.get)
            out[name] = (mean(values.values()), (worst, values[worst]))
    return out


def picks(entries, common):
    """By source: what the validation maps choose, what an oracle would, and the regret of both."""
    out = []
    for source in sorted({source for source, _ in common}):
        val, after = {}, {}
        for label in sorted(entries):
            runs = [run for run in entries[label] if key(run) in common and tag(run, "source") == source]
            known = [auroc(rows(run, source, "val")) for run in runs]
            brought = mean(auroc(rows(run, d)) for run in runs for d in targets(run))
            if None not in known and brought is not None:
                val[label], after[label] = mean(known), brought
        for rule, by in (("source validation", val), ("oracle", after)) if val else ():
            label = max(by, key=by.get)
            told = {"value": after[label], "regret": max(after.values()) - after[label]}
            out.append({"source": source, "rule": rule, "label": label, **told})
    return out


def normal_quantile(val, percent=99):
    """The smallest good score of the validation maps above which at most so many lie; an alarm is above it."""
    good = sorted(row["score"] for row in val if row["label"] == 0)
    return next((s for s in good if 100 * sum(other > s for other in good) <= (100 - percent) * len(good)), None)


def rate(found, label, cut):
    alarms = [row["score"] > cut for row in found if row["label"] == label]
    return mean(map(float, alarms)) if alarms else None


def shares(maps, above, tried):
    """95 % bounds of the share of `tried` maps above a score that `above` of `maps` exceed, by counting.

    Every place of the next map among the others is equally likely, and so on: Polya's urn.
    """
    chances = [1.0]  # of 0, 1, ... alarms after each map
    for drawn in range(tried):
        odds = [(above + 1 + alarms) / (maps + 1 + drawn) for alarms in range(drawn + 1)]
        stay = [chance * (1 - odd) for chance, odd in zip(chances, odds, strict=True)]
        rise = [chance * odd for chance, odd in zip(chances, odds, strict=True)]
        chances = [a + b for a, b in zip([*stay, 0.0], [0.0, *rise], strict=True)]
    upto = np.cumsum(chances)
    return tuple(float(np.argmax(upto >= level - 1e-12) / tried) for level in (0.025, 0.975))


def travel(label, runs):
    """What the entry's 99 % thresholds do: on the source, on all targets, and on the worst pair of domains."""
    own, fpr, tpr, by_pair, counts = [], [], [], {}, []
    for run in runs:
        source = tag(run, "source")
        cut = normal_quantile(rows(run, source, "val"))
        if cut is None:
            continue
        own.append(rate(rows(run, source), 0, cut))
        normal = [row["score"] for row in rows(run, source, "val") if row["label"] == 0]
        above, tried = sum(score > cut for score in normal), sum(row["label"] == 0 for row in rows(run, source))
        counts.append((len(normal), above, tried))
        for domain in targets(run):
            fpr.append(rate(rows(run, domain), 0, cut))
            tpr.append(rate(rows(run, domain), 1, cut))
            by_pair.setdefault(f"{source} to {domain}", []).append(fpr[-1])
    pairs = {name: value for name, values in sorted(by_pair.items()) if (value := mean(values)) is not None}
    worst = max(pairs, key=pairs.get) if pairs else None
    return {
        "label": label,
        "normals": min(counts)[0] if counts else None,
        "expected": shares(*min(counts)) if counts and min(counts)[2] else None,
        "source_fpr": mean(own),
        "fpr": mean(fpr),
        "tpr": mean(tpr),
        "worst_fpr": (worst, pairs[worst]) if worst else None,
    }


def best_f1(val):
    """The score of the validation maps with the best F1 as a threshold, the lowest of several alike."""

    def f1(cut):
        hits = sum(row["label"] == 1 for row in val if row["score"] >= cut)
        return 2 * hits / (sum(row["score"] >= cut for row in val) + sum(row["label"] == 1 for row in val))

    return max(sorted({row["score"] for row in val}), key=f1)


def image_metrics(found, val):
    """One domain's metrics in report.csv; thresholds are of the source's validation maps alone."""
    label = np.array([row["label"] for row in found])
    fault, good = ([row["score"] for row in found if row["label"] == of] for of in (1, 0))
    out = {}
    if fault and good:
        cuts = [np.inf, *{row["score"] for row in found}]
        rates = [(mean(float(s >= c) for s in good), mean(float(s >= c) for s in fault)) for c in cuts]
        out = {
            "image_AUROC": auroc(found),
            "image_AP": intervals.average_precision(np.array(fault), np.array(good)),
            "image_pAUROC": scores.partial_auroc(label, np.array([row["score"] for row in found])),
            "image_TPR_at_1FPR": max(tpr for fpr, tpr in rates if fpr <= 0.01),
            "image_TPR_at_5FPR": max(tpr for fpr, tpr in rates if fpr <= 0.05),
            "image_FPR_at_95TPR": min(fpr for fpr, tpr in rates if tpr >= 0.95),
            "baseline_max_AUROC": auroc(found, "image_max"),
            "baseline_mean_AUROC": auroc(found, "image_mean"),
            "baseline_row_AUROC": auroc(found, "image_row"),
        }
        if len({row["label"] for row in val}) == 2:
            alarm = np.array([row["score"] for row in found]) >= best_f1(val)
            out["image_F1"] = 2 * (alarm & (label == 1)).sum() / (alarm.sum() + (label == 1).sum())
    for percent in (99, 95):
        if (cut := normal_quantile(val, percent)) is not None:
            rates_at = {"FPR": rate(found, 0, cut), "TPR": rate(found, 1, cut)}
            out |= {f"{name}_at_normal_q{percent}": value for name, value in rates_at.items()}
    return {name: value for name, value in out.items() if value is not None}


def csv(entries):
    """(entry, source, seed, domain) -> what the row says."""
    out = {}
    for label, runs in entries.items():
        for run in runs:
            source, seed = key(run)
            for domain in run.scores:
                told = {"model": tag(run, "model"), "condition": tag(run, "condition"), "run_id": run.run_id}
                told |= {"role": "source" if domain == source else "target", "maps": len(rows(run, domain))}
                told |= {"split_seed": run.params.get("data.split_seed"), "validation": tag(run, "validation")}
                told |= {"simulated": tag(run, "simulated"), "protocol": "source_only", "adapters": "", "k": 0}
                told |= image_metrics(rows(run, domain), rows(run, source, "val"))
                out[label, source, seed, domain] = told
    return out


def missing(entries, common):
    """What must be said: for each line the words that it holds."""
    runs = [run for found in entries.values() for run in found]
    have = {label: {key(run) for run in found} for label, found in entries.items()}
    lines = [
        (label, source, f"seed {seed}")
        for label in entries
        for source, seed in set().union(*have.values())
        if (source, seed) not in have[label]
    ]
    domains = {domain for run in runs for domain in run.scores}
    lines += [("no run was trained on", domain) for domain in domains - {tag(run, "source") for run in runs}]
    lines += [
        (domain, "one class")
        for domain in domains
        if all(auroc(rows(run, domain)) is None for run in runs if domain in run.scores)
    ]
    ranked = [label for label in entries if common <= have[label]]
    kept = {
        label: [r for r in found if key(r) in common] or found if label in ranked else found
        for label, found in entries.items()
    }
    for label, found in kept.items():
        for domain in {d for run in found for d in targets(run)}:
            if table([run for run in found if domain in targets(run)], domain) is None:
                lines.append((label, "different maps", domain))
    found = {label: target_tables(runs) for label, runs in kept.items()}
    for one, other in combinations(sorted(ranked), 2) if common else ():
        unlike = [d for d in found[one] if d in found[other] and set(found[one][d]) != set(found[other][d])]
        lines += [(one, other, "not compared", *unlike)] if unlike else []
    return lines


def report(entries):
    """All numbers of the report under the names of its tables."""
    chosen = complete(entries)
    ranked = {label: runs for label, runs in entries.items() if label in chosen} or entries
    common = set.intersection(*({key(run) for run in runs} for runs in ranked.values())) if chosen else set()
    tests = pairs(ranked, common) if chosen else {}
    board = [standing(label, entries, common, tests) for label in ranked]
    first = next(iter(entries.values()))[0]
    return {
        "common": common,
        "matrices": {label: matrix(runs) for label, runs in entries.items()},
        "leaderboard": sorted(
            board, key=lambda s: (s["rank"] or 999, -(s["target"] or {"value": 0})["value"], s["label"])
        ),
        "incomplete": [standing(label, entries, common, tests) for label in entries if label not in ranked],
        "trivial": trivial(entries),
        "pairs": tests,
        "picks": picks(ranked, common),
        "travels": [travel(label, entries[label]) for label in sorted(entries)],
        "missing": missing(entries, common),
        "validation": tag(first, "validation"),
        "data_digest": tag(first, "data_digest"),
        "simulated": any(tag(run, "simulated") == "true" for runs in entries.values() for run in runs),
    }
