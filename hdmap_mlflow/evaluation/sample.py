"""What counts as one independent observation: a recording, a stretch of files, or a map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from natsort import index_natsorted

from hdmap_mlflow.errors import BadInput, nearest

FEWEST = 6  # recordings of a class from which on an interval is shown
FEWEST_MAPS = 30  # of a class from which on its dependence is estimated from the order of the files
STRETCH = 3  # length of a stretch of files that is taken for a recording, in maps that are worth one


class Dependence(TypedDict):
    """Of the maps of a class in the order of their files: how alike neighbours are, and what all are worth."""

    maps: int
    autocorrelation: float  # of the scores of neighbouring files
    effective: float  # number of independent maps whose mean is as sure


def independent(score: np.ndarray) -> float:
    """How many maps of a sequence one independent map is worth, at least 1: its integrated autocorrelation time.

    Autocorrelations are summed while the sums of neighbouring pairs stay positive (Geyer, Practical Markov Chain Monte
    Carlo, Statistical Science 7, 1992).
    """
    centred = score - score.mean()
    if len(score) < 4 or not centred.any():
        return 1.0
    padded = np.fft.rfft(centred, 2 * len(score))
    rho = np.fft.irfft(np.abs(padded) ** 2)[: len(score)]
    rho = rho / rho[0]
    pairs = rho[: len(rho) // 2 * 2].reshape(-1, 2).sum(axis=1)
    stop = int(np.argmax(pairs <= 0)) if (pairs <= 0).any() else len(pairs)
    return float(max(2 * pairs[:stop].sum() - 1, 1.0))


def _sequences(table: pd.DataFrame) -> dict[int, pd.Series]:
    """The scores of each class in the order of its files (2.tiff before 10.tiff), less the mean of their group.

    A state such as cold or warm shifts scores; that is no resemblance of neighbours.
    """
    ordered = table.iloc[index_natsorted(table["path"])]
    score = ordered["score"].astype(np.float64)
    rest = score - score.groupby([ordered["label"], ordered["group"]]).transform("mean")
    return {int(label): rest[ordered["label"] == label] for label in sorted(ordered["label"].unique())}


def dependence(table: pd.DataFrame) -> dict[str, Dependence]:
    """By class (good, fault), where it has 30 maps or more and neighbours resemble one another.

    They do where their autocorrelation lies above what independent maps reach in one table of 40.
    """
    out: dict[str, Dependence] = {}
    for label, sequence in _sequences(table).items():
        score = sequence.to_numpy()
        if len(score) < FEWEST_MAPS or score.std() == 0:
            continue
        found = float(np.corrcoef(score[:-1], score[1:])[0, 1])
        if found > 1.96 / np.sqrt(len(score)):
            worth = len(score) / independent(score)
            out["fault" if label else "good"] = {"maps": len(score), "autocorrelation": found, "effective": worth}
    return out


def stretches(table: pd.DataFrame) -> np.ndarray:
    """Codes of stretches of neighbouring files of a class, long enough to be nearly independent, one per map."""
    codes, used = pd.Series(0, table.index), 0
    for sequence in _sequences(table).values():
        count = max(int(len(sequence) / (STRETCH * independent(sequence.to_numpy()))), 1)
        codes[sequence.index] = used + np.arange(len(sequence)) * count // len(sequence)
        used += count
    return codes.to_numpy()


@dataclass(frozen=True)
class Sample:
    """Which of `recordings`, `order` and `maps` is the sample of every domain of a run."""

    name: str = "maps"

    def units(self, table: pd.DataFrame) -> np.ndarray | None:
        """The recording (or stretch of files) of every map; None where maps are the sample."""
        if self.name == "recordings":
            return table["recording"].to_numpy(str)
        return stretches(table) if self.name == "order" else None


MAPS = Sample()


SAMPLES = ("recordings", "order", "maps")


def choose(wanted: str, tables: Mapping[str, pd.DataFrame]) -> Sample:
    """The sample that was asked for; recordings only where every domain names them, else maps."""
    if wanted not in SAMPLES:
        raise BadInput(f"sample {wanted!r} is none{nearest(wanted, SAMPLES)}; known: {', '.join(SAMPLES)}")
    if wanted == "recordings" and not all(named(table) for table in tables.values()):
        return MAPS
    return Sample(wanted)


def named(table: pd.DataFrame) -> bool:
    """Whether a table of scores names the recording of every map; those of before have no such column."""
    return "recording" in table and bool((table["recording"] != "").all())


def counts(label: np.ndarray, units: np.ndarray | None) -> dict[int, int]:
    """Independent units of each class that is there."""
    return {int(one): len(np.unique(units[label == one])) for one in np.unique(label)} if units is not None else {}


def enough(label: np.ndarray, units: np.ndarray | None = None) -> bool:
    """Whether each class has the six recordings that an interval needs; maps are never too few."""
    return min(counts(label, units).values(), default=FEWEST) >= FEWEST
