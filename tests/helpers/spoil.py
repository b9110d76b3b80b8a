"""Maps, masks, tables and folders as they should not be."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

Spoil = Callable[[Path], object]
MAP = np.random.default_rng(5).random((31, 95), np.float32)
MARKED = np.zeros((31, 95), bool)
MARKED[3:5, :40] = True


def tiff(pixels: np.ndarray, **settings: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **settings)  # type: ignore[arg-type]
    return file.getvalue()


def npy(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels, allow_pickle=True)
    return file.getvalue()


def npz(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, pixels)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def picture(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def palette(colours: list[int], pixels: np.ndarray = MARKED) -> Image.Image:
    image = Image.fromarray(pixels.astype(np.uint8), "P")
    image.putpalette(colours)
    return image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def declared_png(height: int, width: int) -> bytes:
    """A few bytes that say they are a picture of this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def put(place: str, content: bytes | str) -> Spoil:
    """Writes a file of the root; its folder is made where missing."""

    def spoil(root: Path) -> None:
        file = root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def instead(content: bytes, suffix: str = ".tiff", role: str = "test/good") -> Spoil:
    """Another file in place of a map of domain_A."""

    def spoil(root: Path) -> None:
        file = root / "domain_A" / role / "000001.tiff"
        file.unlink()
        file.with_suffix(suffix).write_bytes(content)

    return spoil


def mask(content: bytes, name: str = "000001.png") -> Spoil:
    return put(f"domain_A/test/masks/{name}", content)


def metadata(text: str | bytes) -> Spoil:
    return put("domain_A/metadata.csv", text)


def link(place: str, to: str) -> Spoil:
    return lambda root: (root / place).symlink_to(to)


def copy(one: str, other: str) -> Spoil:
    return lambda root: put(other, (root / one).read_bytes())(root)


def rename(one: str, other: str) -> Spoil:
    return lambda root: os.rename(root / one, root / other)


def every(*spoils: Spoil) -> Spoil:
    return lambda root: [spoil(root) for spoil in spoils]
