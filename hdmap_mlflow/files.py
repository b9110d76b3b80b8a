"""The user's cache folder: the demo data and the embedded weights are written there once."""

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """`$HDMAP_CACHE` where it is set, else the platform's cache folder for hdmap_mlflow."""
    return Path(os.environ.get("HDMAP_CACHE") or user_cache_dir("hdmap_mlflow")).expanduser().absolute()
