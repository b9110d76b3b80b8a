"""Maps that lie outside the layout: found, read, and scored by a run's model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.data.formats import READERS, check_values, is_map, read_map
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.runs.trained import Trained

BATCH = 32  # the last digits of a score depend on it


def find(paths: Sequence[Path]) -> list[Path]:
    """The maps of files and of folders at any depth, those of a folder in the order of their names."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(one for one in path.rglob("*") if is_map(one) and not passed_over(one.relative_to(path)))
            if not below:
                raise BadInput(f"{path} holds no map ({', '.join(READERS)}); give another folder")
            files += below
        elif not path.is_file():
            raise BadInput(f"{path} is not there; give a map, or a folder with maps")
        elif not is_map(path):
            raise BadInput(f"{path} is no map; give a file that ends in {', '.join(READERS)}")
        else:
            files.append(path)
    return files


def passed_over(path: Path) -> bool:
    """Whether a file below a folder is hidden, or a fault mask of the layout."""
    return "masks" in path.parts[:-1] or any(part.startswith(".") for part in path.parts)


def score(run: Trained, files: Sequence[Path]) -> Iterator[pd.DataFrame]:
    """Tables of a batch of maps each: `path`, `score`, `seconds`, `image_mean` and `problem`.

    A map that cannot be scored has a problem, in words, and neither score nor mean.
    """
    size = run.size
    for paths in (files[i : i + BATCH] for i in range(0, len(files), BATCH)):
        maps, problems = dict[Path, np.ndarray](), dict[Path, str]()
        for path in paths:
            try:
                maps[path] = _read(path, size, run)
                size = size or maps[path].shape
            except BadInput as problem:
                problems[path] = one_line(problem)
        order = [str(path) for path in paths]
        table = run.score(np.stack(list(maps.values()))) if maps else pd.DataFrame(columns=Trained.COLUMNS, dtype=float)
        table = table.set_axis([str(path) for path in maps]).reindex(order)
        yield table.assign(problem=[problems.get(path, "") for path in paths]).rename_axis("path").reset_index()


def _read(path: Path, size: tuple[int, ...] | None, run: Trained) -> np.ndarray:
    pixels = read_map(path)
    check_values(path, pixels)
    if size and pixels.shape != size:
        shapes = [" x ".join(map(str, one)) for one in (pixels.shape, size)]
        what = f"the model of {run.record.name} takes" if run.size else "the first map is"
        raise BadInput(f"{path} is {shapes[0]}, {what} {shapes[1]}; give maps of that size")
    return pixels
