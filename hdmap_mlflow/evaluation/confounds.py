"""What else a score follows: the brightness of a map, its place among the files, the state of the machine."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import pandas as pd
from natsort import index_natsorted
from scipy.stats import spearmanr

from hdmap_mlflow.evaluation.intervals import placements

STRATA = 5  # of equal numbers of maps
FEWEST = 10  # healthy maps from which on a rank correlation is told
STRONG = 0.5  # a rank correlation from which on a score is said to follow something
INTENSITIES = {"image_mean": "mean", "image_max": "maximum"}


class ConfoundCard(TypedDict, total=False):
    """Of one domain; what its maps do not allow to measure is absent.

    `follows` are Spearman's rank correlations of the score among healthy maps, in [-1, 1], with `image_mean`,
    `image_max` and `file` (the index in the files' order). `image_AUROC` is that of all maps, and `within` the mean
    AUROC inside strata of equal `image_mean` or `image_max`, weighted by the pairs of maps in each. `states` is the
    AUROC at which the score tells two groups of healthy maps apart, in [.5, 1], by `group, group`.
    """

    follows: dict[str, float]
    image_AUROC: float
    within: dict[str, float]
    states: dict[str, float]


def confounds(table: pd.DataFrame) -> ConfoundCard:
    """What the scores of a domain's maps (see `Scores`) follow beside the damage."""
    out: ConfoundCard = {}
    good = table[table["label"] == 0]
    files = pd.Series(np.argsort(index_natsorted(good["path"])), good.index)
    beside = {name: good[name] for name in INTENSITIES} | {"file": files}
    if len(good) >= FEWEST and good["score"].nunique() > 1:
        out["follows"] = {
            name: float(spearmanr(good["score"], values).statistic)
            for name, values in beside.items()
            if values.nunique() > 1
        }
    if table["label"].nunique() == 2:
        out["image_AUROC"] = _auroc(table)
        within = {name: value for name in INTENSITIES if (value := _within(table, name)) is not None}
        out |= {"within": within}
    groups = sorted(set(good["group"].astype(str)) - {""})
    states = {}
    for i, one in enumerate(groups):
        for other in groups[i + 1 :]:
            pair = good[good["group"].isin([one, other])]
            found = _auroc(pair.assign(label=(pair["group"] == one).astype(int)))
            states[f"{one}, {other}"] = max(found, 1 - found)
    return out | ({"states": states} if states else {})


def _auroc(table: pd.DataFrame) -> float:
    return placements(table["label"].to_numpy(int), table["score"].to_numpy(np.float64)).auroc


def _within(table: pd.DataFrame, column: str) -> float | None:
    """Mean AUROC inside strata of equal values of a column; None where no stratum has maps of both classes."""
    strata = pd.qcut(table[column].rank(method="first"), min(STRATA, len(table)), labels=False)
    parts = [part for _, part in table.groupby(strata) if part["label"].nunique() == 2]
    if not parts:
        return None
    pairs = [int((part["label"] == 0).sum() * (part["label"] == 1).sum()) for part in parts]
    return float(np.average([_auroc(part) for part in parts], weights=pairs))


def told(domain: str, card: ConfoundCard) -> list[str]:
    """In words where a score follows brightness, the files' order or the state rather than the fault."""
    lines = []
    for name, word in INTENSITIES.items():
        follows, within = card.get("follows", {}).get(name, 0.0), card.get("within", {}).get(name)
        overall = card.get("image_AUROC", 0.5)
        if abs(follows) >= STRONG and within is not None and overall > 0.5 and within - 0.5 < (overall - 0.5) / 2:
            lines.append(
                f"{domain}: the score follows the map's {word} (rank correlation {follows:+.2f} among healthy maps), "
                f"and among maps of equal {word} the AUROC is {within:.3f} in place of {overall:.3f}: the model sees "
                "brightness rather than the fault."
            )
    if abs(follows := card.get("follows", {}).get("file", 0.0)) >= STRONG:
        lines.append(
            f"{domain}: the score of healthy maps drifts with the order of the files (rank correlation {follows:.2f})."
        )
    for pair, value in card.get("states", {}).items():
        one, other = pair.split(", ", 1)
        if value > max(card.get("image_AUROC", 0.5), 0.75):
            lines.append(
                f"{domain}: the score tells the healthy maps of {one} and {other} apart (AUROC {value:.3f}) "
                "better than faults."
            )
    return lines
