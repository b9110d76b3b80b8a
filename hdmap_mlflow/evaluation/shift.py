"""How far a domain's healthy maps lie from the source's, without labels and without the model that is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import euclidean_distances

if TYPE_CHECKING:
    from hdmap_mlflow.data.layout import Domain

MAPS = 48  # healthy training maps per domain, evenly spaced
SIZE = (32, 96)
LAYERS = (2, 3)  # features of EfficientNet-Lite0 after blocks.2 (40 channels) and blocks.4 (112)


def of_domains(domains: Sequence[Domain], sources: int = 1) -> dict[str, dict[str, float]]:
    """Distances of the others from the first domains, from a few healthy training maps of each that has at least two.

    The maps of several `sources` are taken together.
    """
    maps = {}
    for domain in domains:
        train = domain.table[domain.table["split"] == "train"]
        if len(train) > 1:
            chosen = np.unique(np.linspace(0, len(train) - 1, MAPS).round().astype(int))
            maps[domain.name] = domain.read(train.iloc[chosen])
    own = [maps.pop(one.name) for one in domains[:sources] if one.name in maps]
    source = ",".join(one.name for one in domains[:sources])
    return distances({source: np.concatenate(own), **maps}, source) if own else {}


def distances(maps: Mapping[str, np.ndarray], source: str) -> dict[str, dict[str, float]]:
    """Distances of every other domain's maps, (n, H, W), from the source's.

    `intensity`: Wasserstein distance of the pixel values in units of the source's mean (0.5: half as bright again).
    `feature_MMD`: maximum mean discrepancy (Gretton et al., JMLR 2012) of mean-pooled features of the embedded
    EfficientNet-Lite0, unbiased and squared, with a Gaussian kernel of median width; about 0 for the same domain,
    slightly negative at times, at most 2.
    """
    ends = np.cumsum([len(images) for images in maps.values()])[:-1]
    described = dict(zip(maps, np.split(features(np.concatenate(list(maps.values()))), ends), strict=True))
    level = maps[source].mean()
    return {
        domain: {
            "intensity": float(wasserstein_distance(maps[source].ravel(), images.ravel()) / level),
            "feature_MMD": mmd(described[source], described[domain]),
        }
        for domain, images in maps.items()
        if domain != source
    }


def mmd(one: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of two samples, (n, features) and (m, features), n and m at least 2."""
    n, m = len(one), len(other)
    squared = euclidean_distances(np.concatenate([one, other]), squared=True)
    width = np.median(squared[np.triu_indices(n + m, 1)])
    kernel = np.exp(-squared / max(width, np.finfo(float).tiny))
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel[:n, n:].mean())


def features(maps: np.ndarray) -> np.ndarray:
    """Mean-pooled features of maps, (n, H, W) -> (n, 152), with the package's own ImageNet weights."""
    import timm
    import torch
    from torch.nn.functional import interpolate

    from hdmap_mlflow.models import backbones

    backbone = backbones.resolve("embedded", backbones.EMBEDDED)
    model = timm.create_model(backbone.name, pretrained=True, features_only=True, out_indices=LAYERS).eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(maps), 32):
            images = torch.from_numpy(np.asarray(maps[start : start + 32], np.float32))[:, None]
            images = interpolate(images, SIZE, mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
            found = model((images - backbone.mean[0]) / backbone.std[0])
            out.append(torch.cat([layer.mean((2, 3)) for layer in found], dim=1))
    return torch.cat(out).numpy()
