"""Reference: the cards of a run, from the same tables as its metrics."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import numpy as np
from reference import scores
from reference.intervals import ap_interval, auroc_interval, pauroc_interval, rate_interval

KS, DRAWS, LEFT, SCALED_FROM = (0, 1, 5, 10, 50), 200, 5, 5


def columns(table) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN001
    return np.asarray(table["label"]), np.asarray(table["score"], np.float64)


def interval_card(table) -> dict[str, Any]:  # noqa: ANN001
    label, score = columns(table)
    out: dict[str, Any] = {"good": int(sum(label == 0)), "fault": int(sum(label == 1))}
    if out["good"] and out["fault"]:
        out["image_AUROC"] = list(auroc_interval(label, score)[1:])
        out["image_AP"] = list(ap_interval(label, score)[1:])
        out["image_pAUROC"] = list(pauroc_interval(label, score)[1:])
    return out


def group_card(table) -> dict[str, Any]:  # noqa: ANN001
    label, score = columns(table)
    group, out = np.asarray(table["group"]).astype(str), {}
    for name in sorted(set(group) - {""}):
        inside = group == name
        if len(set(label[inside])) == 2:
            value, *bounds = auroc_interval(label[inside], score[inside])
            out[name] = {"maps": int(inside.sum()), "image_AUROC": value, "interval": bounds}
    return out


def threshold_card(tables, threshold: float) -> dict[str, Any]:  # noqa: ANN001
    domains = {}
    for domain, table in tables.items():
        label, score = columns(table)
        domains[domain] = scores.decisions(label, score, threshold)
        hits, misses, false_alarms, quiet = scores.counts(label, score, threshold)
        if false_alarms + quiet:
            domains[domain]["FPR_interval"] = list(rate_interval(false_alarms, false_alarms + quiet)[1:])
        if hits + misses:
            domains[domain]["TPR_interval"] = list(rate_interval(hits, hits + misses)[1:])
    return {"threshold": threshold, "domains": domains}


def median(values) -> float:  # noqa: ANN001
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def sd(values) -> float:  # noqa: ANN001
    mean = sum(values) / len(values)
    return (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5


def repair_card(val, table) -> dict[str, dict[str, float]]:  # noqa: ANN001
    """FPR and TPR of a threshold that k good maps of the domain have moved, on the good maps that are left.

    The draws are documented as seeded; the generator (PCG64 of seed 0) and its order, a permutation of the good maps a
    draw, k after k, are the record's.
    """
    label, score = columns(val)
    known = [float(s) for s in score[label == 0]]
    label, score = columns(table)
    good, fault = score[label == 0], score[label == 1]
    if not known or not len(fault):
        return {}
    quantile, rng, out = scores.normal_quantile(np.array(known)), np.random.default_rng(0), {}
    for k in KS:
        if len(good) - k < LEFT:
            continue
        false, found = [], []
        for _ in range(DRAWS if k else 1):
            order = rng.permutation(len(good))
            used, rest = [float(good[i]) for i in order[:k]], [float(good[i]) for i in order[k:]]
            if k:
                above = quantile - median(known)
                if k >= SCALED_FROM and len(known) > 1 and sd(known) > 0:
                    above = above * sd(used) / sd(known)
                cut = float(np.nextafter(median(used) + above, np.inf))
            else:
                cut = float(np.nextafter(quantile, np.inf))
            false.append(sum(s >= cut for s in rest) / len(rest))
            found.append(sum(float(s) >= cut for s in fault) / len(fault))
        out[str(k)] = {"FPR": sum(false) / len(false), "TPR": sum(found) / len(found)}
    return out


def clamped(val, score: np.ndarray) -> list[float]:  # noqa: ANN001
    """Scores in anomalib's unit: the validation range is 1 wide, its F1 threshold 0.5; beyond [0, 1] at the clamp."""
    label, known = columns(val)
    centre, spread, out = scores.thresholds(label, known)["F1"], float(max(known) - min(known)), []
    for value in map(float, score):
        if spread == 0:
            out.append(0.5 if value == centre else float(value > centre))
        else:
            out.append(min(max((value - centre) / spread + 0.5, 0.0), 1.0))
    return out


