"""One map in a file: a reader for each suffix."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hdmap_mlflow.errors import BadInput, one_line

LARGEST = 2**24  # numbers in a file, 4096 x 4096: what declares more is no map, and is not given the memory
PNG = b"\x89PNG\r\n\x1a\n"


def _tiff(path: Path) -> np.ndarray:
    import tifffile

    logging.getLogger("tifffile").disabled = True  # what it says of a damaged file is said in one line
    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise BadInput(f"{path} holds {len(file.pages)} pages; a map has one: save its page alone")
        _check_size(path, file.series[0].shape)
        pixels, page = file.asarray(), file.pages.first
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            return np.moveaxis(np.asarray(page.colormap)[:, pixels], 0, -1)
        # Truth values are written so by tifffile itself, and mean what they are.
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype != bool:
            raise BadInput(f"{path} stores white as 0; save it with black as 0")
    return pixels


def _png(path: Path) -> np.ndarray:
    import cv2

    content = path.read_bytes()
    kinds = _chunks(content)
    if not {b"IHDR", b"IDAT", b"IEND"} <= kinds:  # OpenCV would read another format, and complain past our one line
        raise BadInput(f"{path} cannot be read as a map (not a whole PNG); replace or remove it")
    if b"acTL" in kinds:
        raise BadInput(f"{path} is animated; a map has one picture: save it alone")
    _check_size(path, (int.from_bytes(content[20:24]), int.from_bytes(content[16:20])))
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadInput(f"{path} cannot be read as a map (its pixels are damaged); replace or remove it")
    return pixels


def _chunks(content: bytes) -> set[bytes]:
    """The kinds of a PNG's chunks up to the first that is damaged; none of another file."""
    kinds, place = set[bytes](), len(PNG)
    while content.startswith(PNG) and place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4])
        if content[end : end + 4] != zlib.crc32(content[place + 4 : end]).to_bytes(4):
            break
        kinds.add(content[place + 4 : place + 8])
        place = end + 4
    return kinds


def _npy(path: Path) -> np.ndarray:
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(pixels, np.ndarray):
        pixels.close()
        raise BadInput(f"{path} is an archive (.npz); save its map alone, as .npy")
    _check_size(path, pixels.shape)
    return np.array(pixels)


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    if math.prod(shape) > LARGEST:
        raise BadInput(f"{path} declares {' x '.join(map(str, shape))} numbers, a map has {LARGEST} at most; remove it")


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


def digest(pixels: np.ndarray, mask: np.ndarray | None = None) -> str:
    """Digest of a map as it is read, and of its mask; 32 hex digits."""
    content = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    if mask is not None:
        content.update(mask.tobytes())
    return content.hexdigest()


def read_map(path: Path, content: str = "") -> np.ndarray:
    """A map as float32, (H, W), never clipped; 8- and 16-bit PNG are divided by their type's maximum.

    Raises BadInput for a file that is no image, is cut short, has several pages or channels that differ, or has no
    longer the digest `content`, where that is given.
    """
    pixels = as_float(read_stored(path), path)
    if content:
        check_same(path, content, pixels)
    return pixels


def as_float(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Stored pixels as the float32 that they stand for."""
    if READERS[path.suffix.lower()].scaled:
        return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32)
    with np.errstate(over="ignore"):  # infinite numbers are refused by name
        return pixels.astype(np.float32)


def check_values(path: Path, pixels: np.ndarray) -> None:
    """Raise BadInput for a map that says nothing: not finite, or the same everywhere."""
    if not np.isfinite(pixels).all():
        raise BadInput(f"{path} holds NaN or infinite values; replace or remove it")
    if pixels.min() == pixels.max():
        raise BadInput(f"{path} is constant ({pixels.flat[0]:g} everywhere); replace or remove it")


def read_stored(path: Path) -> np.ndarray:
    """The pixels as the file stores them, (H, W). Raises BadInput as `read_map` does."""
    pixels = _decoded(path, "iuf")
    if pixels.ndim == 3:
        colour = pixels[..., :3]
        if pixels.shape[-1] == 2 or not (colour == colour[..., :1]).all():
            raise BadInput(f"{path} has {pixels.shape[-1]} different channels; a map has one")
        pixels = colour[..., 0]
    return pixels


def read_mask(path: Path, content: str = "", pixels: np.ndarray | None = None) -> np.ndarray:
    """A fault mask as bool, (H, W): what is neither black (0) nor transparent is marked.

    Where one colour fills the picture, its transparency alone marks. Raises BadInput where nothing or everything is
    marked, which no fault does; and where the mask and its map, `pixels`, have no longer the digest `content`.
    """
    stored = _decoded(path, "biuf")
    if not np.isfinite(stored).all():
        raise BadInput(f"{path} holds NaN or infinite values; a mask is 0 where nothing is marked")
    stored = stored[..., None] if stored.ndim == 2 else stored
    layers = stored.shape[-1]
    colours = stored[..., : layers - (layers in (2, 4))]
    marked = (colours != 0).any(axis=-1)
    if colours.shape[-1] < layers and (stored[..., -1] != stored[0, 0, -1]).any():
        one_colour = (colours == colours[0, 0]).all()
        marked = (stored[..., -1] != 0) & (marked | one_colour)
    if marked.all() or not marked.any():
        what = "everything" if marked.all() else "nothing"
        raise BadInput(f"{path} marks {what}; correct or remove it: a map without a mask is in no pixel metric")
    if pixels is not None:
        check_same(path, content, pixels, marked)
    return marked


def check_same(path: Path, content: str, pixels: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Raise BadInput if a map, or its mask, is not what the data digest of the run was made of."""
    if digest(pixels, mask) != content:
        raise BadInput(f"{path} has changed since this run read and checked it; start the run again")


def _decoded(path: Path, kinds: str) -> np.ndarray:
    """The pixels as the file stores them, (H, W) or (H, W, 1 to 4), of one of these kinds of numbers."""
    try:
        pixels = READERS[path.suffix.lower()].decode(path)
    except BadInput:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise BadInput(f"{path} cannot be read as a map ({one_line(error, 120)}); replace or remove it") from None
    flat = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (1, 2, 3, 4))
    if not flat or 0 in pixels.shape or pixels.dtype.kind not in kinds:
        raise BadInput(f"{path} holds {pixels.dtype} of shape {pixels.shape}; a map is real numbers, height x width")
    return pixels


def tiff_header(height: int, width: int) -> bytes:
    """What tifffile writes before the pixels of a float32 map of this size; 4 times as fast to reuse."""
    import tifffile

    blank, file = np.zeros((height, width), "<f4"), io.BytesIO()
    tifffile.imwrite(file, blank, byteorder="<", metadata=None)
    return file.getvalue()[: -blank.nbytes]
