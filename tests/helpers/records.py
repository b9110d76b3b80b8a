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
    metrics |= {"cost/train_maps": 128.0}
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


def all_but(target, quality, model="good"):
    """A run that was trained on the other two, as `record` makes one of a single source."""
    names = [name for name in DOMAINS if name != target]
    one = record(model, names[0], 0, quality)
    found = {**one.scores, names[1]: pd.concat([scores(names[1], quality, 5, "val"), one.scores[names[1]]])}
    found[target] = scores(target, quality, 90)
    source = ",".join(names)
    tags = {**one.tags, "hdmap.source": source, "hdmap.fingerprint": f"{model}{source}"}
    return replace(one, run_id=source, scores=found, tags=tags, params={**one.params, "data.source_domain": source})


def grid(models=(("good", 2.5), ("poor", 1.0)), sources="AB", seeds=(0, 1)):
    return [record(m, s, seed, q) for m, q in models for s in sources for seed in seeds]


def retagged(one, **tags):
    return replace(one, tags={**one.tags, **{f"hdmap.{k}": v for k, v in tags.items()}})


def adapted(one, chain="merge-z", k=16, fpr=0.04):
    """The run after `hdmap adapt`: scores of healthy maps, metrics of a chain with k maps, and the card."""
    scope, tables = f"adapted/{chain}/k{k}", {d: with_reference(d, table) for d, table in one.scores.items()}
    if chain.startswith(
        "merge"
    ):  # which changes the model: scores of each draw are kept, with faults lifted by a point
        for i, (domain, table) in ((i, item) for i in range(3) for item in tables.items()):
            lifted = table["score"] + (1 + i / 10) * table["label"] * (domain != one.source)
            if not (i and domain == one.source):
                kept = lifted.where(table["split"] != "reference")
                tables[domain] = tables[domain].assign(**{f"{scope}/{i}": kept})
    metrics = {"target_mean/FPR_at_normal_q99": 0.36, "target_mean/TPR_at_normal_q99": 0.5, "pooled/image_AUROC": 0.6}
    for domain in set(one.scores) - {one.source}:
        rates = {"FPR_at_normal_q99": fpr, "TPR_at_normal_q99": 0.6, "image_AUROC": 0.9}
        metrics |= {f"{scope}/target/{domain}/{name}": value for name, value in rates.items()}
    metrics |= {f"{scope}/target_mean/FPR_at_normal_q99": fpr, f"{scope}/target_mean/TPR_at_normal_q99": 0.6}
    metrics |= {f"{scope}/pooled/image_AUROC": 0.7}
    card = {"curve": {chain.replace("-", "+"): curve(k, fpr), "robust_z": curve(k, 3 * fpr)}}
    return replace(
        one,
        scores=tables,
        metrics={**one.metrics, **metrics},
        cards={**one.cards, "adaptation": card},
    )


def with_reference(domain, table):
    """A table of scores with those of 20 healthy maps beside."""
    if (table["split"] == "reference").any():
        return table
    healthy = scores(domain, 0, 99, "reference").query("label == 0")
    return pd.concat([table, healthy], ignore_index=True).assign(recording="")


def curve(k, fpr):
    """A chain's part of the card `adaptation`: figures at no map, at one, and at k and 4 k, which bring the same."""
    found = {}
    for count, rate in ((0, 0.36), (1, 0.2), (k, fpr), (4 * k, fpr - 0.004)):
        rates = {"FPR_at_normal_q99": rate, "FPR_at_normal_q95": rate + 0.1}
        values = {"image_AUROC": 0.8, "TPR_at_normal_q99": 0.5, "TPR_at_normal_q95": 0.6} | rates
        figures = {name: {"mean": value} | ({"sd": 0.02} if count else {}) for name, value in values.items()}
        found[str(count)] = {"target_mean": figures, "pooled": {"image_AUROC": {"mean": 0.6 + count / 1000}}}
    return found