def saturation_card(val, table) -> dict[str, Any]:  # noqa: ANN001
    label, score = columns(table)
    if len(set(label)) < 2 or len(set(np.asarray(val["label"]))) < 2:
        return {}
    squeezed = clamped(val, score)
    before, after = scores.auroc(label, score), scores.auroc(label, np.array(squeezed))
    share = sum(value in (0.0, 1.0) for value in squeezed) / len(squeezed)
    return {
        "image_AUROC": before,
        "clamped_AUROC": after,
        "clamped_fraction": share,
        "alarm": abs(before - after) > 0.01,
    }


def shift_card(tables, source: str, distances) -> dict[str, dict[str, float]]:  # noqa: ANN001
    out = {}
    home = scores.auroc(*columns(tables[source]))
    for domain, found in distances.items():
        away = scores.auroc(*columns(tables[domain])) if domain in tables else None
        out[domain] = {**found, **({"AUROC_drop": home - away} if None not in (home, away) else {})}
    return out


def dependence_card(table) -> dict[str, Any]:  # noqa: ANN001
    """Of each class in its files' order: correlation of neighbours, and maps over Geyer's autocorrelation time.

    Documented: scores less the mean of their group; 30 maps or more; neighbours above 1.96 / sqrt(n).
    """
    out = {}
    for name, label in (("good", 0), ("fault", 1)):
        rows = [row for row in table.to_dict("records") if row["label"] == label]
        rows.sort(key=lambda row: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row["path"])])
        groups = {row["group"] for row in rows}
        means = {g: np.mean([float(row["score"]) for row in rows if row["group"] == g]) for g in groups}
        score = np.array([float(row["score"]) - means[row["group"]] for row in rows])
        n = len(score)
        if n < 30 or np.std(score) == 0:
            continue
        beside = np.corrcoef(score[1:], score[:-1])[0, 1]
        if beside <= 1.96 / np.sqrt(n):
            continue
        centred = score - score.mean()
        rho = [np.sum(centred[: n - lag] * centred[lag:]) / np.sum(centred**2) for lag in range(n)]
        time = -1.0
        for first in range(0, n - 1, 2):
            if rho[first] + rho[first + 1] <= 0:
                break
            time += 2 * (rho[first] + rho[first + 1])
        out[name] = {"maps": n, "autocorrelation": beside, "effective": n / max(time, 1.0)}
    return out


def ranks(values) -> list[float]:  # noqa: ANN001
    """Mid-ranks, counted."""
    return [sum(other < one for other in values) + sum(other == one for other in values) / 2 for one in values]


