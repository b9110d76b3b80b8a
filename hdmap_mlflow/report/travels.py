"""What a threshold of the source does on the targets."""

from __future__ import annotations

from dataclasses import dataclass

from hdmap_mlflow.evaluation.intervals import rate_expected
from hdmap_mlflow.evaluation.metrics import decisions, raw, thresholds
from hdmap_mlflow.report.arrange import Entry, mean, reported


@dataclass(frozen=True)
class Travel:
    """What an entry's 99 % threshold does on targets: realised rates, means over runs and targets, the worst FPR.

    `normals` is the least number of healthy validation maps that set a threshold; a threshold of such a number shows
    an FPR between the bounds `expected`, 95 %, on as many reported healthy maps of the same domain as there are.
    """

    label: str
    normals: int | None
    expected: tuple[float, float] | None
    source_fpr: float | None
    fpr: float | None
    tpr: float | None
    worst_fpr: tuple[str, float] | None


def travel(entry: Entry) -> Travel:
    """What becomes of an entry's thresholds."""
    own, fpr, tpr, counts = [], [], [], []
    by_pair: dict[str, list[float | None]] = {}
    for (source, _), run in entry.runs.items():
        cut = thresholds(run.part("val", source)).get("normal_q99")
        if cut is None:
            continue
        own.append(decisions(reported(run, source), cut).get("FPR"))
        normal = raw(run.part("val", source).query("label == 0"))[1]
        counts.append((len(normal), int((normal >= cut).sum()), int((reported(run, source)["label"] == 0).sum())))
        for domain in run.targets:
            rates = decisions(reported(run, domain), cut)
            by_pair.setdefault(f"{source} to {domain}", []).append(rates.get("FPR"))
            fpr.append(rates.get("FPR"))
            tpr.append(rates.get("TPR"))
    defined = {name: rate for name, rates in sorted(by_pair.items()) if (rate := mean(rates)) is not None}
    worst = max(defined.items(), key=lambda item: item[1]) if defined else None
    fewest = min(counts, default=None)
    expected = rate_expected(*fewest) if fewest and fewest[2] else None
    return Travel(entry.label, fewest[0] if fewest else None, expected, mean(own), mean(fpr), mean(tpr), worst)
