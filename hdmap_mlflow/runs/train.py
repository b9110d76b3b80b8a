"""Configuration + model + data -> a fitted model, its checkpoint and the record of its training."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from lightning.pytorch.loggers import TensorBoardLogger

from hdmap_mlflow import interrupt
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import RunConfig, TrainConfig
from hdmap_mlflow.config.budget import Budget
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.builder import load_checkpoint
from hdmap_mlflow.models.parts.engine import at_rest
from hdmap_mlflow.names import DOMAIN_BYTES, Artifact

for _name in ("lightning", "lightning_fabric"):  # what these say goes to the run's log, not between our lines
    logging.getLogger(_name).handlers.clear()
    logging.getLogger(_name).propagate = True

MONITOR = "val_image_AUROC"
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}
KEPT = ("params", "lr", "weight_decay")  # of a group of parameters that gets another optimizer
OnEpoch = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class TrainingRecord:
    """How the training went.

    `maps_seen` counts a map each time it was in a batch. `best_val_image_AUROC` is None for models that one pass fits.
    """

    completion: Literal["fitted", "max_epochs", "early_stopped", "budget"]
    max_epochs_configured: int
    last_epoch: int
    total_steps: int
    early_stopped: bool
    reason: str
    best_val_image_AUROC: float | None
    maps_seen: int


class Fitted(NamedTuple):
    """The checkpoint of a fitted model, and how its training went."""

    checkpoint: Path
    training: TrainingRecord


def accelerator(device: str) -> str:
    """The torch device type that `auto` means here: cuda, mps or cpu. Raises BadInput for one that is not there."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in present.items() if there)
    if not present[device]:
        raise BadInput(f"train.device={device} is not available here; give auto or cpu")
    return device


def check_device(config: TrainConfig) -> None:
    """Raise BadInput for a device that is not there, and for a precision that it does not compute in.

    Lightning would take bfloat16 in place of float16 on a CPU, with no more than a warning.
    """
    device = accelerator(config.device)
    half = config.precision == "16-mixed" and device == "cpu"
    if half or config.precision == "bf16-mixed" and device == "cuda" and not torch.cuda.is_bf16_supported():
        other = "bf16-mixed" if half else "16-mixed"
        raise BadInput(f"train.precision={config.precision} does not run on {device}; give 32-true or {other}")


def seed(config: TrainConfig) -> None:
    """Seed Python, NumPy, torch and the workers; call it before the model is built, so that its weights follow."""
    seed_everything(config.seed, workers=True, verbose=False)


