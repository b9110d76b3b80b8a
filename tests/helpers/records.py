"""Records of runs made by hand: three domains A, B, C of 40 maps, models of a given quality."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm

from hdmap_mlflow.runs.history import RunRecord

DOMAINS = ("A", "B", "C")


def scores(domain, quality, seed, split="test", n=40):
    """Evenly spread scores, so that the same call gives the same table on every machine.

    The maps themselves, and so their maxima and means, are the domain's and the split's; a run only scores them.
    """
    rng, maps = np.random.default_rng([ord(domain), seed]), np.random.default_rng([ord(domain), len(split)])
    label = np.repeat([0, 1], n // 2)
    score = np.round(norm.ppf((rng.permutation(n) + 0.5) / n) + quality * label, 6)
    trivial = np.round(maps.uniform(size=n) + 0.3 * label, 6)
    paths = [f"{split}/{i:03d}.tiff" for i in range(n)]
    return pd.DataFrame(
        {
            "path": paths,
            "label": label,
            "group": "",
            "split": split,
            "score": score,
            "image_max": trivial,
            "image_mean": trivial[::-1],
            "image_row": np.round(1 + maps.uniform(size=n) + 0.1 * label, 6),
        }
    )


def record(model, source, seed, quality, **changes):
    found = {d: scores(d, quality - 0.5 * (d != source), seed + 10 * len(model)) for d in DOMAINS}
    found[source] = pd.concat([scores(source, quality, seed + 7, "val"), found[source]])
    tags = {"model": model, "condition": "quick", "source": source, "validation": "source_holdout", "data_digest": "d1"}
    tags |= {"fingerprint": f"{model}{source}{seed}", "simulated": "true", "weights": "embedded:1"}
    params = {"train.seed": str(seed), "data.source_domain": source, "model.depth": "3"}
    metrics = {"cost/fit_seconds": 2.0 + seed, "cost/evaluate_seconds": 1.0, "cost/fit_peak_MB": 500.0}
    base = RunRecord(
        f"{model}{source}{seed}",
        f"{model}/{source}/s{seed}",
        "FINISHED",
        params,
        metrics,
        {f"hdmap.{k}": v for k, v in tags.items()},
        started=seed,
        scores=found,
    )
    return replace(base, **changes)


def grid(models=(("good", 2.5), ("poor", 1.0)), sources="AB", seeds=(0, 1)):
    return [record(m, s, seed, q) for m, q in models for s in sources for seed in seeds]


def retagged(one, **tags):
    return replace(one, tags={**one.tags, **{f"hdmap.{k}": v for k, v in tags.items()}})
