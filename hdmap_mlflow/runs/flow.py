"""One condition from end to end: data -> train on the source -> evaluate source and targets -> MLflow."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdmap_mlflow.config import CheckedConfig, RunConfig
from hdmap_mlflow.errors import BadInput, OutOfMemory
from hdmap_mlflow.runs.meter import Meter

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from hdmap_mlflow.evaluation.scoring import Scores
    from hdmap_mlflow.runs.result import Result
    from hdmap_mlflow.tracking import Record
from hdmap_mlflow.data.dataset import Dataset, read
from hdmap_mlflow.runs.identity import identity_tags

PACKAGES = ("anomalib", "torch", "torchvision", "lightning", "timm", "mlflow", "numpy", "scikit-learn", "tifffile")
OnEpoch = Callable[[Mapping[str, float], int], None]


def execute(
    config: CheckedConfig,
    *,
    kind: str = "run",
    parent: str | None = None,
    on_epoch: OnEpoch | None = None,
    tags: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> Result:
    """Run one condition and record it. Failures end the MLflow run as FAILED and are raised again.

    `kind` and `parent` place the run below a study or a grid; `on_epoch` gets every epoch's metrics and may raise.
    `tags` are added to the run's own; a fingerprint among them must be the one that is found here (BadInput).
    """
    from hdmap_mlflow import tracking

    meter = Meter(say)
    uri = tracking.absolute_uri(config.tracking.uri)
    with meter.phase("read"):
        data = read(config)
    workdir = _workdir(config)
    known = identity_tags(config, data)
    planned = (tags or {}).get("hdmap.fingerprint", known["hdmap.fingerprint"])
    if planned != known["hdmap.fingerprint"]:
        raise BadInput(f"the maps, the code or a library on {platform.node()} are not those of the plan (fingerprint "
                       f"{known['hdmap.fingerprint']}, planned {planned}); make them the same")  # fmt: skip
    tags = {**(tags or {}), "hdmap.kind": kind, **known}
    with tracking.start(uri, config.tracking.experiment, config.name, tags, parent) as record:
        say(f"run {config.name}, id {record.run_id}")
        with _log(workdir, record), _memory(config):
            _record_inputs(record, config, data)
            return _flow(config, data, record, meter, workdir, on_epoch)


def _flow(
    config: CheckedConfig, data: Dataset, record: Record, meter: Meter, workdir: Path, on_epoch: OnEpoch | None
) -> Result:
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.evaluation import cards, metrics, scoring
    from hdmap_mlflow.models import backbones, builder
    from hdmap_mlflow.models.parts import features
    from hdmap_mlflow.runs import train
    from hdmap_mlflow.runs.result import Result  # scikit-learn costs a second

    source, *targets = data.names
    device, progress = train.accelerator(config.train.device), sys.stderr.isatty()

    with meter.phase("build"):
        train.seed(config.train)
        model = builder.build(config)
        features.reuse(model, config.data.feature_cache_mb, config.data.image_size)
        datamodule = MultiDomainHDMAPDataModule(data.domains, config.data)
    record.tags({"hdmap.weights": f"{config.model.weights}:{backbones.weights_digest(model)}"})

    def report(values: Mapping[str, float], epoch: int) -> None:
        record.metrics({metrics.metric_name("epoch", name): value for name, value in values.items()}, epoch)
        if on_epoch:
            on_epoch(values, epoch)

    with meter.phase("fit"), builder.downloads(config.model.name):
        trains = builder.trains(config, model)
        checkpoint, training = train.fit(
            config, model, datamodule, trains=trains, workdir=workdir, on_epoch=report, progress=progress
        )

    def score(domain: str, split: str) -> scoring.Scores:
        return scoring.score(model, datamodule.scoring_dataloader(domain, split), domain, split, device, progress)

    with meter.phase("evaluate"):
        tested = score(source, "test")
        # With validation=source_test both are the same maps, scored once.
        same = datamodule.scored[source, "val"]["path"].equals(datamodule.scored[source, "test"]["path"])
        scored = scoring.join(tested.as_split("val") if same else score(source, "val"), tested)
        transferred = [score(name, "test") for name in targets]

    with meter.phase("record"):
        counts = {scores.domain: len(scores.part("test")) for scores in (scored, *transferred)}
        measured = metrics.summary(scored, transferred)
        told = cards.build(scored, transferred, _distances(data))
        result = Result(record.run_id, record.uri, config, data.names, counts, measured, data.simulated, told)
        record.metrics(measured)
        for scores in (scored, *transferred):
            record.artifact(scoring.write(scores, workdir), "scores")
        record.json(result.record(training, checkpoint, workdir), "result.json")
        record.json(told, "cards.json")
        record.note(result.markdown())
        ratio = measured.get("transfer/ratio")
        record.tags({"hdmap.grade": "undefined" if ratio is None else metrics.grade(ratio)})
        if config.tracking.checkpoint == "best":
            record.checkpoint(checkpoint, config.tracking.max_checkpoint_mb)

    with meter.phase("pictures"):
        all_scores = (scored, *transferred)
        if config.tracking.figures:
            for path, figure in _figures(result, all_scores):
                figure.savefig(_below(workdir, path), dpi=90)
        if config.tracking.heatmaps:
            for one in all_scores:
                for path, picture in _heatmaps(result, one, model, datamodule, device):
                    picture.save(_below(workdir, path))
        for folder in ("figures", "heatmaps"):
            if (workdir / folder).exists():
                record.folder(workdir / folder, folder)
    record.metrics({metrics.metric_name("cost", name): value for name, value in meter.results.items()})
    return result


def _distances(data: Dataset) -> dict[str, dict[str, float]]:
    """Label-free distances of the targets from the source, from a few healthy training maps a domain."""
    import numpy as np

    from hdmap_mlflow.evaluation import shift

    maps = {}
    for domain in data.domains:
        train = domain.table[domain.table["split"] == "train"]
        if len(train) > 1:
            chosen = np.unique(np.linspace(0, len(train) - 1, shift.MAPS).round().astype(int))
            maps[domain.name] = domain.read(train.iloc[chosen])
    return shift.distances(maps, data.names[0]) if data.names[0] in maps else {}


def _figures(result: Result, all_scores: Sequence[Scores]) -> Iterator[tuple[str, Figure]]:
    """Path below the run's folder, and figure: scores and ROC a domain, the transfer, the repair curve."""
    from hdmap_mlflow.evaluation import figures, metrics

    simulated = result.simulated
    fitted = metrics.thresholds(all_scores[0].part("val"))
    for i, scores in enumerate(all_scores):
        role = "source" if i == 0 else "target"
        yield (
            f"figures/scores_{scores.domain}.png",
            figures.score_figure(scores.domain, role, scores.part("test"), fitted, simulated),
        )
    rows, trivial = result.bars()
    if rows:
        yield "figures/transfer.png", figures.transfer_figure(result.config.name, rows, trivial, simulated)
    if result.cards["repair"]:
        yield "figures/repair.png", figures.repair_figure(result.cards["repair"], simulated)


