"""Whether maps were built from vibration, and of what: `BUILT.json` of a data root, as `hdmap build-maps` writes it."""

from __future__ import annotations

import json
from pathlib import Path

BUILT = "BUILT.json"


def built(root: Path) -> str:
    """How the maps of a data root were built, in a line; "" where nothing says that they were, or it is damaged."""
    try:
        facts = json.loads((root / BUILT).read_bytes())
        spec, recordings = facts["spec"], facts["recordings"]
        gears = " x ".join(str(spec["gears"][name]) for name in ROWS_AND_COLUMNS[spec["gears"]["kind"]])
        closures = [abs(one["closure"]) for one in recordings if one["closure"] is not None]
        periods, number = spec["averages"], len(recordings)
        lines = [
            f"HDMAP-style maps, built from the vibration of {number} recording{'s' * (number > 1)} by hdmap_mlflow "
            f"{facts['versions']['hdmap_mlflow']}: {spec['gears']['kind']} {gears} teeth",
            f"{periods} period{'s' * (periods > 1)} per map",
            f"difference: {spec['difference']}",
            f"references closed within {max(closures):.2g} mesh" if closures else "references not checked",
            f"neighbouring maps share {spec['overlap']:.0%} of their samples" if spec["overlap"] else "",
        ]
        return ", ".join(filter(None, lines))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


ROWS_AND_COLUMNS = {"planetary": ("planet", "ring"), "pair": ("pinion", "wheel")}
