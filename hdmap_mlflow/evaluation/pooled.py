"""Metrics over domains on one score scale, where an offset between domains counts; no domain's own AUROC shows it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pandas as pd
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from hdmap_mlflow.names import AUROC, Scope, domain_flaw, metric_name

PARTIAL = 0.1  # the largest FPR of the partial AUROC
MOST_STATES = 4  # groups of a domain; a metric for every pair of more would bury the others
LONGEST_STATE = 60  # characters; two and a domain fit the 250 of a metric's name


def partial_auroc(label: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve up to an FPR of .1, in [0, 1]; .5 is chance.

    Standardised after McClish, Analyzing a Portion of the ROC Curve (Medical Decision Making 9, 1989), as DCASE does.
    """
    return float(roc_auc_score(label, score, max_fpr=PARTIAL))


def over_domains(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Metrics of the reported maps of several domains, by full name; what lacks a class is absent.

    `pooled/image_AUROC`: all domains as one. `cross/<a>/<b>/image_AUROC`: good maps of a against fault maps of b.
    `harmonic/image_AUROC`: the score of DCASE's Task 2 (Dohi et al., First-Shot Unsupervised Anomalous Sound Detection,
    DCASE 2023), the harmonic mean of the AUROC of each domain's good maps against the fault maps of all domains, and of
    the partial AUROC of all domains pooled. Only for two domains or more.
    """
    if len(tables) < 2:
        return {}
    good, fault = _scores(tables, 0), _scores(tables, 1)
    out = {
        metric_name(f"{Scope.CROSS}/{one}/{other}", AUROC): _auroc(good[one], fault[other])
        for one in tables
        for other in tables
        if one != other and len(good[one]) and len(fault[other])
    }
    normal, faults = (np.concatenate(list(parts.values())) for parts in (good, fault))
    if len(normal) and len(faults):
        label = np.repeat([0, 1], [len(normal), len(faults)])
        each = sorted(_auroc(maps, faults) for maps in good.values() if len(maps))
        out[metric_name(Scope.POOLED, AUROC)] = _auroc(normal, faults)
        partial = partial_auroc(label, np.concatenate([normal, faults]))
        out[metric_name(Scope.HARMONIC, AUROC)] = float(hmean([*each, partial]))
    return out


def over_states(domain: str, table: pd.DataFrame) -> dict[str, float]:
    """`cross/<domain>/<a>/<b>/image_AUROC`: good maps of group a (a state such as cold) against fault maps of group b.

    Of the reported maps of one domain that names two to four groups; what lacks a class is absent, and so is a group
    whose name a metric cannot bear.
    """
    names = sorted(set(table["group"].astype(str)) - {""})
    if len(names) > MOST_STATES:
        return {}
    fit = [name for name in names if len(name) <= LONGEST_STATE and not domain_flaw(name)]
    of = {name: table[table["group"].astype(str) == name] for name in fit}
    good = {name: part["score"][part["label"] == 0].to_numpy(np.float64) for name, part in of.items()}
    fault = {name: part["score"][part["label"] == 1].to_numpy(np.float64) for name, part in of.items()}
    return {
        metric_name(f"{Scope.CROSS}/{domain}/{one}/{other}", AUROC): _auroc(good[one], fault[other])
        for one, other in permutations(of, 2)
        if len(good[one]) and len(fault[other])
    }


def pooled_auroc(tables: Mapping[str, pd.DataFrame]) -> float | None:
    """`pooled/image_AUROC` alone; None where the maps lack a class."""
    normal, faults = (np.concatenate(list(_scores(tables, label).values())) for label in (0, 1))
    return _auroc(normal, faults) if len(normal) and len(faults) else None


def _scores(tables: Mapping[str, pd.DataFrame], label: int) -> dict[str, np.ndarray]:
    return {d: table["score"][table["label"] == label].to_numpy(np.float64) for d, table in tables.items()}


def _auroc(good: np.ndarray, fault: np.ndarray) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(good), len(fault)]), np.concatenate([good, fault])))
