"""Nested records compared number by number."""

from __future__ import annotations

from typing import Any

import pytest


def same(found: Any, expected: Any, tolerance: float = 1e-9, where: str = "") -> None:
    """Equal keys at every depth, equal words, equal numbers within a tolerance, and nothing that JSON cannot hold.

    What float32 leaves of a network's features is a part in 10,000.
    """
    if isinstance(expected, dict):
        assert set(found) == set(expected), where
        for key in expected:
            same(found[key], expected[key], 1e-4 if key == "feature_MMD" else tolerance, f"{where}/{key}")
    elif isinstance(expected, str) or expected is None:
        assert found == expected, where
    else:
        assert found == pytest.approx(expected, abs=tolerance), where
        assert type(found) in (bool, int, float, list), where
