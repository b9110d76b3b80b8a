"""Reference: what is measured of labels and scores, by counting. A fault is an alarm when its score is at or above."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import numpy as np
from reference import intervals

Labels = Scores = np.ndarray


def counts(label: Labels, score: Scores, threshold: float) -> tuple[int, int, int, int]:
    """Hits, misses, false alarms and quiet good maps at a threshold."""
    hits = misses = false_alarms = quiet = 0
    for is_fault, value in zip(label, score, strict=True):
        alarm = float(value) >= threshold
        hits += bool(is_fault and alarm)
        misses += bool(is_fault and not alarm)
        false_alarms += bool(not is_fault and alarm)
        quiet += bool(not is_fault and not alarm)
    return hits, misses, false_alarms, quiet


def auroc(label: Labels, score: Scores) -> float | None:
    """Share of the pairs (fault, good) in which the fault scores higher; a tie is half a pair. None without pairs."""
    fault, good = [float(s) for s in score[label == 1]], [float(s) for s in score[label == 0]]
    if not fault or not good:
        return None
    won = sum(1.0 if f > g else 0.5 if f == g else 0.0 for f in fault for g in good)
    return won / (len(fault) * len(good))


def average_precision(label: Labels, score: Scores) -> float:
    """Precision at every distinct score, from the highest down, weighed by the recall that it adds."""
    total, before = 0.0, 0.0
    for cut in sorted({float(s) for s in score}, reverse=True):
        hits, misses, false_alarms, _ = counts(label, score, cut)
        recall = hits / (hits + misses)
        total += (recall - before) * hits / (hits + false_alarms)
        before = recall
    return total


def tpr_at_fpr(label: Labels, score: Scores, percent: int = 1) -> float:
    """The largest share of faults found by a threshold that calls at most so many percent of the good maps."""
    best = 0.0
    for cut in {float(s) for s in score}:
        hits, misses, false_alarms, quiet = counts(label, score, cut)
        if 100 * false_alarms <= percent * (false_alarms + quiet):
            best = max(best, hits / (hits + misses))
    return best


def fpr_at_tpr(label: Labels, score: Scores, percent: int = 95) -> float:
    """The smallest share of good maps called by a threshold that finds at least so many percent of the faults."""
    best = 1.0
    for cut in {float(s) for s in score}:
        hits, misses, false_alarms, quiet = counts(label, score, cut)
        if 100 * hits >= percent * (hits + misses):
            best = min(best, false_alarms / (false_alarms + quiet))
    return best


def normal_quantile(score: Scores, percent: int = 99) -> float:
    """The lowest observed score that at least so many percent of the scores do not exceed."""
    ordered = sorted(float(s) for s in score)
    return next(s for i, s in enumerate(ordered, 1) if 100 * i >= percent * len(ordered))


def best_cuts(label: Labels, score: Scores, kind: str) -> list[float]:
    """Every observed score at which the F1, or TPR - FPR (Youden), is largest; exact, from the lowest up."""
    found: dict[float, Fraction] = {}
    for cut in sorted({float(s) for s in score}):
        hits, misses, false_alarms, quiet = counts(label, score, cut)
        if kind == "F1":
            found[cut] = Fraction(2 * hits, 2 * hits + misses + false_alarms)
        else:
            found[cut] = Fraction(hits, hits + misses) - Fraction(false_alarms, false_alarms + quiet)
    return [cut for cut, value in found.items() if value == max(found.values())]


def partial_auroc(label: Labels, score: Scores, limit: float = 0.1) -> float:
    """Area under the straight lines between the points of the ROC curve, up to an FPR; McClish's scale."""
    points = [(0.0, 0.0)]
    for cut in sorted({float(s) for s in score}, reverse=True):
        hits, misses, false_alarms, quiet = counts(label, score, cut)
        points.append((false_alarms / (false_alarms + quiet), hits / (hits + misses)))
    area = 0.0
    for (x, y), (further, higher) in pairwise(points):
        end = min(further, limit)
        if end > x:
            at_end = y + (higher - y) * (end - x) / (further - x)
            area += (end - x) * (y + at_end) / 2
    least, most = limit**2 / 2, limit
    return (1 + (area - least) / (most - least)) / 2


