"""Training: whose settings it obeys, when it stops, which epoch it keeps, and what a checkpoint must hold."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import Evaluator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hdmap_mlflow.config import RunConfig, TrainConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own import dinomaly
from hdmap_mlflow.models.own.cutpaste import CutPasteModule
from hdmap_mlflow.models.parts.auroc import AUROC
from hdmap_mlflow.runs import train


class FakeTrainer:
    def __init__(self, optimizers: list[Any], schedulers: list[Any]) -> None:
        self.strategy = SimpleNamespace(optimizers=optimizers)
        self.lr_scheduler_configs = [SimpleNamespace(scheduler=scheduler) for scheduler in schedulers]

    @property
    def optimizers(self) -> list[Any]:
        return self.strategy.optimizers


def settle(optimizers: list[Any], schedulers: list[Any] | None = None, **settings: Any) -> list[Any]:
    """The optimizers of a training that begins with these settings."""
    trainer: Any = FakeTrainer(optimizers, schedulers or [])
    train._OptimizerSettings(TrainConfig(**settings)).on_train_start(trainer, nn.Identity())  # type: ignore[arg-type]
    return trainer.optimizers


def weight(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([value]))


def groups() -> list[dict[str, Any]]:
    return [{"params": [weight()], "lr": 0.1}, {"params": [weight()], "lr": 0.02}]


def test_a_learning_rate_is_that_of_the_first_group_and_the_others_keep_their_ratio() -> None:
    first, second = settle([torch.optim.Adam(groups()), torch.optim.Adam([weight()], lr=0.4)], learning_rate=0.05)
    assert [group["lr"] for group in first.param_groups] == pytest.approx([0.05, 0.01])
    assert second.param_groups[0]["lr"] == pytest.approx(0.2)


def test_what_is_not_set_stays_as_the_models_authors_have_it() -> None:
    before = torch.optim.Adam(groups(), weight_decay=0.3)
    [after] = settle([before])
    assert after is before
    assert [(group["lr"], group["weight_decay"]) for group in after.param_groups] == [(0.1, 0.3), (0.02, 0.3)]


def test_weight_decay_is_that_of_every_group_of_every_optimizer() -> None:
    found = settle([torch.optim.SGD(groups(), weight_decay=0.3), torch.optim.Adam([weight()])], weight_decay=0.0)
    assert [group["weight_decay"] for one in found for group in one.param_groups] == [0, 0, 0]
    assert [group["lr"] for group in found[0].param_groups] == [0.1, 0.02]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_an_optimizer_of_another_kind_takes_the_groups_and_rates_over(name: Any, kind: type) -> None:
    before = [torch.optim.RMSprop(groups()), torch.optim.Adam([weight()], lr=0.4)]
    after = settle(before, optimizer=name, weight_decay=0.7)
    assert [type(one) for one in after] == [kind, kind]
    for old, new in zip(before, after, strict=True):
        assert [group["lr"] for group in new.param_groups] == [group["lr"] for group in old.param_groups]
        assert [group["params"] for group in new.param_groups] == [group["params"] for group in old.param_groups]
        assert all(group["weight_decay"] == 0.7 for group in new.param_groups)
    if kind is torch.optim.SGD:
        assert after[0].param_groups[0]["momentum"] == 0.9
    [other] = settle([torch.optim.RMSprop(groups(), weight_decay=0.3)], optimizer=name, learning_rate=1.0)
    assert [group["lr"] for group in other.param_groups] == pytest.approx([1.0, 0.2])
    assert [group["weight_decay"] for group in other.param_groups] == [0.3, 0.3], "not the new kind's own default"
    [bare] = settle([torch.optim.LBFGS([weight()], lr=0.2)], optimizer=name)
    assert bare.param_groups[0]["lr"] == 0.2


def test_a_model_that_schedules_its_optimizer_keeps_it() -> None:
    optimizer = torch.optim.Adam(groups())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(BadInput, match="Identity schedules its own optimizer; leave train.optimizer out"):
        settle([optimizer], [schedule], optimizer="sgd")


def test_a_schedule_keeps_its_shape_at_another_rate() -> None:
    optimizer = torch.optim.SGD(groups())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 4)  # it warms up from a quarter
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    settle([optimizer], [schedule], learning_rate=1.0)
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step(), schedule.step()
    for row, share in zip(rates, (0.25, 0.5, 0.75, 1.0), strict=True):
        assert row == pytest.approx([share, 0.2 * share])


def test_a_schedule_made_beforehand_is_scaled_as_a_whole() -> None:
    optimizer = torch.optim.SGD(groups())
    schedule = dinomaly.Schedule(optimizer, 0.1, 0.01, total_iters=8, warmup_iters=3)
    before = [0.0, 0.05, 0.1, *(0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(5) / 5)) / 2)]
    np.testing.assert_allclose(schedule.schedule, before)
    settle([optimizer], [schedule], learning_rate=0.2)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), schedule.step()
    np.testing.assert_allclose(rates, 2 * np.array(before))


def test_a_model_without_weights_to_learn_has_no_rate() -> None:
    assert settle([], learning_rate=0.1, weight_decay=0.1) == []


# --------------------------------------------------------------------------------------------------- a whole training
AUROCS = [0.5, 0.75, 0.75, 0.25, 1.0, 1.0]  # on validation, epoch by epoch
RANKS = {0.25: [3.0, 1, 2, 0], 0.5: [0.0, 3, 1, 2], 0.75: [0.0, 2, 1, 3], 1.0: [0.0, 1, 2, 3]}  # two good, two faults
BATCH = {"image": torch.zeros(4, 3, 2, 2), "gt_label": torch.tensor([0, 0, 1, 1])}


class Rehearsed(CutPasteModule):
    """One weight that falls by its rate, 1, at every step."""

    def __init__(self, metric: str = "val_image_", **_: Any) -> None:
        super().__init__(False, False, Evaluator(val_metrics=[AUROC(["pred_score", "gt_label"], metric)]), False)
        self.model = nn.ParameterDict({"weight": weight(0.0)})
        self.trained: list[bool] = []
        self.validated: list[bool] = []
        self.half: set[bool] = set()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=1.0)

    def training_step(self, batch: Any, *_: Any, **__: Any) -> Tensor:
        self.trained.append(self.training)
        self.half.add((self.model["weight"][None] @ self.model["weight"][None]).dtype is not torch.float32)
        self.log("train_loss", self.model["weight"].sum(), on_step=False, on_epoch=True, batch_size=4)
        return self.model["weight"].sum()

    def validation_step(self, batch: Any, *_: Any, **__: Any) -> Any:
        self.validated.append(self.training)
        return batch.update(pred_score=torch.tensor(RANKS[AUROCS[self.current_epoch]]))


class Data(AnomalibDataModule):
    """Two batches to train on, and two to validate on."""

    def _setup(self, _stage: str | None = None) -> None: ...

    def setup(self, stage: str | None = None) -> None: ...

    def train_dataloader(self) -> Any:
        return DataLoader([ImageBatch(**BATCH), ImageBatch(**BATCH)], None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


def fit(folder: Path, model: Any = None, trains: bool = True, **settings: Any) -> tuple[Any, Path, Any, list[Any]]:
    told: list[Any] = []
    model = model or Rehearsed()
    parts: dict[str, Any] = {"model": {"name": "mine:Model"}, "train": {"device": "cpu", **settings}}
    path, record = train.fit(
        RunConfig(condition="c", **parts),
        model,
        Data(4, 4, 0),
        trains=trains,
        workdir=folder,
        on_epoch=lambda values, epoch: told.append((epoch, dict(values))),
        progress=False,
    )
    return model, path, record, told


def test_training_stops_after_the_patience_and_goes_back_to_the_best_epoch(tmp_path: Path) -> None:
    model, path, record, told = fit(tmp_path, max_epochs=6, early_stopping_patience=2)
    assert model.model["weight"].item() == -4  # after epochs 0 and 1 of two steps
    kept = torch.load(path, weights_only=True)
    assert kept["state_dict"]["model.weight"].item() == -4 and "optimizer_states" not in kept
    assert path.parent == tmp_path / "checkpoint" and not list(path.parent.glob("*-v1*"))
    assert path.name == "mine.Model_multi_domain_domain_A_epoch=01_val_image_AUROC=0.7500.ckpt"
    reason = "no better val_image_AUROC for 2 epochs"
    assert record == train.TrainingRecord("early_stopped", 6, 3, 8, True, reason, 0.75, 8)
    assert [epoch for epoch, _ in told] == [0, 1, 2, 3]
    assert [values["val_image_AUROC"] for _, values in told] == AUROCS[:4]
    assert [values["train_loss"] for _, values in told] == [-0.5, -2.5, -4.5, -6.5]
    assert all(model.trained) and not any(model.validated) and model.half == {False}
    assert (len(model.trained), len(model.validated)) == (8, 8)  # nothing is validated before the first epoch


class Forked(Rehearsed):
    """Logs for steps and epochs at once, as anomalib's models do, and something of its own that only sounds like it."""

    def training_step(self, batch: Any, *_: Any, **__: Any) -> Tensor:
        loss = super().training_step(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=4)
        self.log("lr_step", torch.tensor(3.0), batch_size=4)
        self.log("lr", torch.tensor(2.0), batch_size=4)
        return loss


