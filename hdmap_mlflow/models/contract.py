"""What every model must do, as a check to run on a model of your own: `check_model("my_models:MyModel")`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdmap_mlflow.annotations import Model
from hdmap_mlflow.config import CheckedConfig, build_config, dotted_key, packaged_conditions
from hdmap_mlflow.data import dataset, simulate
from hdmap_mlflow.models import builder, signature
from hdmap_mlflow.models.registry import REGISTRY, find_model

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule
    from torch import Tensor

    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

    Fit = Callable[[CheckedConfig, AnomalibModule, MultiDomainHDMAPDataModule, Path], Path]

SOURCE, TARGET = "domain_A", "domain_B"
GAIN = 3  # of the target's maps: scores that were normalised with the source's and clamped show themselves
# What is promised, and how a model that breaks it is mended.
PROMISES = {
    "types": ("its settings have types", "annotate every argument of __init__: settings are checked against them"),
    "components": ("components reach the base class unchanged", "take **components; super().__init__(**components)"),
    "watched": ("its training can be watched", "return the batch with pred_score from validation_step"),
    "raw": (
        "pred_score is raw, one number per map",
        "let self.model return InferenceBatch(pred_score=...), finite, neither normalised nor clamped",
    ),
    "own": (
        "a map's score is its own",
        "compute it from this map and the fitted state alone, without chance, in a batch of any size",
    ),
    "state": (
        "parameters and buffers hold what scoring needs",
        "keep it in torch.nn.Parameter or register_buffer, in the shape that __init__ gives it",
    ),
    # Optional: a model that has `features` can be adapted by those who compare them (k_bank, merge, coral).
    "features": (
        "its features are those of patches",
        "let features(images) return a finite (B, C, h, w) for pre-processed images (B, 3, H, W), or leave it out",
    ),
}


class ContractBroken(AssertionError):
    """A model breaks a promise that every model makes: which one, what was seen, and how to mend it."""

    def __init__(self, promise: str, seen: str) -> None:
        super().__init__(f"{PROMISES[promise][0]}: {' '.join(seen.split())}; {PROMISES[promise][1]}")


def check_model(model: str | type, config: Mapping[str, object] | None = None, fit: Fit | None = None) -> None:
    """Check that a model does what runs, checkpoints and comparisons take for granted.

    It trains for a moment, on a CPU and on simulated maps; neither data nor the hub is needed.

    Args:
        model: a class, its `package.module:Class`, or a name of the registry.
        config: settings as a condition has them, flat or dotted, in place of the packaged quickstart's or the class's
            own on square maps of the smallest size that the model takes, at least 64 pixels, with random weights.
        fit: fits a model in place and returns its checkpoint, in place of anomalib's Engine.

    Raises ContractBroken for the first promise that is broken, and BadInput for settings that the model does not take.
    """
    from lightning.pytorch import seed_everything

    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

    name = model if isinstance(model, str) else f"{model.__module__}:{model.__qualname__}"
    signature.forget()  # the class may have been written anew since, as in a notebook
    untyped = [key for key, one in signature.parameters(find_model(name).path).items() if one.annotation is Any]
    if untyped and name not in REGISTRY:
        raise ContractBroken("types", f"{', '.join(untyped)} has none")
    with tempfile.TemporaryDirectory() as folder:
        run = _configure(name, simulate.simulate(Path(folder) / "maps", train=9, test=3), config or {})
        datamodule = MultiDomainHDMAPDataModule(dataset.read(run).domains, run.data)
        seed_everything(0, workers=True, verbose=False)
        fitted = _build(run)
        checkpoint = (fit or _fit)(run, fitted, datamodule, Path(folder))
        scores = _scores(fitted, datamodule)
        _check_raw(scores)
        _check_same(scores, _scores(fitted, datamodule), "own", "scored once more", 1e-6)
        _check_same(scores, _scores(fitted, datamodule, batch=1), "own", "scored alone", 1e-3, 1e-5)
        _check_features(fitted, datamodule)
        seed_everything(1, workers=True, verbose=False)
        again = builder.build(run, fetch=False)
        try:
            builder.load_checkpoint(again, checkpoint)
        except RuntimeError as error:
            raise ContractBroken("state", f"a new model does not take its checkpoint ({error})") from error
        # Where the weights lie in memory decides the order of sums: a unit in the last place may differ.
        _check_same(scores, _scores(again, datamodule), "state", "loaded into a new model", 1e-6)


def _configure(name: str, root: Path, config: Mapping[str, object]) -> CheckedConfig:
    entry, packaged = find_model(name), packaged_conditions(name)
    first = packaged["quickstart"]["config"] if packaged else {"weights": "random"} if entry.weights else {}
    brief = {"root": str(root), "packed": False, "source_domain": SOURCE, "target_domains": [TARGET], "device": "cpu"}
    brief |= {"image_size": [entry.needs.side(64)] * 2, "batch_size": entry.needs.batch or 4, "eval_batch_size": 4}
    brief |= {"max_epochs": entry.needs.epochs, "limit_train_batches": 2}
    settings = {dotted_key(key): value for layer in (first, brief, config) for key, value in layer.items()}
    return builder.check(build_config(name, {"name": "contract", "config": settings}, defaults=entry.defaults))


def _build(run: CheckedConfig) -> AnomalibModule:
    """The model, made of components that are known one by one."""
    parts = builder.components(run)
    try:
        model = builder.build(run, parts=parts)
    except TypeError as error:
        raise ContractBroken("components", str(error)) from error
    for name, part in parts.items():
        if getattr(model, name, None) is not (part or None):
            raise ContractBroken("components", f"{name} is {getattr(model, name, None)!r}, not what was passed in")
    return model


def _fit(run: CheckedConfig, model: AnomalibModule, datamodule: MultiDomainHDMAPDataModule, folder: Path) -> Path:
    """A moment of training, on a CPU."""
    from anomalib.callbacks import ModelCheckpoint
    from anomalib.engine import Engine

    engine = Engine(
        callbacks=[ModelCheckpoint(folder / "checkpoint", "model", save_weights_only=True)],
        default_root_dir=folder,
        logger=False,
        accelerator="cpu",
        devices=1,
        max_epochs=run.train.max_epochs,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=run.train.limit_train_batches,
        limit_val_batches=1.0 if builder.trains(run, model) else 0,
    )
    try:
        engine.fit(model=model, datamodule=datamodule)
    except ValueError as error:  # of the metric that is watched
        if "pred_score" not in str(error):
            raise
        raise ContractBroken("watched", "its validation has no scores") from error
    return folder / "checkpoint" / "model.ckpt"


def _scores(model: Model, datamodule: MultiDomainHDMAPDataModule, batch: int = 4) -> Tensor:
    """Raw scores (n,) of the target's maps, as a run computes them."""
    import torch

    datamodule.eval_batch_size = batch
    model.eval()
    scores = []
    with torch.inference_mode():
        for maps in datamodule.scoring_dataloader(TARGET, "test"):
            count = len(maps.image)
            maps.image = model.pre_processor.transform(GAIN * maps.image)
            try:
                score = model.predict_step(maps, 0).pred_score.reshape(-1).float()
            except (AttributeError, TypeError) as error:
                raise ContractBroken("raw", f"no map can be scored ({error})") from error
            if len(score) != count:
                raise ContractBroken("raw", f"{count} maps have {len(score)} scores")
            scores.append(score)
    return torch.cat(scores)


