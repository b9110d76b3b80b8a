"""Pixel metrics in bounded memory: histograms of anomaly values, never the maps themselves."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import label as regions
from sklearn.metrics import auc, roc_auc_score, roc_curve

BITS = 20  # of a float32 that tell bins apart: sign, exponent and 11 bits of mantissa, 0.05 % of a value
FPR_LIMIT = 0.3  # of AUPRO, as in MVTec AD and anomalib
EIGHT = np.ones((3, 3), int)  # diagonal neighbours belong to one region, as in anomalib


class PixelHistogram:
    """Counts pixels by anomaly value: healthy, faulty, and faulty weighed by 1 / area of their region.

    Bins are the leading bits of the float itself, ordered, so that no range need be known: 25 MB however many maps.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((3, 1 << BITS))

    def update(self, values: np.ndarray, masks: np.ndarray) -> None:
        """Add maps: anomaly values and fault masks at native size, both (n, H, W)."""
        for value, mask in zip(values, masks, strict=True):
            bins = _bins(value)
            found, _ = regions(mask, EIGHT)
            areas = np.bincount(found.ravel())
            np.add.at(self.counts[0], bins[~mask], 1)
            np.add.at(self.counts[1], bins[mask], 1)
            np.add.at(self.counts[2], bins[mask], 1 / areas[found[mask]])

    def metrics(self) -> dict[str, float]:
        """`pixel_AUROC` and `pixel_AUPRO` (FPR up to 0.3, divided by it); absent without faulty or healthy pixels.

        The per-region overlap is the TPR in which every region has the same weight, so a weighted ROC curve gives it
        (Bergmann et al., MVTec AD, IJCV 2021).
        """
        used = np.flatnonzero(self.counts.sum(axis=0))
        healthy, faulty, region = self.counts[:, used]
        if not healthy.any() or not faulty.any():
            return {}
        label, value = np.repeat([0, 1], len(used)), np.tile(used, 2)
        fpr, overlap, _ = roc_curve(label, value, sample_weight=np.concatenate([healthy, region]))
        inside = fpr < FPR_LIMIT
        x = np.append(fpr[inside], FPR_LIMIT)
        y = np.append(overlap[inside], np.interp(FPR_LIMIT, fpr, overlap))
        auroc = roc_auc_score(label, value, sample_weight=np.concatenate([healthy, faulty]))
        return {"pixel_AUROC": float(auroc), "pixel_AUPRO": float(auc(x, y) / FPR_LIMIT)}


def _bins(values: np.ndarray) -> np.ndarray:
    """The leading bits of float32 values as integers of the same order; -0.0 is 0.0."""
    bits = (np.ascontiguousarray(values, np.float32) + np.float32(0)).view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (ordered >> np.uint32(32 - BITS)).astype(np.int64)
