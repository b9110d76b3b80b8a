"""Confidence intervals and tests by their definitions, slowly: numpy and scipy's distributions, nothing of the package.

Every function takes labels (0 good, 1 fault) and scores as arrays; scores are (n,), or (models, n) where the models'
mean is meant. Intervals are at 95 %, and come as (value, low, high).
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, t

Z = norm.ppf(0.975)


def components(label, scores):
    """DeLong's components, pair by pair: a row a fault map, a column a good map, 1 a win and 1/2 a tie."""
    table = np.atleast_2d(np.asarray(scores, float))
    wins = np.zeros((int(sum(label == 1)), int(sum(label == 0))))
    for model in table:
        for i, fault in enumerate(model[label == 1]):
            for j, good in enumerate(model[label == 0]):
                wins[i, j] += 1.0 if fault > good else 0.5 if fault == good else 0.0
    return wins / len(table)


def delong_variance(wins):
    """Of the mean of `wins`; None where a class has a single map."""
    faults, goods = wins.shape
    if faults < 2 or goods < 2:
        return None
    return np.var(wins.mean(axis=1), ddof=1) / faults + np.var(wins.mean(axis=0), ddof=1) / goods


def newcombe(auroc, faults, goods):
    """Method 5 of Newcombe (Statistics in Medicine 25, 2006): the t whose distance from the AUROC is z sd(t)."""

    def too_far(t):
        spread = 1 + ((faults + goods) / 2 - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        return abs(t - auroc) > Z * np.sqrt(t * (1 - t) * spread / (faults * goods))

    def edge(outside):
        inside = auroc
        for _ in range(200):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if too_far(middle) else (outside, middle)
        return inside

    return (edge(0.0) if auroc > 0 else 0.0), (edge(1.0) if auroc < 1 else 1.0)


def on_logits(centre, spread):
    middle, half = np.log(centre / (1 - centre)), Z * spread / (centre * (1 - centre))
    return 1 / (1 + np.exp(half - middle)), 1 / (1 + np.exp(-half - middle))


def auroc_interval(label, scores):
    """DeLong's on the logit scale; Newcombe's where DeLong's variance vanishes or does not exist."""
    wins = components(np.asarray(label), scores)
    value, variance = wins.mean(), delong_variance(wins)
    if variance is None or variance < 1e-15 or not 1e-12 < value < 1 - 1e-12:
        return value, *newcombe(value, *wins.shape)
    return value, *on_logits(value, np.sqrt(variance))


def average_precision(fault, good):
    """Mean over the fault maps of the precision of an alarm at that map's score; works along the last axis."""
    own = (fault[..., None, :] >= fault[..., :, None]).sum(axis=-1)
    false = (good[..., None, :] >= fault[..., :, None]).sum(axis=-1)
    return (own / (own + false)).mean(axis=-1)


def ap_interval(label, score):
    """200 resamples within each class, drawn with seed 0: all of the fault maps, then all of the good ones.

    The interval is on the logit scale. Where the resamples do not differ, the binomial spread of Boyd, Eng and Page is
    taken, at a centre that is at least half a map away from 1; (0, 1) where a class has a single map.
    """
    label, score = np.asarray(label), np.asarray(score, float)
    fault, good = score[label == 1], score[label == 0]
    value = average_precision(fault, good)
    if min(len(fault), len(good)) < 2:
        return value, 0.0, 1.0
    rng = np.random.default_rng(0)
    drawn = [part[rng.integers(0, len(part), (200, len(part)))] for part in (fault, good)]
    spread, centre = np.std(average_precision(*drawn), ddof=1), value
    if spread < 1e-12:
        centre = min(value, 1 - 1 / (2 * len(fault)))
        spread = np.sqrt(centre * (1 - centre) / len(fault))
    low, high = on_logits(centre, spread)
    return value, low, 1.0 if value > 1 - 1e-12 else high


def partial_auroc(label, score, **weights):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(label, score, max_fpr=0.1, **weights)


def pauroc_interval(label, score):
    """As `ap_interval`, of the partial AUROC; each map is drawn by itself."""
    label, score = np.asarray(label), np.asarray(score, float)
    value, faults = partial_auroc(label, score), int((label == 1).sum())
    if min(faults, len(label) - faults) < 2:
        return value, 0.0, 1.0
    spread, centre = spread_over_recordings(label, score, np.arange(len(label)), 200, partial_auroc), value
    if spread < 1e-12:
        centre = min(value, 1 - 1 / (2 * faults))
        spread = np.sqrt(centre * (1 - centre) / faults)
    low, high = on_logits(centre, spread)
    return value, low, 1.0 if value > 1 - 1e-12 else high


def rate_interval(hits, of):
    """Wilson's, from the formula."""
    share, bend = hits / of, 1 + Z**2 / of
    middle = (share + Z**2 / (2 * of)) / bend
    half = Z * np.sqrt(share * (1 - share) / of + Z**2 / (4 * of**2)) / bend
    return share, middle - half, middle + half


def own_variance(wins):
    """DeLong's, or that of a normal variable whose 95 % interval is as wide as Newcombe's."""
    variance = delong_variance(wins)
    if variance is None or variance < 1e-15:
        low, high = newcombe(wins.mean(), *wins.shape)
        return ((high - low) / (2 * Z)) ** 2
    return variance


def mean_interval(cells):
    """Mean AUROC over independent domains, normal; `cells`: domain -> (label, scores)."""
    found = [components(np.asarray(label), scores) for label, scores in cells.values()]
    value = np.mean([wins.mean() for wins in found])
    half = Z * np.sqrt(sum(own_variance(wins) for wins in found)) / len(found)
    return value, max(0.0, value - half), min(1.0, value + half)


def compare(cells):
    """Mean AUROC of one model less that of another on the same maps: (difference, low, high, two-sided p).

    `cells`: domain -> (label, one model's scores, the other's). Where a domain's paired variance does not exist (one
    map in a class), or vanishes although the two differ, the variances of both are added, as if they were unpaired.
    """
    differences, variances = [], []
    for label, one, other in cells.values():
        a, b = (components(np.asarray(label), scores) for scores in (one, other))
        difference, variance = (a - b).mean(), delong_variance(a - b)
        if variance is None or (variance < 1e-15 and abs(difference) > 1e-12):
            variance = own_variance(a) + own_variance(b)
        differences.append(difference)
        variances.append(variance)
    mean, spread = np.mean(differences), np.sqrt(sum(variances)) / len(cells)
    if spread < 1e-9:
        return mean, mean, mean, 1.0
    return mean, mean - Z * spread, mean + Z * spread, 2 * norm.sf(abs(mean) / spread)


def holm(p_values):
    """Step down: the smallest of m is multiplied by m, the next by m - 1 ...; none falls below one before it."""
    out, running = [0.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        out[index] = running
    return out


def clustered_variance(label, score, recording):
    """Obuchowski's variance of the AUROC, equation by equation, with loops (Biometrics 53, 1997, pages 570 to 572)."""
    faults = [i for i in range(len(label)) if label[i] == 1]
    goods = [i for i in range(len(label)) if label[i] == 0]
    m, n = len(faults), len(goods)

    def psi(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    v10 = {i: sum(psi(score[i], score[j]) for j in goods) / n for i in faults}
    v01 = {j: sum(psi(score[i], score[j]) for i in faults) / m for j in goods}
    theta = sum(v10.values()) / m
    names = sorted(set(recording))
    x = {c: sum(v10[i] - theta for i in faults if recording[i] == c) for c in names}
    y = {c: sum(v01[j] - theta for j in goods if recording[j] == c) for c in names}
    i10, i01, both = len({recording[i] for i in faults}), len({recording[j] for j in goods}), len(names)
    s10 = i10 / ((i10 - 1) * m) * sum(value**2 for value in x.values())
    s01 = i01 / ((i01 - 1) * n) * sum(value**2 for value in y.values())
    s11 = both / (both - 1) * sum(x[c] * y[c] for c in names)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def spread_over_recordings(label, score, recording, resamples, figure):
    """Standard deviation of one of scikit-learn's figures over resamples of the recordings of each class."""
    rng, weights = np.random.default_rng(0), np.zeros((resamples, len(label)))
    for one in (0, 1):
        names = sorted(set(recording[label == one]))
        drawn = rng.multinomial(len(names), [1 / len(names)] * len(names), resamples)
        for row in range(resamples):
            for column, name in enumerate(names):
                weights[row, (label == one) & (recording == name)] = drawn[row, column]
    return np.std([figure(label, score, sample_weight=row) for row in weights], ddof=1)


def with_seeds(value, low, high, means):
    """The interval over maps, and Student's over the means of the seeds, as one: widths add as squares."""
    half = t.ppf(0.975, len(means) - 1) * np.std(means, ddof=1) / np.sqrt(len(means))
    down, up = np.sqrt((value - low) ** 2 + half**2), np.sqrt((high - value) ** 2 + half**2)
    return {"value": value, "low": max(value - down, 0.0), "high": min(value + up, 1.0)}
