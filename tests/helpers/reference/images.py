"""Reference: maps, masks and digests straight from the files on disk.

A map keeps its own unit as float32; whole numbers of a PNG are a share of their type's largest.
"""

from __future__ import annotations

import csv
import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

FOLDERS = {"train/good": ("train", 0), "test/good": ("test", 0), "test/fault": ("test", 1)}


def read(path: Path) -> np.ndarray:
    """A map, (height, width), float32."""
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _read(path: Path, _changed: int) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path).astype(np.float32)
    if suffix == ".png":
        whole = np.array(Image.open(path))
        return (whole.astype(np.float64) / {"uint8": 255, "uint16": 65535}[str(whole.dtype)]).astype(np.float32)
    return tifffile.imread(path).astype(np.float32)


def files(folder: Path) -> list[tuple[str, str, int]]:
    """Every map of a domain: path relative to it, split and label."""
    found = []
    for role, (split, label) in FOLDERS.items():
        for path in (folder / role).iterdir():
            found.append((f"{role}/{path.name}", split, label))
    return found


def mask_of(folder: Path, path: str) -> np.ndarray | None:
    """The fault mask of a map, bool; None for a good map and for a fault map that has none."""
    if path.startswith("test/fault/"):
        for mask in folder.glob("test/masks/*"):
            if mask.stem == Path(path).stem:
                return read(mask) > 0
    return None


def metadata(folder: Path) -> dict[str, tuple[str, float]]:
    """Group and severity of the maps that metadata.csv names."""
    path = folder / "metadata.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            line["path"]: (line["group"], float(line["severity"]) if line["severity"] else float("nan"))
            for line in csv.DictReader(file)
        }


def map_digest(folder: Path, path: str) -> str:
    """Content of a map: BLAKE2b of its float32 pixels, and of its mask where it has one, 16 bytes."""
    content = read(folder / path).tobytes()
    mask = mask_of(folder, path)
    if mask is not None:
        content += mask.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def domain_digest(folder: Path) -> str:
    """Content of a domain: SHA-256 over a line a map, `split|label|group|severity|digest`, in their own order."""
    known, lines = metadata(folder), []
    for path, split, label in files(folder):
        group, severity = known.get(path, ("", float("nan")))
        lines.append(f"{split}|{label}|{group}|{severity}|{map_digest(folder, path)}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def data_digest(folders: list[Path]) -> str:
    """Content of all domains of a run, whichever is the source, 16 hex digits."""
    return hashlib.sha256("".join(sorted(domain_digest(folder) for folder in folders)).encode()).hexdigest()[:16]


def profile(folder: Path) -> dict[str, int]:
    """How many maps of each kind a domain holds."""
    names = [f"{split}/{'fault' if label else 'good'}" for _, split, label in files(folder)]
    return {name: names.count(name) for name in names}


def training_sample(folder: Path, most: int) -> np.ndarray:
    """At most so many healthy training maps, evenly spaced in the order of their content, (n, height, width)."""
    paths = [path for path, split, _ in files(folder) if split == "train"]
    paths.sort(key=lambda path: map_digest(folder, path))
    places = {int(np.round(i * (len(paths) - 1) / (most - 1))) for i in range(most)}
    return np.stack([read(folder / paths[place]) for place in sorted(places)])


def smoothed(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map brought to a size with anti-aliasing: means weighed by a triangle as wide as the coarser grid."""
    out = np.asarray(map_, np.float64)
    for axis in (0, 1):
        step = out.shape[axis] / size[axis]
        apart = np.arange(out.shape[axis]) + 0.5 - (np.arange(size[axis])[:, None] + 0.5) * step
        weights = np.maximum(1 - np.abs(apart) / max(step, 1), 0)
        out = np.moveaxis(np.tensordot(weights / weights.sum(axis=1, keepdims=True), out, (1, axis)), 0, axis)
    return out


def enlarge(map_: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map brought to another size: straight lines between the centres of its pixels, flat beyond the outer ones."""
    out = np.asarray(map_, np.float64)
    for axis in (0, 1):
        have, want = out.shape[axis], size[axis]
        centres = np.arange(have) + 0.5
        places = (np.arange(want) + 0.5) * have / want
        out = np.apply_along_axis(lambda line: np.interp(places, centres, line), axis, out)  # noqa: B023
    return out
