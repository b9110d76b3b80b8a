"""Small maps that the tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

SIZE = (31, 95)


def healthy(rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """A lognormal map with column stripes, float32, mean about 0.25 x gain."""
    stripes = 0.2 + 0.05 * np.sin(np.arange(SIZE[1]) * 3 * 2 * np.pi / SIZE[1])
    return (gain * stripes * rng.lognormal(0, 0.2, SIZE)).astype(np.float32)


def faulty(rng: np.random.Generator, gain: float = 1.0) -> np.ndarray:
    """The same with a bright band at one planet tooth."""
    out = healthy(rng, gain)
    row, start = rng.integers(2, 28), rng.integers(0, 40)
    out[row : row + 2, start : start + 45] += np.float32(0.35 * gain)
    return out


def write_domain(root: Path, name: str, train: int = 12, good: int = 8, fault: int = 8, gain: float = 1.0) -> Path:
    """A domain in the folder layout; its content follows from its name and sizes."""
    rng = np.random.default_rng([len(name), *name.encode(), train, good, fault])
    for role, count, make in (
        ("train/good", train, healthy),
        ("test/good", good, healthy),
        ("test/fault", fault, faulty),
    ):
        folder = root / name / role
        folder.mkdir(parents=True)
        for i in range(count):
            tifffile.imwrite(folder / f"{i:06d}.tiff", make(rng, gain))
    return root / name
