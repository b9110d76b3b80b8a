"""One condition from end to end: prepare -> fit -> score -> summarise, each a value, and all of it recorded."""

from __future__ import annotations

import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hdmap_mlflow.adaptation import chain, outcome
from hdmap_mlflow.config import CheckedConfig, RunConfig
from hdmap_mlflow.config.layers import RENAMED
from hdmap_mlflow.data.dataset import Dataset, read
from hdmap_mlflow.errors import BadInput, OutOfMemory
from hdmap_mlflow.evaluation import batch, scoring, shift
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import Artifact, Scope, Tag, metric_name
from hdmap_mlflow.process import using_cache
from hdmap_mlflow.runs import trained, workdir
from hdmap_mlflow.runs.extras import Extras
from hdmap_mlflow.runs.identity import identity_tags
from hdmap_mlflow.runs.meter import Meter
from hdmap_mlflow.runs.result import Distances, Result, summarise
from hdmap_mlflow.runs.setup import check_maps, spend
from hdmap_mlflow.runs.steps import Prepared, Run, Scored, prepare, score

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Record

OnEpoch = Callable[[Mapping[str, float], int], None]
QUICK = 1  # level of PNG compression: a quarter less time than Pillow's 6, files 6 % larger


@using_cache()
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
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import train

    train.check_device(config.train)
    builder.reach([config])
    meter = Meter(say)
    uri = tracking.absolute_uri(config.tracking.uri)
    if not tracking.project_run():  # the store of one has been opened
        tracking.check_store(uri, config.tracking.experiment)
    workdir.check(config)
    with meter.phase("read"):
        data = read(config)
        check_maps(config, data)
        config = spend(config, data)
    run = Run(config, workdir.create(config))
    identity = identity_tags(config, data)
    planned = (tags or {}).get(Tag.FINGERPRINT, identity[Tag.FINGERPRINT])
    if planned != identity[Tag.FINGERPRINT]:
        raise BadInput(
            f"the maps, the code or a library on {platform.node()} are not those of the plan (fingerprint "
            f"{identity[Tag.FINGERPRINT]}, planned {planned}); make them the same"
        )
    tags = {**(tags or {}), Tag.KIND: kind, **identity}
    place, keep = (uri, config.tracking.experiment), config.tracking.keep_local
    with tracking.start(*place, config.name, tags, parent, folder=run.folder, keep_local=keep) as record:
        say(f"run {config.name}, id {record.run_id}")
        with workdir.logged(run.folder, record, say), _memory(config):
            extras, known = Extras(say), set[str]()
            record_inputs(record, config, data)
            try:
                _name_twins(record, identity[Tag.FINGERPRINT], known, say)
                result = _flow(run, data, record, meter, extras, on_epoch)
                _name_twins(record, identity[Tag.FINGERPRINT], known, say)
                return result
            finally:
                record.metrics({metric_name(Scope.COST, name): value for name, value in meter.results.items()})
                if extras.left_out:
                    record.tags({Tag.LEFT_OUT: "; ".join(extras.left_out)})


def _name_twins(record: Record, fingerprint: str, known: set[str], say: Callable[[str], None]) -> None:
    """Say which other runs do the same meanwhile, but for those that are `known`, to which they are added."""
    from hdmap_mlflow import tracking

    for other in tracking.twins(record.client, record.run_id, fingerprint) - known:
        say(f"run {other} does the same meanwhile; both go on")
        known.add(other)


def _flow(run: Run, data: Dataset, record: Record, meter: Meter, extras: Extras, on_epoch: OnEpoch | None) -> Result:
    """The steps of a run. What exists is recorded once: after the last of them, or where one fails."""
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import train

    def report(values: Mapping[str, float], epoch: int) -> None:
        record.metrics({metric_name(Scope.EPOCH, name): value for name, value in values.items()}, epoch)
        if on_epoch:
            on_epoch(values, epoch)

    config, progress = run.config, sys.stderr.isatty()
    with contextlib.ExitStack() as ending:
        ending.callback(record_run, record, run)
        with meter.phase("build"):
            run.prepared = ready = prepare(config, data, extras)
            chain.check_model(config.adapt.adapters, ready.model, config.model.name)
        with meter.phase("fit"), builder.downloads(config.model.name):
            trains = builder.trains(config, ready.model)
            run.fitted = train.fit(
                config,
                ready.model,
                ready.datamodule,
                trains=trains,
                workdir=run.folder,
                on_epoch=report,
                progress=progress,
            )
        with meter.phase("evaluate"):
            if config.data.eval_batch_size == "auto":
                loader = ready.datamodule.scoring_dataloader(data.names[0], "test")
                ready.datamodule.eval_batch_size = size = batch.fitting(ready.model, loader, ready.device)
                record.metrics({metric_name(Scope.COST, "eval_batch_size"): float(size)})
            several, pictures = len(config.data.sources), config.tracking.heatmaps
            kept = outcome.keeping(ready.model, ready.datamodule, config.adapt, ready.device)
            run.scored = score(
                ready, data.names[:several], data.names[several:], config.adapt, progress, pictures, kept
            )
        if chain.model_adapter(chain.working(config.adapt.adapters, config.adapt.k)):
            with meter.phase("adapt"):
                place = (ready.model, ready.datamodule, *run.scored, config.adapt, ready.device)
                run.scored = Scored(*outcome.score(*place, kept, progress))
        kept = None  # gives its memory back
        with meter.phase("record"):
            distances: Distances = {}
            with extras("the domain-shift card"):
                distances = shift.of_domains(data.domains, len(config.data.sources))
            run.result = summarise(
                *run.scored,
                distances,
                run_id=record.run_id,
                uri=record.uri,
                folder=run.folder,
                config=config,
                simulated=data.simulated,
            )
            if config.tracking.model == "best":
                with extras("the MLflow model"):
                    healthy = data.domains[0].table.query("split == 'train'")
                    moved = trained.package(
                        run.folder,
                        run.result,
                        identity_tags(config, data),
                        run.scored.source,
                        data.domains[0].read(healthy.iloc[:1]),
                        run.fitted.checkpoint,
                    )
                    run.fitted = run.fitted._replace(checkpoint=moved)
            ending.close()
    with meter.phase("pictures"):
        record_pictures(record, run.folder, ready, run.scored, run.result, extras)
    return run.result


