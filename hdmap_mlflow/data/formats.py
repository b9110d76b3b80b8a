"""One map in a file: a reader for each suffix."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdmap_mlflow.errors import BadInput, one_line


def _tiff(path: Path) -> np.ndarray:
    import tifffile

    return tifffile.imread(path)


def _png(path: Path) -> np.ndarray:
    import cv2

    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadInput(f"{path} cannot be read as a map (not a whole PNG); replace or remove it")
    return pixels


def _npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


@dataclass(frozen=True)
class Reader:
    """How a format is read: `decode` gives the pixels as the file stores them, (H, W) or (H, W, channels).

    `scaled`: they are integers that stand for shares of their type's maximum.
    """

    decode: Callable[[Path], np.ndarray]
    scaled: bool = False


READERS = {".tiff": Reader(_tiff), ".tif": Reader(_tiff), ".png": Reader(_png, scaled=True), ".npy": Reader(_npy)}


def is_map(path: Path) -> bool:
    """Whether there is a reader for a file's suffix."""
    return path.suffix.lower() in READERS


def read_map(path: Path) -> np.ndarray:
    """A map as float32, (H, W), never clipped; 8- and 16-bit PNG are divided by their type's maximum.

    Raises BadInput for a file that is no image, is cut short, or has channels that differ.
    """
    return as_float(read_stored(path), path)


def as_float(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Stored pixels as the float32 that they stand for."""
    if READERS[path.suffix.lower()].scaled:
        return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32)
    return pixels.astype(np.float32)


def read_stored(path: Path, kinds: Sequence[type] = (np.number,)) -> np.ndarray:
    """The pixels as the file stores them, (H, W), of one of these kinds. Raises BadInput as `read_map` does."""
    try:
        pixels = READERS[path.suffix.lower()].decode(path)
    except BadInput:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise BadInput(f"{path} cannot be read as a map ({one_line(error, 120)}); replace or remove it") from None
    if pixels.ndim == 3 and pixels.shape[-1] in (1, 3, 4):
        colour = pixels[..., :3]
        if not (colour == colour[..., :1]).all():
            raise BadInput(f"{path} has {pixels.shape[-1]} different channels; a map has one")
        pixels = colour[..., 0]
    if pixels.ndim != 2 or 0 in pixels.shape or not any(np.issubdtype(pixels.dtype, kind) for kind in kinds):
        raise BadInput(f"{path} holds {pixels.dtype} of shape {pixels.shape}; a map is numbers, height x width")
    return pixels


def tiff_header(height: int, width: int) -> bytes:
    """What tifffile writes before the pixels of a float32 map of this size; 4 times as fast to reuse."""
    import tifffile

    blank, file = np.zeros((height, width), "<f4"), io.BytesIO()
    tifffile.imwrite(file, blank, byteorder="<", metadata=None)
    return file.getvalue()[: -blank.nbytes]


def read_mask(path: Path) -> np.ndarray:
    """A fault mask as bool, (H, W); what is not 0 is marked."""
    return read_stored(path, (np.number, np.bool_)) > 0