def test_a_loss_is_told_once_an_epoch_as_its_mean(tmp_path: Path) -> None:
    *_, told = fit(tmp_path, Forked(), max_epochs=2)
    assert {"loss_step", "loss_epoch"}.isdisjoint(told[0][1])
    assert [values["loss"] for _, values in told] == [-0.5, -2.5] == [values["train_loss"] for _, values in told]
    assert (told[0][1]["lr"], told[0][1]["lr_step"]) == (2, 3), "no fork of Lightning's"


@pytest.mark.parametrize(
    ("ranks", "settings", "reason", "best"),
    [
        ([0.5, 0.25], {}, "no better val_image_AUROC for 1 epochs", 0.5),
        ([None], {}, "val_image_AUROC is undefined after epoch 0", None),
        ([0.5, None], {"early_stopping_patience": 9}, "val_image_AUROC is undefined after epoch 1", 0.5),
    ],
)
def test_the_record_tells_a_training_that_stopped_early_even_after_its_first_epoch(
    tmp_path: Path, monkeypatch, ranks: list, settings: dict[str, Any], reason: str, best: float | None
) -> None:
    found = iter(ranks)
    monkeypatch.setattr(AUROC, "compute", lambda self: torch.tensor(next(found) or float("nan")))
    last = len(ranks) - 1
    *_, record, _ = fit(tmp_path, max_epochs=6, **({"early_stopping_patience": 1} | settings))
    assert record == train.TrainingRecord("early_stopped", 6, last, 2 * (last + 1), True, reason, best, 2 * (last + 1))