def fit(
    config: RunConfig,
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    *,
    trains: bool,
    workdir: Path,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
) -> Fitted:
    """Fit `model` in place with anomalib's Engine, and write its checkpoint below the folder.

    Models that train stop early on the validation AUROC and end with the weights of their best epoch. `on_epoch`
    gets every epoch's losses and validation metrics and may raise to stop the run.
    """
    settings = config.train
    stem = f"{config.model.name.replace(':', '.')}_multi_domain_{config.data.source_domain[:DOMAIN_BYTES]}"
    early_stopping = EarlyStopping(MONITOR, mode="max", patience=settings.early_stopping_patience)
    name = f"{stem}_{{epoch:02d}}_{{{MONITOR}:.4f}}" if trains else stem
    watch: Document = {"monitor": MONITOR, "mode": "max"} if trains else {}
    # The optimizer's state would triple the file.
    best = ModelCheckpoint(workdir / Artifact.CHECKPOINT, name, save_weights_only=True, **watch)
    callbacks: list[Callback] = [best]
    if trains:
        watched: Any = model.evaluator.val_metrics if model.evaluator else []
        names = [metric.name for metric in watched]
        if MONITOR not in names:
            raise BadInput(f"{config.model.name} does not compute {MONITOR}, which its training watches; has: {names}")
        callbacks = [early_stopping, best, _OptimizerSettings(settings)]
    budget = Budget.of(settings.budget) if settings.budget and trains else None
    if budget and budget.unit == "seconds":
        callbacks.append(Timer(timedelta(seconds=budget.amount), interval="epoch", verbose=False))
    callbacks += [_EpochReport(on_epoch)] if on_epoch else []
    callbacks += [_Interrupt()]
    engine = Engine(
        callbacks=callbacks,
        logger=TensorBoardLogger(str(workdir), name="tensorboard_logs", version=""),
        default_root_dir=workdir / "lightning",
        accelerator="gpu" if accelerator(settings.device) == "cuda" else accelerator(settings.device),
        devices=1,
        precision=settings.precision,
        max_epochs=settings.max_epochs,
        check_val_every_n_epoch=1,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_progress_bar=progress,
        enable_model_summary=False,
        limit_train_batches=settings.limit_train_batches,
        # A model that one pass fits is validated once, by the evaluation that follows.
        limit_val_batches=settings.limit_val_batches if trains else 0,
    )
    with interrupt.recognised(), at_rest(model) if trains else contextlib.nullcontext():
        engine.fit(model=model, datamodule=datamodule)
    trainer = engine.trainer
    checkpoint = Path(best.best_model_path or workdir / Artifact.CHECKPOINT / f"{stem}.ckpt")
    if not best.best_model_path:  # a zero-shot model: anomalib validates it only, and nothing was saved
        checkpoint.parent.mkdir(exist_ok=True)
        torch.save({"state_dict": model.state_dict()}, checkpoint)
    if trains:
        load_checkpoint(model, checkpoint)
    reasons = {  # `stopped_epoch` is 0 for a stop after the first epoch, too
        EarlyStoppingReason.PATIENCE_EXHAUSTED: f"no better {MONITOR} for {settings.early_stopping_patience} epochs",
        EarlyStoppingReason.NON_FINITE_METRIC: f"{MONITOR} is undefined after epoch {early_stopping.stopped_epoch}",
    }
    why = reasons.get(early_stopping.stopping_reason, "") if trains else ""
    score = best.best_model_score if trains else None
    record = TrainingRecord(
        completion="early_stopped" if why else "budget" if budget else "max_epochs" if trains else "fitted",
        max_epochs_configured=settings.max_epochs,
        last_epoch=max(trainer.current_epoch - 1, 0),
        total_steps=trainer.global_step,
        early_stopped=bool(why),
        reason=why,
        best_val_image_AUROC=float(score) if score is not None and torch.isfinite(score) else None,
        maps_seen=_maps_seen(trainer),
    )
    return Fitted(checkpoint, record)


def _maps_seen(trainer: Trainer) -> int:
    loader = trainer.train_dataloader
    if loader is None:  # a zero-shot model has seen none
        return 0
    epoch = min(len(loader.dataset), int(trainer.num_training_batches) * (loader.batch_size or 1))
    return epoch * trainer.current_epoch


class _EpochReport(Callback):
    """Hands every epoch's scalar metrics to the run's record."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        # What is logged for steps and epochs alike, Lightning gives three times; the name itself has the epoch's mean.
        twice = {name: {f"{name}_step", f"{name}_epoch"} for name in values}
        again = set().union(*(forks for forks in twice.values() if forks <= values.keys()))
        self.on_epoch({name: value for name, value in values.items() if name not in again}, trainer.current_epoch)


class _Interrupt(Callback):
    """Ctrl-C is heard while a fit that was interrupted ends, too; Lightning ignores it from the first on."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGINT)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            signal.signal(signal.SIGINT, self.handler)


class _OptimizerSettings(Callback):
    """Applies the configured optimizer, learning rate and weight decay to whatever the model set up for itself.

    The learning rate is that of the first group of parameters; the others keep their ratio to it, and a schedule its
    shape: one that is no function of torch's `base_lrs` has a method `scale(factor)`.
    """

    def __init__(self, settings: TrainConfig) -> None:
        self.settings = settings
        self.kind = OPTIMIZERS[settings.optimizer] if settings.optimizer else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        if self.kind is not None:
            if schedulers:
                raise BadInput(f"{type(pl_module).__name__} schedules its own optimizer; leave train.optimizer out")
            # The kind changes and nothing else: rates and decay stay those of the model's authors.
            trainer.strategy.optimizers = [
                self.kind([{key: group[key] for key in KEPT if key in group} for group in optimizer.param_groups])
                for optimizer in trainer.optimizers
            ]
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if self.settings.learning_rate is not None and groups:
            # A schedule may have warmed the rate down already: what it starts from is kept beside.
            scale = self.settings.learning_rate / groups[0].get("initial_lr", groups[0]["lr"])
            for group in groups:
                group["lr"] *= scale
            for scheduler in schedulers:
                if hasattr(scheduler, "base_lrs"):
                    scheduler.base_lrs = [rate * scale for rate in scheduler.base_lrs]
                if hasattr(scheduler, "scale"):
                    scheduler.scale(scale)
        if self.settings.weight_decay is not None:
            for group in groups:
                group["weight_decay"] = self.settings.weight_decay