def _check_features(model: Model, datamodule: MultiDomainHDMAPDataModule) -> None:
    """Of a model that offers them: a finite vector per patch of every image."""
    import torch

    if not hasattr(model, "features"):
        return
    images = next(iter(datamodule.scoring_dataloader(TARGET, "test"))).image
    with torch.inference_mode():
        features = model.features(model.pre_processor.transform(images))
    if features.ndim != 4 or len(features) != len(images) or not features.isfinite().all():
        raise ContractBroken("features", f"{len(images)} images have features {tuple(features.shape)}")


def _check_raw(scores: Tensor) -> None:
    """Finite, and neither all the same nor cut off at 1, as anomalib's post-processor leaves a target's scores."""
    if not scores.isfinite().all():
        raise ContractBroken("raw", f"scores are {scores.tolist()}")
    largest = int((scores == scores.max()).sum())
    if largest == len(scores) or (largest > 1 and scores.max() == 1):
        raise ContractBroken("raw", f"{largest} of {len(scores)} maps have the score {scores.max():g}")


def _check_same(scores: Tensor, others: Tensor, promise: str, how: str, rtol: float, atol: float = 0) -> None:
    if not scores.allclose(others, rtol, atol):
        worst = int((scores - others).abs().argmax())
        raise ContractBroken(promise, f"a map that scored {scores[worst]:.6g} scores {others[worst]:.6g} {how}")