def test_training_that_keeps_improving_in_time_runs_to_its_last_epoch(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"limit_train_batches": 1, "limit_val_batches": 1, "precision": "bf16-mixed"}
    model, path, record, told = fit(tmp_path / "run", max_epochs=6, early_stopping_patience=3, **settings)
    assert model.model["weight"].item() == -5
    assert record == train.TrainingRecord("max_epochs", 6, 5, 6, False, "", 1.0, 6)
    assert (len(model.trained), len(model.validated), len(told)) == (6, 6, 6)
    assert model.half == {True}
    assert list((tmp_path / "run" / "tensorboard_logs").glob("events*"))
    assert [file.name for file in tmp_path.iterdir()] == ["run"], "all that is written goes below the run's folder"


def test_a_budget_of_seconds_ends_with_the_epoch_in_which_it_runs_out(tmp_path: Path) -> None:
    *_, record, _ = fit(tmp_path, max_epochs=50, early_stopping_patience=50, budget="seconds=0.001")
    assert (record.completion, record.last_epoch, record.early_stopped) == ("budget", 0, False)


def test_the_rate_and_decay_of_the_run_are_those_of_its_steps(tmp_path: Path) -> None:
    model, *_ = fit(tmp_path, max_epochs=1, learning_rate=0.25, optimizer="sgd", weight_decay=0.5)
    velocity = 0.9 * 1 + (1 - 0.25 * 0.5)  # SGD with momentum 0.9, from weight 0
    assert model.model["weight"].item() == pytest.approx(-0.25 - 0.25 * velocity)


