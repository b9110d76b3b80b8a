"""Scores and alarms of new maps, wherever they lie: by a run's model, batch by batch."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.alarms import drift
from hdmap_mlflow.files import part_of, try_to_write, why
from hdmap_mlflow.process import using_cache
from hdmap_mlflow.runs import loose, trained
from hdmap_mlflow.runs import reading as readings
from hdmap_mlflow.runs.loose import BATCH
from hdmap_mlflow.runs.reading import Reading
from hdmap_mlflow.runs.trained import Trained

if TYPE_CHECKING:
    import pyarrow.parquet

SHIFTED = 3.0  # sd of the means of the known maps from which on new ones count as unlike them
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Request:
    """What is scored, by which run (see `trained.load`), and where the table of scores goes.

    `reference` are healthy maps of the machine, on whose scale `adapters` of scores bring its scores.
    """

    run: str
    paths: Sequence[Path]
    out: Path = Path("scores.csv")
    threshold: str = "normal_q99"
    heatmaps: int = 0
    trust_model: bool = False
    adapters: Sequence[str] = ()
    reference: Sequence[Path] = ()

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        return self.out.with_name(f"{self.out.stem}_heatmaps")


@dataclass(frozen=True)
class Predicted:
    """How many maps there were, how many have no score, how many are alarms; warnings, where something is not right."""

    maps: int
    broken: int
    alarms: int
    warnings: Sequence[str]


@using_cache()
def predict(uri: str, request: Request, say: Callable[[str], None] = print) -> Predicted:
    """Score maps in batches, and write one row per map; the table is there whole, or not at all.

    Columns: `path`; `score`, raw, as in the run; `calibrated`: with a reference the score after the adapters, else the
    score less the median of the source's healthy validation scores, in units of their sd (absent where that is 0);
    `p_value`: (1 + healthy scores as high) / (1 + their number), of the reference or of the source's validation;
    `alarm`: whether it reaches the threshold; `seconds`; `problem`: why a map has no score, else empty. Raises BadInput
    for what holds no map, where no map at all can be scored, and for a run that cannot score.
    """
    files = loose.find(request.paths)
    for path in (request.out, *([request.pictures] if request.heatmaps else [])):
        if path.exists():
            raise BadInput(f"{path} is there already; give --out another file")
    if request.out.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--out {request.out}: give a file that ends in {' or '.join(SUFFIXES)}")
    run = trained.load(uri, request.run, request.trust_model)
    reading = readings.of(run, request.threshold, request.adapters, request.reference)
    say(f"{run.record.name}, data digest {run.record.tag('data_digest')}; p values by {reading.of}")
    means, alarms, broken, highest = list[pd.Series](), 0, list[str](), list[tuple[float, str]]()
    with _writing(request.out) as write:
        for table in loose.score(run, files):
            scored = table["problem"] == ""
            found = pd.DataFrame(reading.columns(table["score"][scored].to_numpy(float)), table.index[scored])
            found["alarm"] = found["alarm"].astype("boolean")  # unknown of a map without a score
            write(table.join(found)[["path", "score", *found, "seconds", "problem"]])
            means.append(table["image_mean"][scored])
            alarms += int(found["alarm"].sum())
            broken += table["problem"][~scored].tolist()
            highest = heapq.nlargest(
                request.heatmaps, [*highest, *zip(table["score"][scored], table["path"][scored], strict=True)]
            )
        if len(broken) == len(files):
            raise BadInput(broken[0] + (f" (and so with the other {len(broken) - 1})" if len(broken) > 1 else ""))
        if request.heatmaps:
            _draw(run, reading, highest, request)
    warning = unlike(reading.normals["image_mean"], pd.concat(means).to_numpy(float))
    lost = f"{len(broken)} of {len(files)} maps have no score (column problem): {broken[0]}" if broken else ""
    return Predicted(len(files), len(broken), alarms, [line for line in (lost, warning) if line])


def unlike(known: pd.Series, means: np.ndarray) -> str:
    """A warning where the level of new maps lies far from that of the known ones, for which no label is needed.

    Far is a Wasserstein distance of their means of more than 3 sd of the known; empty where it is less.
    """
    level, spread = known.mean(), known.std()
    tables = [pd.DataFrame({"score": 0.0, "image_mean": values}) for values in (known, means)]
    distance = drift(*tables).get("intensity", 0.0) * abs(level)
    if not distance > SHIFTED * spread:
        return ""
    ratio = means.mean() / level
    how = f"{ratio:.2g} x as bright as" if ratio < 1.05 else f"{ratio:.2g} x brighter than"
    return (
        f"these maps are {how} any that are known; "
        "its threshold means little: adapt it with healthy maps of this machine, --reference FOLDER"
    )


def open_model(folder: Path, trust_model: bool) -> Callable[[np.ndarray], pd.DataFrame]:
    """What MLflow serves: maps, float32 (n, H, W), to the `score` and `alarm` (at normal_q99) of `predict`."""
    run = trained.read(folder, trust_model)
    reading = readings.of(run, "normal_q99")

    def score(maps: np.ndarray) -> pd.DataFrame:
        if not np.isfinite(maps).all():
            raise BadInput("the maps hold NaN or infinite values; replace or remove them")
        parts = [run.score(np.asarray(maps[i : i + BATCH], np.float32)) for i in range(0, len(maps), BATCH)]
        scores = pd.concat(parts, ignore_index=True)["score"]
        return pd.DataFrame({"score": scores, "alarm": reading.above(scores.to_numpy(float))})

    return score


@contextmanager
def _writing(out: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Writes tables one below the other to a file, which is there once all are. Raises BadInput where it cannot be."""
    part, parquet = part_of(out), out.suffix.lower() == ".parquet"
    writer: pyarrow.parquet.ParquetWriter | None = None

    def write(table: pd.DataFrame) -> None:
        nonlocal writer
        if not parquet:
            return table.to_csv(part, mode="a", index=False, header=not part.exists())
        import pyarrow
        import pyarrow.parquet

        rows = pyarrow.Table.from_pandas(table, preserve_index=False)
        writer = writer or pyarrow.parquet.ParquetWriter(part, rows.schema)
        writer.write_table(rows)

    try:
        try_to_write(out.absolute().parent)
        yield write
        if writer:
            writer.close()
        part.replace(out)
    except OSError as error:
        raise BadInput(f"cannot write {out} ({why(error)}); give --out another file") from None
    finally:
        part.unlink(missing_ok=True)


def _draw(run: Trained, reading: Reading, highest: list[tuple[float, str]], request: Request) -> None:
    """Pictures of the maps with the highest scores."""
    from hdmap_mlflow.data.datamodule import loose_loader
    from hdmap_mlflow.evaluation.pictures import Sheet, limits

    loader = loose_loader([Path(path) for _, path in highest], BATCH)
    maps, heats, _ = zip(*scoring.anomaly_maps(run.model, loader, run.device), strict=True)
    sheet = Sheet(maps[0].shape, limits(maps), None if heats[0] is None else limits(heats))
    request.pictures.mkdir()
    adapted = reading.scale is not None
    for rank, ((score, path), pixels, heat) in enumerate(zip(highest, maps, heats, strict=True), 1):
        verdict = "alarm" if reading.above(np.array([score]))[0] else "no alarm"
        limit = f"{request.threshold} threshold {reading.threshold:.4g}{' on the scale of the reference' * adapted}"
        title = f"{path}\nno. {rank}: score {score:.4g}, {limit}: {verdict}"
        sheet.draw(title, pixels, heat, None).save(request.pictures / f"{rank:02d}_{Path(path).stem}.png")