def _heatmaps(result: Result, scores: Scores, model: Any, datamodule: Any, device: str) -> Iterator[tuple[str, Image]]:
    """Path below the run's folder, and picture: a domain's chosen maps, scored once more for their anomaly maps."""
    import numpy as np

    from hdmap_mlflow.evaluation import pictures, scoring

    table = scores.part("test").reset_index(drop=True)
    threshold = result.metrics.get("val/threshold_F1")
    chosen = pictures.choose(table, threshold, result.config.tracking.heatmaps)
    loader = datamodule.chosen_dataloader(scores.domain, [one.row for one in chosen])
    found = list(scoring.anomaly_maps(model, loader, device))
    marked = datamodule.scored[scores.domain, "test"]["mask"].ne("").to_numpy()
    images, anomalies, _ = zip(*found, strict=True)
    heat = None if anomalies[0] is None else _limits(anomalies)
    bright = float(np.quantile(images, 0.99))  # one bright map must not leave the faint band of another in the dark
    sheet = pictures.Sheet(images[0].shape, (_limits(images)[0], bright), heat)
    for one, (image, anomaly, mask) in zip(chosen, found, strict=True):
        row = table.iloc[one.row]
        words = pictures.title(scores.domain, row, one, threshold, result.simulated)
        picture = sheet.draw(words, image, anomaly, mask if marked[one.row] else None)
        yield f"heatmaps/{scores.domain}/{pictures.file_name(one, table)}", picture


def _limits(arrays: Sequence[Any]) -> tuple[float, float]:
    return min(a.min() for a in arrays), max(a.max() for a in arrays)


def _below(workdir: Path, path: str) -> Path:
    """A file to be written in a run's folder, whose own folder is there."""
    file = workdir / path
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _record_inputs(record: Record, config: RunConfig, data: Dataset) -> None:
    """What the run starts from: parameters, configuration, versions and the data it read."""
    record.params(config.flat())
    record.json(config.model_dump(mode="json"), "config.json")
    versions = {name: metadata.version(name) for name in ("hdmap_mlflow", *PACKAGES)}
    machine = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    record.json({**machine, "packages": versions}, "environment.json")
    for domain in data.domains:
        counts = domain.table.groupby(["split", "label"]).size()
        parts = zip(counts.index.tolist(), counts, strict=True)
        profile = {f"{split}/{'fault' if label else 'good'}": int(n) for (split, label), n in parts}
        context = "training" if domain.name == config.data.source_domain else "testing"
        record.dataset(domain.name, domain.digest()[:16], str(domain.folder), context, profile)


def _workdir(config: RunConfig) -> Path:
    """A new folder for what the run writes beside MLflow. Raises BadInput where it cannot be made."""
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    base = Path(config.tracking.output_dir) / config.model.name.replace(":", ".")
    folder = base / f"{config.condition}_{config.data.source_domain}_s{config.train.seed}_{stamp}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"cannot write to tracking.output_dir={config.tracking.output_dir} ({error.strerror}); "
                       "give another folder") from None  # fmt: skip
    return folder


@contextlib.contextmanager
def _memory(config: RunConfig) -> Iterator[None]:
    """Name what ran out of memory, and what to lower. torch says it of the machine's in words only."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        cuda = type(error).__name__ == "OutOfMemoryError"
        if not (cuda or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        height, width = config.data.image_size
        where = "GPU" if cuda else "the machine's"
        raise OutOfMemory(
            f"{config.model.name} ran out of {where} memory at batch size "
            f"{config.data.batch_size}, {height}x{width} px; lower data.batch_size, data.eval_batch_size, "
            f"data.image_size or data.max_train, or take a smaller backbone"
        ) from error


@contextlib.contextmanager
def _log(workdir: Path, record: Record) -> Iterator[None]:
    """Keep what is logged during the run, and the traceback if it fails, in `run.log`, an artifact however it ends."""
    path = workdir / "run.log"
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)  # the libraries' warnings belong in the log, not between the lines of progress
    try:
        yield
    except BaseException:
        logging.getLogger(__name__).exception("the run ended early")
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()
        record.artifact(path, "logs")
