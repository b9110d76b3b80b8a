"""The one table of adapters: adding one is adding a row."""

from __future__ import annotations

from hdmap_mlflow.adaptation import features, network, scores
from hdmap_mlflow.adaptation.adapter import Adapter

ADAPTERS: dict[str, Adapter] = {
    "z": Adapter("shrunk z of log scores", "ours (docs/adaptation.md)", "scores", scores.z),
    "robust_z": Adapter("median and MAD", "Rousseeuw and Croux, JASA 1993", "scores", scores.robust_z, least=2),
    "conformal": Adapter(
        "conformal p-value",
        "Laxhammar and Falkman, IEEE TPAMI 2014",
        "scores",
        scores.conformal,
        thresholds={"normal_q99": 0.99, "normal_q95": 0.95},
    ),
    "k_bank": Adapter(
        "memory of the k maps alone",
        "Roth et al., CVPR 2022; Defard et al., ICPR 2021",
        "features",
        features.k_bank,
        least=2,
    ),
    "merge": Adapter(
        "memory of the source and the k maps, local density normalised",
        "Wilkinghoff, ICASSP 2025",
        "features",
        features.merge,
    ),
    "coral": Adapter(
        "diagonal CORAL, local density normalised",
        "Sun, Feng and Saenko, AAAI 2016; Wilkinghoff, ICASSP 2025",
        "features",
        features.coral,
        least=2,
    ),
    "adabn": Adapter(
        "batch statistics of the k maps",
        "Li et al., Pattern Recognition 2018",
        "network",
        network.adabn,
        least=2,
    ),
    "log_z": Adapter(
        "every map's log at the source's mean and sd", "ours (docs/adaptation.md)", "maps", network.log_z, "source_only"
    ),
}