def natural(path: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def auroc(good: list[float], fault: list[float]) -> float:
    return sum((f > g) + (f == g) / 2 for f in fault for g in good) / (len(good) * len(fault))


def confound_card(table) -> dict[str, Any]:  # noqa: ANN001
    """Documented: rank correlations from 10 healthy maps on; fifths by mean or maximum, ties in the given order."""
    out: dict[str, Any] = {}
    rows = table.to_dict("records")
    good = [row for row in rows if row["label"] == 0]
    places = sorted(range(len(good)), key=lambda i: natural(good[i]["path"]))
    for place, i in enumerate(places):
        good[i]["file"] = place
    if len(good) >= 10 and len({row["score"] for row in good}) > 1:
        out["follows"] = {}
        for name in ("image_mean", "image_max", "file"):
            values = [row[name] for row in good]
            if len(set(values)) > 1:
                pair = ranks([row["score"] for row in good]), ranks(values)
                out["follows"][name] = float(np.corrcoef(*pair)[0, 1])
    if len({row["label"] for row in rows}) == 2:
        out["image_AUROC"] = auroc(*([row["score"] for row in rows if row["label"] == one] for one in (0, 1)))
        out["within"] = {}
        for name in ("image_mean", "image_max"):
            order = sorted(range(len(rows)), key=lambda i: rows[i][name])
            count, total, weight = min(5, len(rows)), 0.0, 0
            edges = [1 + (len(rows) - 1) * i / count for i in range(count + 1)]  # of the ranks, as quantiles
            for stratum in range(count):
                low, high = edges[stratum], edges[stratum + 1]
                mine = [
                    rows[i] for rank, i in enumerate(order, 1) if low < rank <= high or (stratum == 0 and rank == 1)
                ]
                sides = [[row["score"] for row in mine if row["label"] == one] for one in (0, 1)]
                if all(sides):
                    pairs = len(sides[0]) * len(sides[1])
                    total, weight = total + auroc(*sides) * pairs, weight + pairs
            if weight:
                out["within"][name] = total / weight
    groups = sorted({str(row["group"]) for row in good} - {""})
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            found = auroc(*([row["score"] for row in good if row["group"] == name] for name in (other, one)))
            out.setdefault("states", {})[f"{one}, {other}"] = max(found, 1 - found)
    return out


def severity_card(table, fitted: dict[str, float]) -> dict[str, Any]:  # noqa: ANN001
    """Documented: quarters of the fault maps by severity, or one band for each of four severities or fewer."""
    rows = table.to_dict("records")
    known = [row for row in rows if row["label"] == 1 and not math.isnan(row.get("severity", math.nan))]
    different = sorted({row["severity"] for row in known})
    if len(different) < 2 or all(row["label"] for row in rows):
        return {}
    edges = sorted(set(np.quantile([row["severity"] for row in known], [0, 0.25, 0.5, 0.75, 1])))
    ranges = list(pairwise(edges)) if len(different) > 4 else [(one, one) for one in different]
    out = {}
    for i, (low, high) in enumerate(ranges):
        mine = [r for r in known if low < r["severity"] <= high or (r["severity"] == low and (low == high or i == 0))]
        good = [row["score"] for row in rows if row["label"] == 0]
        scores = [row["score"] for row in mine]
        label = np.repeat([0, 1], [len(good), len(scores)])
        value, *bounds = auroc_interval(label, np.array(good + scores, float))
        ends = min(row["severity"] for row in mine), max(row["severity"] for row in mine)
        name = f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
        out[name] = {"low": ends[0], "high": ends[1], "maps": len(mine), "image_AUROC": value}
        out[name]["image_AUROC_interval"] = bounds
        if "normal_q99" in fitted:
            hits = sum(score >= fitted["normal_q99"] for score in np.array(scores, float))
            out[name]["TPR"], *out[name]["TPR_interval"] = rate_interval(int(hits), len(scores))
    return out


def cards(val, source: str, tables, distances=None) -> dict[str, Any]:  # noqa: ANN001
    """All cards; `tables` are the reported maps by domain, the source among them. A domain without a card is absent."""
    fitted = scores.thresholds(*columns(val))
    made = {
        "groups": {domain: group_card(table) for domain, table in tables.items()},
        "repair": {domain: repair_card(val, table) for domain, table in tables.items()},
        "saturation": {domain: saturation_card(val, table) for domain, table in tables.items()},
    }
    return {
        "intervals": {domain: interval_card(table) for domain, table in tables.items()},
        "thresholds": {name: threshold_card(tables, value) for name, value in fitted.items()},
        **{name: {domain: card for domain, card in found.items() if card} for name, found in made.items()},
        "shift": shift_card(tables, source, distances or {}),
        "confounds": {domain: card for domain, table in tables.items() if (card := confound_card(table))},
        "severity": {d: card for d, table in tables.items() if (card := severity_card(table, fitted))},
        "dependence": {domain: card for domain, table in tables.items() if (card := dependence_card(table))},
    }
