"""Reference: the card `adaptation` of a run source only, by counting, from the raw scores that it kept.

The draws are documented as seeded: PCG64 of the seed, the draw and the CRC-32 of the domain's name; the first k of a
permutation of the kept healthy maps, in their order.
"""

from __future__ import annotations

import math
from typing import Any
from zlib import crc32

import numpy as np
from reference import scores
from reference.cards import median, sd
from reference.intervals import auroc_interval, rate_interval

KS, DRAWS = (0, 1, 4, 16, 64), 3
RATES = {"normal_q99": 0.99, "normal_q95": 0.95}
LEAST = {"z": 1, "robust_z": 2, "conformal": 1}


def moved(chain: str, normals: list[float], source: list[float], score: list[float], log: bool) -> list[float]:
    if not normals:
        return score
    if chain == "conformal":
        return [1 - (1 + sum(n >= s for n in normals)) / (len(normals) + 1) for s in score]
    if chain == "robust_z":
        away = 1.4826 * median([abs(n - median(normals)) for n in normals])
        return [(s - median(normals)) / away for s in score]
    scale = math.log if log else float
    mine, theirs, k = [scale(n) for n in normals], [scale(n) for n in source], len(normals)
    spread = (8 * sd(theirs) ** 2 + ((k - 1) * sd(mine) ** 2 if k > 1 else 0)) / (7 + k)
    return [(scale(s) - median(mine)) / math.sqrt(spread) for s in score]


def measured(
    label: np.ndarray, score: np.ndarray, cuts: dict[str, float]
) -> dict[str, tuple[float, list[float] | None]]:
    """Figures and their bounds; what a domain cannot have is absent."""
    out: dict[str, tuple[float, list[float] | None]] = {}
    if len(set(label)) == 2:
        out["image_AUROC"] = (scores.auroc(label, score), list(auroc_interval(label, score)[1:]))  # type: ignore[assignment]
    for name, cut in cuts.items():
        hits, misses, false_alarms, quiet = scores.counts(label, score, cut)
        for rate, of, rest in (("FPR", false_alarms, quiet), ("TPR", hits, misses)):
            if of + rest:
                out[f"{rate}_at_{name}"] = (of / (of + rest), list(rate_interval(of, of + rest)[1:]))
    return out


def one_draw(chain, k, number, val, reported, healthy, source, log) -> dict[str, Any]:  # noqa: ANN001
    """Scopes of a draw: figures with bounds, and for means None."""
    known = [float(s) for s, label in zip(val["score"], val["label"], strict=True) if not label]
    tables, cuts = {}, {}
    for domain, table in reported.items():
        normals = known if domain == source else []
        if domain != source and k:
            seed = [0, number, crc32(domain.encode())]
            order = np.random.default_rng(seed).permutation(len(healthy[domain]))[:k]
            normals = [healthy[domain][i] for i in order]
        after = moved(chain, normals if k else [], known, [float(s) for s in table["score"]], log)
        tables[domain] = np.asarray(table["label"]), np.array(after)
    own = np.array(moved(chain, known if k else [], known, known, log))
    for name, share in RATES.items():
        fixed = k and chain == "conformal"
        cuts[name] = share if fixed else math.nextafter(scores.normal_quantile(own, round(100 * share)), math.inf)
    out = {f"target/{d}": measured(*tables[d], cuts) for d in reported if d != source}
    joined: dict[str, list[float]] = {}
    for of in out.values():
        for name, (value, _) in of.items():
            joined.setdefault(name, []).append(value)
    out["target_mean"] = {name: (sum(of) / len(of), None) for name, of in joined.items()}
    out["target_worst"] = {name: ((max if "FPR" in name else min)(of), None) for name, of in joined.items()}
    label, score = (np.concatenate([table[i] for table in tables.values()]) for i in (0, 1))
    out["pooled"] = {"image_AUROC": (scores.auroc(label, score), None)}
    return out


def card(val, reported, kept, source: str) -> dict[str, Any]:  # noqa: ANN001
    targets = [domain for domain in reported if domain != source]
    healthy = {d: kept[d].loc[kept[d]["split"] == "reference", "score"].astype(float).tolist() for d in targets}
    log = all((table["score"] > 0).all() for table in kept.values())
    curve: dict[str, Any] = {}
    for chain, least in LEAST.items():
        for k in KS:
            if k > min(map(len, healthy.values())) or 0 < k < least:
                continue
            draws = [one_draw(chain, k, i, val, reported, healthy, source, log) for i in range(DRAWS if k else 1)]
            found: dict[str, Any] = {}
            for scope, names in draws[0].items():
                for name, (_, bounds) in names.items():
                    values = [draw[scope][name][0] for draw in draws]
                    found.setdefault(scope, {})[name] = {"mean": sum(values) / len(values)}
                    if k:
                        found[scope][name]["sd"] = sd(values)
                    if bounds:
                        every = [draw[scope][name][1] for draw in draws]
                        found[scope][name]["interval"] = [sum(end) / len(end) for end in zip(*every, strict=True)]
            curve.setdefault(chain, {})[str(k)] = found
    return {
        "chain": "z",
        "k": 0,
        "protocol": "source_only",
        "maps": {domain: len(of) for domain, of in healthy.items()},
        "scale": "log" if log else "score",
        "curve": curve,
        "left_out": {},
    }
