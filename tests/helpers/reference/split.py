"""Reference: which maps of the source validate, and which train or are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from reference import images

SHARE = {"source_holdout": 0.5, "source_test": 1.0, "synthetic": 0.2}


def drawn(folder: Path, part: str, share: float, rng: np.random.Generator) -> set[str]:
    """Paths of a share of the distinct maps of every label and group; of twins both or none, whatever their groups.

    The draw is the record's: label by label and group by group in their order, a permutation of the contents in the
    order of their digests, of which the first are taken. Half a map is rounded to an even number.
    """
    known, strata = images.metadata(folder), {}
    for path, split, label in images.files(folder):
        if split == part:
            group, _ = known.get(path, ("", 0))
            strata.setdefault((label, group), {}).setdefault(images.map_digest(folder, path), []).append(path)
    chosen: set[str] = set()
    for key in sorted(strata):
        contents = sorted(strata[key])
        order = rng.permutation(len(contents))
        chosen |= {contents[place] for place in order[: int(np.rint(share * len(contents)))]}
    return {path for found in strata.values() for digest in chosen & set(found) for path in found[digest]}


def split(folder: Path, strategy: str, seed: int, share: float | None = None, most: int | None = None):  # noqa: ANN201
    """Paths of the source's maps that train, validate and are reported; `most` limits those that train."""
    rng = np.random.default_rng(seed)
    train, test = ({path for path, found, _ in images.files(folder) if found == part} for part in ("train", "test"))
    share = share or SHARE[strategy]
    if strategy == "source_holdout":
        val = drawn(folder, "test", share, rng)
        reported = test - val
    elif strategy == "source_test":
        val = reported = test
    else:
        val, reported = drawn(folder, "train", share, rng), test
        train = train - val
    if most and len(train) > most:
        ordered = sorted(train, key=lambda path: images.map_digest(folder, path))
        train = {ordered[i] for i in rng.choice(len(ordered), most, replace=False)}
    return train, val, reported
