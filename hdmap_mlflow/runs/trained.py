"""The model of a finished run, as it was when it scored, and what the run recorded of it."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from hdmap_mlflow.annotations import Batch, Model
from hdmap_mlflow.config import CheckedConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.dataset import Dataset
from hdmap_mlflow.errors import BadInput, BadSetting, one_line
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.files import to_json, write_whole
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.names import Artifact
from hdmap_mlflow.runs import history
from hdmap_mlflow.runs.history import RunRecord

if TYPE_CHECKING:
    from hdmap_mlflow.runs.result import Result


HEAD = "run.json"
PACKAGES = ("anomalib", "torch", "torchvision", "lightning", "timm", "mlflow", "numpy", "scikit-learn", "tifffile")


@dataclass(frozen=True)
class Trained:
    """A run's record, its configuration, and its model with the weights that it ended with, for a device."""

    record: RunRecord
    config: CheckedConfig
    model: Model  # an AnomalibModule, whose components are set
    device: str
    size: tuple[int, int] | None = None  # of the maps, native; None for a run of before

    COLUMNS: ClassVar = ["score", "seconds", "image_mean"]

    def score(self, maps: np.ndarray) -> pd.DataFrame:
        """Raw scores of maps, float32 (n, H, W), as one batch: one row per map, with the `COLUMNS`."""
        import torch

        from hdmap_mlflow.data.datamodule import loose_batch

        began, batch, model = time.perf_counter(), cast(Batch, loose_batch(maps)), cast(Model, self.model)
        model.to(self.device).eval()
        with torch.inference_mode():
            predicted = scoring.predict(model, batch, self.device)
        raw = scoring.image_scores(model, predicted, maps.shape[1:]).cpu().numpy().astype(np.float64)
        if not np.isfinite(raw).all():
            raise BadInput(f"{self.record.name} gives scores that are NaN or infinite; train it again")
        seconds = (time.perf_counter() - began) / len(maps)
        return pd.DataFrame({"score": raw, "seconds": seconds, "image_mean": maps.mean((1, 2))})

    @property
    def normals(self) -> pd.DataFrame:
        """The scores of the source's healthy validation maps: what is known of a healthy machine out of sample."""
        table = self.record.part("val", self.record.source)
        return table[table["label"] == 0]

    def data(self, root: str | None = None) -> Dataset:
        """The data that the run read, in the place that it names or in another. Raises BadInput for other data."""
        place = {"root": root or self.config.data.root, "target_domains": tuple(self.record.targets)}
        changed = self.config.data.model_copy(update=place)
        data, expected = dataset.read(self.config.model_copy(update={"data": changed})), self.record.tag("data_digest")
        if data.digest != expected:
            raise BadInput(
                f"the data in {data.root} (digest {data.digest}) is not what run {self.record.run_id[:8]} read "
                f"({expected}); give --data-root FOLDER"
            )
        return data


class _Head(BaseModel, strict=True):
    """What the folder of a model says of its run, beside the configuration and the scores of the source."""

    run_id: str
    name: str
    tags: dict[str, str]
    size: tuple[int, int]
    packages: dict[str, str]


def load(uri: str, run_id: str, trust_model: bool = False) -> Trained:
    """Build a run's model anew, and give it the weights of the run's checkpoint.

    `run_id` may also be `models:/NAME@ALIAS`, or a folder that `hdmap export` wrote.

    A class that is not of the registry is code named by whoever made the run: it is imported only where `trust_model`
    says so. Raises BadInput where the run, its checkpoint or its scores are missing, or do not fit together.
    """
    from hdmap_mlflow import tracking

    if folder := exported(run_id):
        return read(folder, trust_model)
    run_id = tracking.model.run_of(uri, run_id)
    record, config = history.read_run(uri, run_id), history.read_config(uri, run_id)
    _check_trust(record, config, trust_model)
    home = tracking.model.home(uri, run_id)
    if home is None:
        checkpoint = next(tracking.artifacts(uri, run_id, Artifact.CHECKPOINT).iterdir(), None)
        return _build(record, config, checkpoint, trust_model, {}, None)
    head = _head(home)
    return _build(record, config, _checkpoint(home), trust_model, head.packages, head.size)


def exported(run: str) -> Path | None:
    """The model's folder in one that `hdmap export` wrote; None for what is no such folder."""
    folder = Path(run) / Artifact.MODEL
    return folder if (folder / HEAD).is_file() else None


def id_of(uri: str, run: str) -> str:
    """The id of the run that an id, a name in the registry or an exported folder stands for. Raises BadInput."""
    from hdmap_mlflow import tracking

    folder = exported(run)
    return _head(folder).run_id if folder else tracking.model.run_of(uri, run)


