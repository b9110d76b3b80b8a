"""Reference: pixel metrics from whole maps, by direct integration (Bergmann et al., MVTec AD, IJCV 2021)."""

from __future__ import annotations

import numpy as np

LIMIT = 0.3  # largest share of false pixels that AUPRO looks at


def binned(values: np.ndarray) -> np.ndarray:
    """Values cut to 12 significant bits, that is within 0.05 %: pixels that agree in them count as equal."""
    part, exponent = np.frexp(np.asarray(values, np.float32).astype(np.float64))
    return np.ldexp(np.trunc(part * 4096), exponent)


def regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The pixels of each connected region; pixels that touch at a corner belong together."""
    left = set(zip(*np.nonzero(mask), strict=True))
    found = []
    while left:
        region, ahead = [], [left.pop()]
        while ahead:
            row, column = ahead.pop()
            region.append((row, column))
            around = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            ahead += around
        found.append(region)
    return found


def pixel_metrics(values: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """`pixel_AUROC` and `pixel_AUPRO` of anomaly maps and masks, (n, height, width); none without both kinds of pixels.

    Every distinct value is a threshold. Overlap is the mean, over regions, of the share of a region at or above it;
    AUPRO is the area below it up to a share of false pixels of 0.3, divided by 0.3.
    """
    healthy, faulty = np.sort(values[~masks]), np.sort(values[masks])
    if not len(healthy) or not len(faulty):
        return {}
    below = np.searchsorted(healthy, faulty, side="left")
    equal = np.searchsorted(healthy, faulty, side="right") - below
    auroc = (below + equal / 2).sum() / (len(healthy) * len(faulty))
    found = [
        np.sort([value[place] for place in region])
        for value, mask in zip(values, masks, strict=True)
        for region in regions(mask)
    ]

    def share(ordered: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(ordered, cuts, side="left") / len(ordered)

    cuts = np.unique(values)[::-1]
    false = np.concatenate([[0.0], share(healthy, cuts)])
    overlap = np.concatenate([[0.0], np.mean([share(region, cuts) for region in found], axis=0)])
    area = 0.0
    for i in range(1, len(false)):
        if false[i - 1] >= LIMIT:
            break
        end, height = false[i], overlap[i]
        if end > LIMIT:
            height = overlap[i - 1] + (overlap[i] - overlap[i - 1]) * (LIMIT - false[i - 1]) / (end - false[i - 1])
            end = LIMIT
        area += (end - false[i - 1]) * (overlap[i - 1] + height) / 2
    return {"pixel_AUROC": float(auroc), "pixel_AUPRO": float(area / LIMIT)}
