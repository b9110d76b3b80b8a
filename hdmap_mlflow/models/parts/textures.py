"""Textures that models paste as faults, or compare with, where the user gives no folder of pictures."""

from __future__ import annotations

from pathlib import Path

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import cache_dir, expanded, kept_folder
from hdmap_mlflow.models.entry import GENERATED

COUNT, SIZE, SEED = 64, 256, 0
READABLE = (".png", ".jpg", ".jpeg", ".webp")


def folder(given: str) -> str:
    """The folder that a setting names; `generated` is 64 noise textures in the cache, the same on every machine."""
    return str(_generated() if given == GENERATED else expanded(given))


def check(model: str, setting: str, given: str) -> None:
    """Raises BadInput if a folder is missing or has no picture that torchvision reads.

    With a missing one, anomalib would download an archive.
    """
    if given == GENERATED:
        return
    path = expanded(given)
    if not any(file.suffix.lower() in READABLE for file in path.rglob("*")):
        raise BadInput(
            f"model.{setting}={given}: {model} needs a folder with PNG or JPEG pictures there; "
            f"leave it out or give model.{setting}={GENERATED}"
        )


def _generated() -> Path:
    """The pictures in the cache, in the form of a folder with one class."""
    return kept_folder(cache_dir() / "textures", _write)


def _write(root: Path) -> None:
    """Sums of noise at several scales, coloured."""
    import cv2
    import numpy as np

    (root / "noise").mkdir()
    rng = np.random.default_rng(SEED)
    for i in range(COUNT):
        scales = rng.choice([2, 4, 8, 16, 32, 64], size=3, replace=False)
        picture = sum(
            cv2.resize(rng.random((scale, scale, 3)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) / 3
            for scale in map(int, scales)
        )
        content = cv2.imencode(".png", (255 * np.clip(picture, 0, 1)).astype(np.uint8))[1]
        (root / "noise" / f"{i:02d}.png").write_bytes(content.tobytes())  # imwrite is silent on a full disk