def read(folder: Path, trust_model: bool = False) -> Trained:
    """The model of a folder that `package` wrote, wherever it was copied to; no store is asked."""
    head, scores = _head(folder), history.read_tables(folder / Artifact.SCORES, str(folder))
    record = RunRecord(head.run_id, head.name, "FINISHED", {}, {}, head.tags, scores=scores)
    if flaw := history.disagree(head.tags, scores):
        raise BadInput(f"{folder} {flaw}; export the run again")
    try:
        config = CheckedConfig.model_validate(history.read_file(folder / Artifact.CONFIG))
    except ValidationError as error:
        raise BadInput(f"{folder / Artifact.CONFIG} is damaged ({one_line(error)}); export the run again") from None
    return _build(record, config, _checkpoint(folder), trust_model, head.packages, head.size)


def package(
    folder: Path, result: Result, tags: Mapping[str, str], source: Scores, example: np.ndarray, checkpoint: Path
) -> Path:
    """Write a run's model below its folder, as MLflow keeps it, and move the checkpoint there; returns its new path.

    `example` is one map or more, float32 (n, H, W).
    """
    from hdmap_mlflow import tracking

    packages = {name: metadata.version(name) for name in ("hdmap_mlflow", *PACKAGES)}
    model, staged = folder / Artifact.MODEL, folder / "model.staged"
    part = staged / tracking.model.PART
    try:
        for one in source.apart():
            scoring.write(one, part)
        write_whole(part / Artifact.CONFIG, to_json(result.config.model_dump(mode="json")))
        head = _Head(
            run_id=result.run_id, name=result.config.name, tags=dict(tags), size=example.shape[1:], packages=packages
        )
        write_whole(part / HEAD, head.model_dump_json(indent=1))
        tracking.model.write(model, Path(__file__).with_name("served.py"), part, example, packages)
        place = model / tracking.model.HOME / Artifact.CHECKPOINT
        place.mkdir()
        return Path(shutil.move(checkpoint, place / checkpoint.name))
    except BaseException:
        shutil.rmtree(model, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _head(folder: Path) -> _Head:
    try:
        return _Head.model_validate_json((folder / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / HEAD} is damaged ({one_line(error)}); train or export the run again") from None


def _checkpoint(folder: Path) -> Path | None:
    below = folder / Artifact.CHECKPOINT
    if below.is_file():
        raise BadInput(f"{folder}: {Artifact.CHECKPOINT} is damaged (a file); train or export the run again")
    return next(below.iterdir(), None) if below.is_dir() else None


def _build(
    record: RunRecord,
    config: CheckedConfig,
    checkpoint: Path | None,
    trust_model: bool,
    packages: Mapping[str, str],
    size: tuple[int, int] | None,
) -> Trained:
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.models.parts import engine
    from hdmap_mlflow.runs import train

    logging.getLogger("timm").setLevel(logging.ERROR)  # tells of the classifier's weights, which no backbone needs
    run_id = record.run_id
    _check_trust(record, config, trust_model)
    if checkpoint is None:
        raise BadInput(f"run {run_id} keeps no checkpoint; train it again")
    train.seed(config.train)
    with rebuilding(run_id, Artifact.CONFIG, packages):
        model = builder.build(config, fetch=False)
    with rebuilding(run_id, "its checkpoint", packages):
        train.load_checkpoint(model, checkpoint)
    device = train.accelerator(config.train.device)
    if engine.wanted(config, device):
        try:
            engine.attach(model, config)
        except Exception as error:  # whatever OpenVINO raises; the scores are the same without it
            if not engine.optional(config):
                raise
            logging.getLogger(__name__).warning("OpenVINO left out, torch goes on: %s", one_line(error))
    return Trained(record, config, model.eval(), device, size)


def _check_trust(record: RunRecord, config: CheckedConfig, trust_model: bool) -> None:
    if config.model.name not in REGISTRY and not trust_model:
        raise BadInput(
            f"run {record.run_id[:8]} names {config.model.name}, whose module would be imported and run here; "
            "look at it, then give --trust-model"
        )


@contextlib.contextmanager
def rebuilding(run_id: str, part: str, packages: Mapping[str, str] | None = None) -> Iterator[None]:
    """Whatever the libraries raise of a record that does not fit together, in one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, BadInput) and not isinstance(error, BadSetting):
            raise
        made, here = (packages or {}).get("anomalib", ""), metadata.version("anomalib")
        other = f"it was made with anomalib {made}, here is {here}: install that, or " if made not in ("", here) else ""
        raise BadInput(f"run {run_id}: {part} cannot be used ({one_line(error)}); {other}train it again") from None