def over_domains(tables) -> dict[str, float]:  # noqa: ANN001
    """Good maps of one domain against fault maps of another, all as one, and DCASE's harmonic mean."""
    if len(tables) < 2:
        return {}
    good = {
        d: [float(s) for s, is_fault in zip(t["score"], t["label"], strict=True) if not is_fault]
        for d, t in tables.items()
    }
    fault = {
        d: [float(s) for s, is_fault in zip(t["score"], t["label"], strict=True) if is_fault] for d, t in tables.items()
    }

    def measured(some: list[float], others: list[float]) -> float | None:
        return auroc(np.repeat([0, 1], [len(some), len(others)]), np.array(some + others))

    out = {
        f"cross/{one}/{other}/image_AUROC": measured(good[one], fault[other])
        for one in tables
        for other in tables
        if one != other
    }
    goods, faults = sum(good.values(), []), sum(fault.values(), [])
    out["pooled/image_AUROC"] = measured(goods, faults)
    if goods and faults:
        label = np.repeat([0, 1], [len(goods), len(faults)])
        each = [measured(maps, faults) for maps in good.values() if maps]
        each.append(partial_auroc(label, np.array(goods + faults)))
        out["harmonic/image_AUROC"] = 0.0 if 0 in each else len(each) / sum(1 / value for value in each)
    return {name: value for name, value in out.items() if value is not None}


def over_states(domain, table) -> dict[str, float]:  # noqa: ANN001
    """Good maps of one of a domain's groups against fault maps of another, within the domain."""
    if "group" not in table:
        return {}
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for group, label, score in zip(table["group"], table["label"], table["score"], strict=True):
        scores.setdefault(group, ([], []))[label].append(float(score))
    out = {}
    for one, (good, _) in scores.items():
        for other, (_, fault) in scores.items():
            if one and other and one != other and good and fault:
                label = np.repeat([0, 1], [len(good), len(fault)])
                out[f"cross/{domain}/{one}/{other}/image_AUROC"] = auroc(label, np.array(good + fault))
    return out


def thresholds(label: Labels, score: Scores) -> dict[str, float]:
    """Thresholds of validation maps. Of several that are equally good: the lowest for F1, the highest for Youden."""
    out = {}
    if (label == 0).any():
        for percent in (99, 95):
            quantile = normal_quantile(score[label == 0], percent)
            out[f"normal_q{percent}"] = float(np.nextafter(quantile, np.inf))
    if (label == 0).any() and (label == 1).any():
        out["F1"] = best_cuts(label, score, "F1")[0]
        out["youden"] = best_cuts(label, score, "youden")[-1]
    return out


def f1(label: Labels, score: Scores, threshold: float) -> float:
    hits, misses, false_alarms, _ = counts(label, score, threshold)
    return 2 * hits / (2 * hits + misses + false_alarms)


def decisions(label: Labels, score: Scores, threshold: float) -> dict[str, float]:
    """What a threshold does; what needs a class or an alarm that is not there is absent."""
    hits, misses, false_alarms, quiet = counts(label, score, threshold)
    faults, goods = hits + misses, false_alarms + quiet
    out = {}
    if faults + goods:
        out["accuracy"] = (hits + quiet) / (faults + goods)
    if goods:
        out["FPR"] = false_alarms / goods
    if faults:
        out["TPR"] = hits / faults
    if faults and goods:
        out["F1"] = f1(label, score, threshold)
        out["balanced_accuracy"] = (hits / faults + quiet / goods) / 2
        if hits + false_alarms:
            out["precision"] = hits / (hits + false_alarms)
    return out