def test_a_model_that_one_pass_fits_is_not_validated_and_keeps_what_it_has(tmp_path: Path) -> None:
    model, path, record, _ = fit(tmp_path, trains=False)
    assert record == train.TrainingRecord("fitted", 1, 0, 2, False, "", None, 2)
    assert not model.validated and model.model["weight"].item() == -2
    assert path == tmp_path / "checkpoint" / "mine.Model_multi_domain_domain_A.ckpt"
    kept = torch.load(path, weights_only=True)
    assert kept["state_dict"]["model.weight"].item() == -2 and "optimizer_states" not in kept


def test_a_model_that_sees_no_training_map_is_kept_as_it_was_built(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(train.Engine, "fit", lambda self, model, datamodule: self._setup_trainer(model))
    model = Rehearsed()
    model.model["weight"].data.fill_(3.0)
    _, path, record, _ = fit(tmp_path, model, trains=False)
    again = Rehearsed()
    train.load_checkpoint(again, path)
    assert again.model["weight"].item() == 3 and record.completion == "fitted" and record.last_epoch == 0


def test_a_metric_that_is_missing_is_named_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="mine:Model does not compute val_image_AUROC.*other_AUROC"):
        fit(tmp_path, Rehearsed("other_"))


def test_an_interrupt_is_an_interrupt_again(tmp_path: Path, monkeypatch) -> None:
    """Lightning ends the process for Ctrl-C; a model's code that does so is none."""

    def ctrl_c(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for stop, ends in ((ctrl_c, KeyboardInterrupt), (lambda *_, **__: sys.exit(0), SystemExit)):
        monkeypatch.setattr(train.Engine, "fit", stop)
        with pytest.raises(ends):
            fit(tmp_path)


def test_ctrl_c_is_heard_while_a_fit_that_was_interrupted_ends(tmp_path: Path) -> None:
    """Lightning ignores it from then on."""

    class Interrupted(Rehearsed):
        def training_step(self, batch: Any, *_: Any, **__: Any) -> Tensor:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path, Interrupted())
        assert signal.getsignal(signal.SIGINT) is before is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------- checkpoints, device, seed
def test_a_checkpoint_must_hold_every_weight_and_no_other(tmp_path: Path) -> None:
    model, file = Rehearsed(), tmp_path / "some.ckpt"
    torch.save({"state_dict": {"model.weight": torch.tensor([7.0])}}, file)
    train.load_checkpoint(model, file)
    assert model.model["weight"].item() == 7
    for wrong in (
        {},
        {"model.weight": torch.zeros(1), "model.other": torch.zeros(1)},
        {"model.weight": torch.zeros(2)},
    ):
        torch.save({"state_dict": wrong}, file)
        with pytest.raises(RuntimeError, match="state_dict"):
            train.load_checkpoint(model, file)
    torch.save({"state_dict": {"model.weight": Path("code that runs")}}, file)
    with pytest.raises(Exception, match="weights_only|Weights only"):
        train.load_checkpoint(model, file)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(False, False, "cpu"), (True, False, "cuda"), (False, True, "mps"), (True, True, "cuda")],
)
def test_auto_is_the_fastest_device_that_is_there(cuda: bool, mps: bool, device: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert train.accelerator("auto") == device and train.accelerator("cpu") == "cpu"
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert train.accelerator(name) == name
        else:
            with pytest.raises(BadInput, match=f"train.device={name} is not available here; give auto or cpu"):
                train.accelerator(name)


def test_a_seed_decides_every_generator(monkeypatch) -> None:
    def draws(seed: int) -> tuple[float, ...]:
        train.seed(TrainConfig(seed=seed))
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    first = draws(3)
    assert draws(3) == first and not set(draws(4)) & set(first)
    assert os.environ["PL_SEED_WORKERS"] == "1"


def test_only_single_numbers_of_an_epoch_are_told() -> None:
    told: list[Any] = []
    trainer: Any = SimpleNamespace(callback_metrics={"a": torch.tensor(0.5), "b": torch.zeros(2)}, current_epoch=3)
    train._EpochReport(lambda values, epoch: told.append((values, epoch))).on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert told == [({"a": 0.5}, 3)]
