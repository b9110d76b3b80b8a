"""Whether the intervals cover, and the tests err, as often as they claim: `python -m benchmarks.coverage`.

Scores are simulated: a recording adds a level of its own to its maps' scores, so that two maps of it correlate by
the intraclass correlation (ICC). Writes docs/evidence.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.evaluation.intervals import (
    Interval,
    auroc_interval,
    compare,
    mean_interval,
    rate_interval,
)
from hdmap_mlflow.evaluation.pooled import partial_auroc
from hdmap_mlflow.evaluation.resampled import ap_interval, average_precision, pauroc_interval
from hdmap_mlflow.evaluation.sample import SAMPLES, Sample, enough

DOCUMENT = Path(__file__).parents[1] / "docs" / "evidence.md"
MARK = "<!-- below: python -m benchmarks.coverage --write -->\n"
FALSE_ALARMS = 0.05  # the rate at whose threshold the interval of a rate is tried


@dataclass(frozen=True)
class Design:
    """Recordings of each class, maps of each recording, and how alike maps of one recording are."""

    recordings: int
    maps: int
    correlation: float

    @property
    def label(self) -> np.ndarray:
        return np.repeat([0, 1], self.recordings * self.maps)

    @property
    def recording(self) -> np.ndarray:
        return np.repeat(np.arange(2 * self.recordings), self.maps)

    def units(self, sample: str, score: np.ndarray) -> np.ndarray | None:
        """What an interval over `recordings`, `order` or `maps` takes for independent."""
        path = [f"{i}.tiff" for i in range(len(score))]
        table = pd.DataFrame({"path": path, "label": self.label, "group": "", "score": score})
        return Sample(sample).units(table.assign(recording=self.recording))

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """Normal scores of variance 1 without any fault, one per map."""
        level = np.repeat(rng.standard_normal(2 * self.recordings), self.maps)
        own = rng.standard_normal(len(level))
        return np.sqrt(self.correlation) * level + np.sqrt(1 - self.correlation) * own

    def scores(self, rng: np.random.Generator, auroc: float) -> np.ndarray:
        return self.noise(rng) + self.label * np.sqrt(2) * norm.ppf(auroc)


def covered(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def auroc(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """Coverage of the AUROC's interval, of those that have one."""
    found = []
    for _ in range(repetitions):
        score = design.scores(rng, truth)
        units = design.units(sample, score)
        if enough(design.label, units):
            found.append(auroc_interval(design.label, score, units))
    return covered(truth, found)


def domains(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """Coverage of the mean AUROC's interval over three domains."""
    recordings = dict.fromkeys("bcd", design.recording) if sample == "recordings" else None
    return covered(
        truth,
        [
            mean_interval({d: (design.label, design.scores(rng, truth)) for d in "bcd"}, recordings)
            for _ in range(repetitions)
        ],
    )


def precision(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """Coverage of the average precision's interval; the truth is that of 200,000 independent maps."""
    large = np.random.default_rng(1).standard_normal((2, 100_000))
    value = float(average_precision(large[1] + np.sqrt(2) * norm.ppf(truth), large[0]))
    recording = design.recording if sample == "recordings" else None
    return covered(
        value,
        [ap_interval(design.label, design.scores(rng, truth), recording) for _ in range(max(repetitions // 5, 1))],
    )


def partial(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """Coverage of the partial AUROC's interval; the truth is that of 200,000 independent maps."""
    large = np.random.default_rng(1).standard_normal((2, 100_000))
    value = partial_auroc(np.repeat([1, 0], 100_000), np.append(large[1] + np.sqrt(2) * norm.ppf(truth), large[0]))
    recording = design.recording if sample == "recordings" else None
    return covered(
        value, [pauroc_interval(design.label, design.scores(rng, truth), recording) for _ in range(repetitions)]
    )


def rate(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """Coverage of the interval of a false-alarm rate of 5 % at a fixed threshold."""
    good = design.label == 0
    recording = design.recording[good] if sample == "recordings" else None
    return covered(
        FALSE_ALARMS,
        [rate_interval(design.noise(rng)[good] >= norm.isf(FALSE_ALARMS), recording) for _ in range(repetitions)],
    )


def paired(design: Design, truth: float, sample: str, repetitions: int, rng: np.random.Generator) -> float:
    """How often the paired test of two equal models errs at 5 %; half of a map's score is common to both models."""
    recordings = {"b": design.recording} if sample == "recordings" else None
    shift, wrong = design.label * np.sqrt(2) * norm.ppf(truth), 0
    for _ in range(repetitions):
        common, one, other = (design.noise(rng) for _ in range(3))
        a, b = ((common + own) / np.sqrt(2) + shift for own in (one, other))
        wrong += compare({"b": (design.label, a[None], b[None])}, recordings).p < 0.05
    return wrong / repetitions


Measure = Callable[[Design, float, str, int, np.random.Generator], float]
MEASURES: dict[str, tuple[Measure, tuple[float, float]]] = {  # and the range that it is to lie in
    "AUROC": (auroc, (0.92, 0.98)),
    "mean of 3 domains": (domains, (0.92, 0.98)),
    "AP": (precision, (0.92, 0.98)),
    "partial AUROC": (partial, (0.92, 0.98)),
    "rate of 5 %": (rate, (0.92, 0.98)),
    "error of the paired test": (paired, (0.03, 0.07)),
}


def table(designs: list[Design], truths: list[float], repetitions: int, seed: int) -> list[list[str]]:
    """One row per design, true AUROC and sample; what misses its range is bold."""
    rows = []
    for design, truth in itertools.product(designs, truths):
        for sample in SAMPLES:
            cells = []
            for name, (measure, (low, high)) in MEASURES.items():
                if sample == "order" and name != "AUROC":
                    cells.append("-")
                    continue
                value = measure(design, truth, sample, repetitions, np.random.default_rng(seed))
                cells.append(f"{value:.3f}" if low <= value <= high else f"**{value:.3f}**")
            shape = [str(design.recordings), str(design.maps), f"{design.correlation:g}", f"{truth:g}", sample]
            rows.append([*shape, *cells])
            print(*rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1500, help="of each cell (AP: a fifth)")
    parser.add_argument("--recordings", type=int, nargs="+", default=[6, 10, 20], help="of each class")
    parser.add_argument("--maps", type=int, nargs="+", default=[10, 50], help="of each recording")
    parser.add_argument("--correlations", type=float, nargs="+", default=[0, 0.1, 0.3, 0.6], help="intraclass")
    parser.add_argument("--aurocs", type=float, nargs="+", default=[0.6, 0.8, 0.95], help="true values")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    given = parser.parse_args()
    designs = [Design(*shape) for shape in itertools.product(given.recordings, given.maps, given.correlations)]
    rows = table(designs, given.aurocs, given.repetitions, given.seed)
    if given.write:
        head = ["recordings per class", "maps per recording", "ICC", "true AUROC", "sample", *MEASURES]
        lines = markdown_table(head, rows, left=0)
        DOCUMENT.write_text(DOCUMENT.read_text().partition(MARK)[0] + MARK + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
