"""Numbers as people write them; Python alone also takes 1_0, digits of other scripts, and infinities."""

from __future__ import annotations

import math
import re

PLAIN = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


def whole(text: str) -> int:
    """A whole number. Raises ValueError for anything else."""
    if not PLAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def real(text: str) -> float:
    """A finite number. Raises ValueError for anything else."""
    if not PLAIN.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"{text!r} is no finite number")
    return float(text)


def misread(given: object, number: object) -> bool:
    """Whether `number` was made of what is none: of true, of a text that is not plain, or it is not finite.

    Lists and mappings are compared item by item.
    """
    if isinstance(number, list | tuple) and isinstance(given, list | tuple):
        return any(map(misread, given, number))
    if isinstance(number, dict) and isinstance(given, dict):
        return any(misread(given.get(key), value) for key, value in number.items())
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    text = isinstance(given, str) and not PLAIN.fullmatch(given)
    return text or isinstance(given, bool) or isinstance(number, float) and not math.isfinite(number)