# --------------------------------------------------------------------------------------------------- the record
def record_inputs(record: Record, config: RunConfig, data: Dataset) -> None:
    """What the run starts from: parameters, configuration, versions and the data it read."""
    settings = config.flat()
    record.params(settings | {before: settings[name] for before, name in RENAMED.items()})  # old names stay readable
    record.json(config.model_dump(mode="json"), Artifact.CONFIG)
    versions = {name: metadata.version(name) for name in ("hdmap_mlflow", *trained.PACKAGES)}
    machine = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    record.json({**machine, "packages": versions}, Artifact.ENVIRONMENT)
    for domain in data.domains:
        counts = domain.table.groupby(["split", "label"]).size()
        parts = zip(counts.index.tolist(), counts, strict=True)
        profile = {f"{split}/{'fault' if label else 'good'}": int(n) for (split, label), n in parts}
        context = "training" if domain.name in config.data.sources else "testing"
        record.dataset(domain.name, domain.digest()[:16], str(domain.folder), context, profile)


def record_run(record: Record, run: Run) -> None:
    """Write all that exists of a run, but for its pictures; of one that failed half-way that is less."""
    tracking, result = run.config.tracking, run.result
    if run.prepared:
        record.tags({Tag.WEIGHTS: run.prepared.weights, Tag.ENGINE: run.prepared.engine})
    if run.fitted:
        trained = {"train_steps": run.fitted.training.total_steps, "train_maps": run.fitted.training.maps_seen}
        record.metrics({metric_name(Scope.COST, name): float(value) for name, value in trained.items()})
    if result:
        record.metrics(result.metrics)
    for scores in run.scored.apart() if run.scored else ():
        with _file_of(scores, run.folder) as file:
            record.artifact(file, Artifact.SCORES)
    if result and run.fitted:
        record.json(result.record(run.fitted.training, run.fitted.checkpoint, run.folder), Artifact.RESULT)
        record.json(result.cards, Artifact.CARDS)
        record.note(result.markdown())
        record.tags({Tag.SAMPLE: result.sample} | ({Tag.GRADE: result.grade} if result.grade else {}))
    if (run.folder / Artifact.MODEL).is_dir():
        record.checkpoint(run.folder / Artifact.MODEL, tracking.max_checkpoint_mb)
    elif run.fitted and tracking.model == "best":
        record.checkpoint(run.fitted.checkpoint, tracking.max_checkpoint_mb)


@contextlib.contextmanager
def _file_of(scores: Scores, folder: Path) -> Iterator[Path]:
    """The file of a domain's scores: in the run's folder, or in a temporary one where that cannot be written to."""
    with contextlib.ExitStack() as temporary:
        try:
            file = scoring.write(scores, folder)
        except OSError:
            elsewhere = tempfile.TemporaryDirectory(prefix="hdmap_scores_")
            file = scoring.write(scores, Path(temporary.enter_context(elsewhere)))
        yield file


def record_pictures(
    record: Record, folder: Path, ready: Prepared, scored: Scored, result: Result, extras: Extras
) -> None:
    """Draw and write the run's figures, and pictures of a few maps of every domain.

    Where one fails, the run goes without it and those after it: of the figures, or of the domain's maps.
    """
    from hdmap_mlflow.evaluation import figures, pictures

    tracking, threshold = result.config.tracking, result.metrics.get(metric_name(Scope.VAL, "threshold_F1"))
    everything = (scored.source, *scored.targets)

    def below(path: str) -> Path:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        return folder / path

    if tracking.figures:
        with extras(Artifact.FIGURES):
            for path, figure in figures.of_run(
                result.config.name, everything, *result.bars(), result.cards, result.simulated
            ):
                figure.savefig(below(path), dpi=90, pil_kwargs={"compress_level": QUICK})
    for scores in scored.apart() if tracking.heatmaps else ():
        with extras(f"{Artifact.HEATMAPS}/{scores.domain}"):
            drawn = pictures.of_domain(
                scores, ready.model, ready.datamodule, ready.device, threshold, tracking.heatmaps, result.simulated
            )
            with ThreadPoolExecutor(1) as writer:  # compresses one while the next is drawn
                writing = [writer.submit(one.save, below(path), compress_level=QUICK) for path, one in drawn]
            for one in writing:
                one.result()
    for name in (Artifact.FIGURES, Artifact.HEATMAPS):
        if (folder / name).exists():
            record.folder(folder / name, name)


@contextlib.contextmanager
def _memory(config: RunConfig) -> Iterator[None]:
    """Name what ran out of memory, and what to lower. torch says it of the machine's in words only."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        cuda = type(error).__name__ == "OutOfMemoryError"
        if not (cuda or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        where, (height, width) = "GPU" if cuda else "the machine's", config.data.image_size
        raise OutOfMemory(
            f"{config.model.name} ran out of {where} memory at batch size {config.data.batch_size}, "
            f"{height}x{width} px; lower data.batch_size, data.eval_batch_size, data.image_size or "
            "data.max_train, or take a smaller backbone"
        ) from error
