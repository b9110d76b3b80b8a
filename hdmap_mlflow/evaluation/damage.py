"""How small a damage is found: fault maps by their severity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd

from hdmap_mlflow.evaluation.intervals import auroc_interval, rate_interval
from hdmap_mlflow.evaluation.sample import MAPS, Sample, enough

BANDS = 4  # of equal numbers of fault maps, where there are more severities than that
FOUND = 0.5  # the share of a band's maps from which on the band is found


class BandCard(TypedDict):
    """Fault maps with a severity in [`low`, `high`], against all good maps.

    `TPR` is at the threshold of 1 % of the source's healthy validation maps; absent are the intervals that too few
    recordings cannot have.
    """

    low: float
    high: float
    maps: int
    image_AUROC: float
    image_AUROC_interval: NotRequired[list[float]]
    TPR: NotRequired[float]
    TPR_interval: NotRequired[list[float]]


def bands(table: pd.DataFrame, threshold: float | None, sample: Sample = MAPS) -> dict[str, BandCard]:
    """Bands of severity from the smallest up, by their range; one for each where there are four severities or fewer.

    Empty where fewer than two severities are known.
    """
    if "severity" not in table:
        return {}
    good, fault = table[table["label"] == 0], table[table["label"] == 1]
    severity = fault["severity"].astype(float).dropna()
    fault = fault.loc[severity.index]
    if not len(good) or severity.nunique() < 2:
        return {}
    whole = severity.nunique() <= BANDS
    of = severity if whole else pd.qcut(severity, BANDS, labels=False, duplicates="drop")
    found = [_band(good, part, threshold, sample) for _, part in fault.groupby(of)]
    return {_range(band): band for band in found}


def _range(band: BandCard) -> str:
    return f"{band['low']:g}" if band["low"] == band["high"] else f"{band['low']:g} to {band['high']:g}"


def _band(good: pd.DataFrame, fault: pd.DataFrame, threshold: float | None, sample: Sample) -> BandCard:
    table = pd.concat([good, fault])
    label, score, units = table["label"].to_numpy(int), table["score"].to_numpy(np.float64), sample.units(table)
    auroc, severity = auroc_interval(label, score, units), fault["severity"].astype(float)
    out: BandCard = {
        "low": float(severity.min()),
        "high": float(severity.max()),
        "maps": len(fault),
        "image_AUROC": auroc.value,
    }
    if enough(label, units):
        out["image_AUROC_interval"] = auroc.bounds()
    if threshold is not None:
        within = None if units is None else units[label == 1]
        rate = rate_interval(score[label == 1] >= threshold, within)
        out["TPR"] = rate.value
        if enough(label[label == 1], within):
            out["TPR_interval"] = rate.bounds()
    return out


def smallest(found: Mapping[str, BandCard]) -> BandCard | None:
    """The lowest band from which on half of the maps or more are found in every band; None where the highest is not."""
    lowest = None
    for band in reversed(list(found.values())):
        if band.get("TPR", 0.0) < FOUND:
            break
        lowest = band
    return lowest


def told(domain: str, found: Mapping[str, BandCard]) -> str:
    """The smallest damage that is found, in words; empty where no threshold is known."""
    if not any("TPR" in band for band in found.values()):
        return ""
    band = smallest(found)
    if band is None:
        return f"{domain}: at 1 % false alarms on the source no severity is found in half of its maps."
    bounds = band.get("TPR_interval")
    sure = f", 95 % interval {bounds[0]:.0%} to {bounds[1]:.0%}" if bounds else ""
    return (
        f"{domain}: at 1 % false alarms on the source, damage is found in half of the maps or more from severity "
        f"{band['low']:.2g} on ({band['TPR']:.0%} of {band['maps']} maps{sure})."
    )