def domain_metrics(table: Mapping[str, np.ndarray], fitted: Mapping[str, float]) -> dict[str, float]:
    """Image metrics of one domain's reported maps; the table has label, score, image_max, image_mean and image_row."""
    label, score = np.asarray(table["label"]), np.asarray(table["score"], np.float64)
    out = {}
    if auroc(label, score) is not None:
        out = {
            "image_AUROC": auroc(label, score),
            "image_AP": average_precision(label, score),
            "image_pAUROC": partial_auroc(label, score),
            "image_TPR_at_1FPR": tpr_at_fpr(label, score),
            "image_TPR_at_5FPR": tpr_at_fpr(label, score, 5),
            "image_FPR_at_95TPR": fpr_at_tpr(label, score),
            "baseline_max_AUROC": auroc(label, np.asarray(table["image_max"])),
            "baseline_mean_AUROC": auroc(label, np.asarray(table["image_mean"])),
            "baseline_row_AUROC": auroc(label, np.asarray(table["image_row"])),
        }
        if "F1" in fitted:
            out["image_F1"] = f1(label, score, fitted["F1"])
    for quantile in {"normal_q99", "normal_q95"} & set(fitted):
        made = decisions(label, score, fitted[quantile])
        out |= {f"{name}_at_{quantile}": made[name] for name in ("FPR", "TPR") if name in made}
    return out


def run_metrics(val, source, targets, source_pixel=None, target_pixel=None, name="a") -> dict[str, float]:  # noqa: ANN001
    """Every metric of a run by its full name, from tables: validation, reported source, and a table a target.

    `source_pixel` and `target_pixel` (by domain) are pixel metrics, where masks exist.
    """
    label, score = np.asarray(val["label"]), np.asarray(val["score"], np.float64)
    fitted = thresholds(label, score)
    out = {f"val/threshold_{name}": value for name, value in fitted.items()}
    if auroc(label, score) is not None:
        out |= {"val/image_AUROC": auroc(label, score), "val/image_AP": average_precision(label, score)}
        out["val/image_F1"] = f1(label, score, fitted["F1"])
    at_home = domain_metrics(source, fitted) | (source_pixel or {})
    out |= {f"source/{name}": value for name, value in at_home.items()}
    out |= over_domains({name: source} | dict(targets))
    out |= {k: v for d, t in {name: source, **targets}.items() for k, v in over_states(d, t).items()}
    away, rates = [], {f"{rate}_at_normal_{q}": [] for rate in ("FPR", "TPR") for q in ("q99", "q95")}
    for domain, table in targets.items():
        found = domain_metrics(table, fitted) | (target_pixel or {}).get(domain, {})
        out |= {f"target/{domain}/{name}": value for name, value in found.items()}
        away += [found["image_AUROC"]] if "image_AUROC" in found else []
        for name, values in rates.items():
            values += [found[name]] if name in found else []
    for name, values in rates.items():
        if values:
            worst = max(values) if name.startswith("FPR") else min(values)
            out |= {f"target_mean/{name}": sum(values) / len(values), f"target_worst/{name}": worst}
    if not away:
        return out
    mean = sum(away) / len(away)
    out |= {"target_mean/image_AUROC": mean, "target_worst/image_AUROC": sorted(away)[0]}
    home = at_home.get("image_AUROC", 0)
    if home > 0:
        out |= {"transfer/ratio": mean / home, "transfer/gap": home - mean}
    if home > 0 and intervals.auroc_interval(source["label"], np.asarray(source["score"], np.float64))[1] > 0.5:
        out["transfer/skill"] = (mean - 0.5) / (home - 0.5)
    return out


def grade(ratio: float | None) -> str:
    """The guideline's word: excellent above .9, good above .8, fair above .7, else poor."""
    if ratio is None:
        return "undefined"
    for limit, word in ((0.9, "excellent"), (0.8, "good"), (0.7, "fair")):
        if ratio > limit:
            return word
    return "poor"
