"""The whole flow on small maps: what is measured, what is recorded, and how a run ends."""

import importlib
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import tifffile
from chaos import at
from maps import write_domain
from servers import new_store
from sklearn.metrics import roc_auc_score
from small import RANDOM_PADIM, RANDOM_PATCHCORE, RANDOM_RD, SMALL, over

from hdmap_mlflow import tracking
from hdmap_mlflow.data.dataset import read
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import batch, scoring
from hdmap_mlflow.runs import flow, setup, workdir

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("store"),
    pytest.mark.xdist_group("flow"),
]  # a fresh SQLite store costs a run of this size as much as the run


def configure(maps, model="patchcore", overrides=RANDOM_PATCHCORE, **flags):
    flags = {"data.root": str(maps)} | {key.replace("__", "."): value for key, value in flags.items()}
    return setup.configure(model, flags=flags, overrides=overrides)


def last_run():
    return mlflow.MlflowClient().search_runs(["1"], order_by=["start_time DESC"])[0]


def quiet(_line):
    return None


@pytest.fixture(scope="module")
def finished(maps, tmp_path_factory):
    """One run in a store of its own, for the tests that read what it left."""
    folder = tmp_path_factory.mktemp("finished")
    here = f"tracking.uri={new_store(folder / 'mlflow.db')},tracking.output_dir={folder / 'out'}"
    return flow.execute(configure(maps, overrides=over(RANDOM_PATCHCORE, here)), say=quiet)


def artifact(run_id, path, uri=None):
    return tracking.artifacts(uri or tracking.absolute_uri(None), run_id, path)


def text(run_id, path, uri=None):
    return Path(artifact(run_id, path, uri)).read_text()


def test_a_run_leaves_the_whole_record(finished):
    found = mlflow.MlflowClient(finished.uri).get_run(finished.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "patchcore/quickstart/domain_A/s0"
    assert found.data.params["data.source_domain"] == "domain_A"
    assert found.data.params["model.layers"] == '["layer1"]'
    tags = found.data.tags
    assert tags["hdmap.kind"] == "run" and tags["hdmap.validation"] == "source_holdout"
    assert tags["hdmap.weights"].startswith("random:")
    assert tags["hdmap.status"] == "finished" and tags["hdmap.simulated"] == "false"
    assert {"hdmap.fingerprint", "hdmap.data_digest", "mlflow.note.content"} <= set(tags)
    assert tags.get("hdmap.grade") == finished.grade
    for name in (
        "val/image_AUROC",
        "source/image_AUROC",
        "source/image_F1",
        "target/domain_B/image_AP",
        "target_mean/image_AUROC",
        "target_worst/image_AUROC",
        "transfer/ratio",
        "cost/fit_seconds",
    ):
        assert name in found.data.metrics
    assert {dataset.dataset.name for dataset in found.inputs.dataset_inputs} == {"domain_A", "domain_B", "domain_C"}
    result = json.loads(text(finished.run_id, "result.json", finished.uri))
    assert set(result["target_results"]) == {"domain_B", "domain_C"}
    assert result["training_info"]["completion"] == "fitted"
    assert "anomalib" in json.loads(text(finished.run_id, "environment.json", finished.uri))["packages"]


def test_metrics_are_those_of_the_raw_scores_that_are_kept(finished, maps):
    frame = pd.read_parquet(artifact(finished.run_id, "scores/domain_B.parquet", finished.uri))
    assert frame["split"].value_counts().to_dict() == {"test": 16, "reference": 12}
    frame = frame[frame["split"] == "test"]
    assert frame["score"].max() > 1.0, "raw PatchCore distances are not normalised to [0, 1]"
    assert finished.metrics["target/domain_B/image_AUROC"] == roc_auc_score(frame["label"], frame["score"])
    first = tifffile.imread(maps / "domain_B" / frame["path"].iloc[0])
    np.testing.assert_allclose(frame["image_max"].iloc[0], first.max(), rtol=1e-6)
    source = pd.read_parquet(artifact(finished.run_id, "scores/domain_A.parquet", finished.uri))
    assert source["split"].value_counts().to_dict() == {"val": 8, "test": 8, "reference": 12}
    assert not set(source[source["split"] == "val"]["path"]) & set(source[source["split"] == "test"]["path"])


def test_scoring_takes_the_batches_that_the_device_holds_where_it_is_asked_to(maps, monkeypatch):
    sizes, score = [], scoring.score

    def watched(model, loader, *rest):
        sizes.append(loader.batch_size)
        return score(model, loader, *rest)

    monkeypatch.setattr(scoring, "score", watched)
    monkeypatch.setattr(batch, "fitting", lambda model, loader, device: 7 if loader.batch_size == 32 else 0)
    found = flow.execute(configure(maps, overrides=over(RANDOM_PATCHCORE, "data.eval_batch_size=auto")), say=quiet)
    run = mlflow.MlflowClient().get_run(found.run_id).data
    assert set(sizes) == {7} and run.metrics["cost/eval_batch_size"] == 7
    assert run.params["data.eval_batch_size"] == "auto"


def test_a_large_shift_does_not_saturate_the_auroc(tmp_path):
    """Both targets hold the same faults; one is 50 times brighter. Clamped scores would give exactly 0.5 there."""
    write_domain(tmp_path, "domain_A")
    far = write_domain(tmp_path, "far")
    for path in far.rglob("*.tiff"):
        tifffile.imwrite(path, tifffile.imread(path) * np.float32(50))
    result = flow.execute(configure(tmp_path), say=quiet)
    frame = pd.read_parquet(artifact(result.run_id, "scores/far.parquet"))
    assert frame["score"].nunique() == len(frame)
    assert abs(result.metrics["target/far/image_AUROC"] - 0.5) > 0.05


@pytest.mark.parametrize(("model", "overrides"), [("patchcore", RANDOM_PATCHCORE), ("reverse_distillation", RANDOM_RD)])
def test_the_same_seeds_give_the_same_metrics_to_the_last_digit(maps, model, overrides):
    first, again = (flow.execute(configure(maps, model, overrides), say=quiet) for _ in range(2))
    other = flow.execute(configure(maps, model, overrides, train__seed=1), say=quiet)
    assert first.metrics == again.metrics
    assert first.metrics != other.metrics


def test_a_trained_model_reports_its_best_epoch_and_reloads(maps):
    from hdmap_mlflow.evaluation.scoring import score
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs.train import load_checkpoint

    config = configure(maps, "reverse_distillation", SMALL + ",train.max_epochs=4,train.early_stopping_patience=1")
    result = flow.execute(config, say=quiet)
    client = mlflow.MlflowClient()
    history = client.get_metric_history(result.run_id, "epoch/val_image_AUROC")
    best = max(point.value for point in history)
    training = json.loads(text(result.run_id, "result.json"))["training_info"]
    assert training["best_val_image_AUROC"] == pytest.approx(best)
    assert result.metrics["val/image_AUROC"] == pytest.approx(best)
    assert len(history) == training["last_epoch"] + 1
    (checkpoint,) = (tracking.model.home(result.uri, result.run_id) / "checkpoint").iterdir()
    name = checkpoint.name
    assert name.startswith("reverse_distillation_multi_domain_domain_A_epoch=") and "val_image_AUROC=" in name

    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule

    model = builder.build(config)
    load_checkpoint(model, checkpoint)
    module = MultiDomainHDMAPDataModule(read(config).domains, config.data)
    again = score(model, module.scoring_dataloader("domain_B", "test"), "domain_B", "test", "cpu", False).table["score"]
    kept = pd.read_parquet(artifact(result.run_id, "scores/domain_B.parquet")).query("split == 'test'")["score"]
    np.testing.assert_allclose(again, kept, rtol=1e-6)  # the kernels' last digit depends on what ran before


@pytest.mark.parametrize("validation", ["source_test", "synthetic"])
def test_every_validation_strategy_runs_and_is_tagged(maps, validation, monkeypatch):
    passes, score = [], scoring.score
    monkeypatch.setattr(scoring, "score", lambda *given: passes.append(given[2:4]) or score(*given))
    result = flow.execute(configure(maps, data__validation=validation), say=quiet)
    assert last_run().data.tags["hdmap.validation"] == validation
    source = pd.read_parquet(artifact(result.run_id, "scores/domain_A.parquet"))
    assert source["split"].value_counts()["test"] == 16
    assert source.query("split == 'val'")["path"].str.startswith("test").all() == (validation == "source_test")
    assert ("optimistic" in result.markdown()) == (validation == "source_test")
    assert (("domain_A", "val") in passes) == (validation != "source_test")  # the same maps are scored once
    assert len(set(passes)) == len(passes)


def test_padim_runs_on_any_backbone(maps):
    result = flow.execute(configure(maps, "padim", RANDOM_PADIM), say=quiet)
    assert 0 <= result.metrics["target_mean/image_AUROC"] <= 1


def test_the_watched_auroc_is_that_of_raw_scores_of_any_range():
    """torchmetrics' own would answer 0.5 here: its sigmoid maps every one of these scores to 1."""
    import torch
    from anomalib.data import ImageBatch

    from hdmap_mlflow.models.parts.auroc import AUROC

    metric = AUROC(fields=["pred_score", "gt_label"], prefix="val_image_")
    assert metric.name == "val_image_AUROC"
    scores, labels = torch.linspace(20, 90, 20), torch.arange(20) > 9
    for part in (slice(0, 7), slice(7, 20)):
        images = torch.zeros(len(scores[part]), 3, 4, 4)
        metric.update(ImageBatch(image=images, pred_score=scores[part], gt_label=labels[part]))
    assert metric.compute() == 1.0


def test_a_target_without_faults_is_absent_and_said(tmp_path):
    write_domain(tmp_path, "domain_A")
    write_domain(tmp_path, "domain_B", fault=0)
    write_domain(tmp_path, "domain_C")
    result = flow.execute(configure(tmp_path), say=quiet)
    rates = {f"target/domain_B/FPR_at_normal_{quantile}" for quantile in ("q99", "q95")}
    assert {n for n in result.metrics if n.startswith("target/domain_B")} == rates
    assert result.metrics["target_mean/image_AUROC"] == result.metrics["target/domain_C/image_AUROC"]
    assert "AUROC is undefined for domain_B" in result.markdown()


def test_a_failing_run_is_failed_with_its_reason(maps, monkeypatch):
    def build(config, **_):
        raise BadInput("its weights are gone")

    monkeypatch.setattr("hdmap_mlflow.models.builder.build", build)
    with pytest.raises(BadInput, match="weights are gone"):
        flow.execute(configure(maps), say=quiet)
    found = last_run()
    assert found.info.status == "FAILED"
    assert "weights are gone" in found.data.tags["hdmap.reason"]
    assert "BadInput" in text(found.info.run_id, "logs/run.log")


def test_weights_that_are_not_there_are_refused_before_a_run_is_made(maps, tmp_path):
    config = configure(maps)
    broken = config.model_copy(update={"model": config.model.model_copy(update={"weights": "/no/weights"})})
    with pytest.raises(BadInput, match="no config.json"):
        flow.execute(broken, say=quiet)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("mlflow.db")]


# ------------------------------------------------------------------------------------------ a run that fails half-way
SCORES = {"scores/domain_A.parquet", "scores/domain_B.parquet", "scores/domain_C.parquet"}
INPUTS = {"config.json", "environment.json", "logs/run.log"}
STEPS = {  # what fails -> what is kept of the run beside what it started from
    "hdmap_mlflow.evaluation.scoring.score": set(),
    "hdmap_mlflow.evaluation.cards.build": SCORES,
}


def below(run_id, path=""):
    found = mlflow.MlflowClient().list_artifacts(run_id, path or None)
    return {name for one in found for name in (below(run_id, one.path) if one.is_dir else {one.path})}


@pytest.mark.parametrize("step", STEPS)
def test_all_that_exists_of_a_run_that_fails_is_recorded(maps, tmp_path, monkeypatch, step):
    """A toy: its targets cannot be scored, or its scores not summarised."""
    (tmp_path / "toy.json").write_text(json.dumps([{"name": "toy", "config": {"image_size": [31, 95]}}]))
    module, name = step.rsplit(".", 1)
    original = getattr(importlib.import_module(module), name)

    def fails(*given, **more):
        if name == "score" and given[2] == "domain_A":
            return original(*given, **more)
        raise ZeroDivisionError(f"no {name}")

    monkeypatch.setattr(step, fails)
    overrides = "tracking.output_dir=out,tracking.heatmaps=1,data.batch_size=4"
    with pytest.raises(ZeroDivisionError, match=f"no {name}"):
        flow.execute(
            setup.configure("toys:Fitted", "toy", str(tmp_path / "toy.json"), {"data.root": str(maps)}, overrides),
            say=quiet,
        )
    found = last_run()
    assert found.info.status == "FAILED" and f"no {name}" in found.data.tags["hdmap.reason"]
    kept = below(found.info.run_id)
    checkpoint = {path for path in kept if path.startswith("checkpoint/")}
    assert kept - checkpoint == INPUTS | STEPS[step] and len(checkpoint) == 1
    tags, metrics = found.data.tags, found.data.metrics
    assert tags["hdmap.weights"].startswith("none:") and found.data.params["model.name"] == "toys:Fitted"
    assert {"cost/read_seconds", "cost/build_seconds", "cost/fit_seconds", "cost/evaluate_seconds"} <= set(metrics)
    assert not {"hdmap.grade", "mlflow.note.content"} & set(tags) and "source/image_AUROC" not in metrics


PICTURES = {"figures/repair", "figures/transfer.png", "heatmaps/domain_B"}
EXTRAS = {  # what fails -> how it is named, and the pictures that the run is left without
    "hdmap_mlflow.evaluation.shift.of_domains": ("the domain-shift card", set()),
    "hdmap_mlflow.evaluation.figures.transfer_figure": ("figures", {"figures/transfer.png", "figures/repair"}),
    "hdmap_mlflow.evaluation.pictures.Sheet": ("heatmaps/domain_A", {"heatmaps/domain_B"}),
    "PIL.Image.Image.save": ("heatmaps/domain_A", PICTURES),  # in another thread
}


@pytest.mark.parametrize("step", EXTRAS)
def test_a_run_stands_without_what_is_beside_its_numbers(maps, tmp_path, monkeypatch, step):
    (tmp_path / "toy.json").write_text(json.dumps([{"name": "toy", "config": {"image_size": [31, 95]}}]))

    def fails(*given, **more):
        raise OSError("no space left")

    monkeypatch.setattr(step, fails)
    overrides, said = "tracking.output_dir=out,tracking.heatmaps=1,data.batch_size=4", []
    config = setup.configure("toys:Fitted", "toy", str(tmp_path / "toy.json"), {"data.root": str(maps)}, overrides)
    result = flow.execute(config, say=said.append)
    lost, missing = EXTRAS[step]
    found, kept = last_run(), below(result.run_id)
    assert found.info.status == "FINISHED" and f"{lost}: no space left" in found.data.tags["hdmap.left_out"]
    assert f"left out: {lost}: no space left" in said and found.data.metrics["source/image_AUROC"] > 0
    assert {name for name in PICTURES if not any(path.startswith(name) for path in kept)} == missing


def test_what_the_package_logs_of_a_run_is_said_and_kept_and_the_libraries_words_are_only_kept(tmp_path):
    said, uploaded = [], []
    record = SimpleNamespace(artifact=lambda path, folder: uploaded.append((folder, path.read_text())))
    ours, other = logging.getLogger("hdmap_mlflow.models.own"), logging.getLogger("a_library")
    with workdir.logged(tmp_path, record, said.append):
        ours.info("memory bank: 3 patches")
        ours.warning("the disk is full")
        other.warning("of a library")
    ours.info("after the run")
    assert said == ["memory bank: 3 patches"]
    ((folder, text),) = uploaded
    assert folder == "logs" and "after" not in text
    assert all(line in text for line in ("memory bank: 3 patches", "the disk is full", "of a library"))


def test_an_interrupted_run_is_killed(maps):
    def interrupt(_values, _epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow.execute(configure(maps, "reverse_distillation", RANDOM_RD), on_epoch=interrupt, say=quiet)
    assert last_run().info.status == "KILLED"


def test_bad_data_starts_no_run(tmp_path):
    folder = write_domain(tmp_path / "maps", "domain_A")
    write_domain(tmp_path / "maps", "domain_B")
    (folder / "train/good/000000.tiff").write_bytes(b"II*")
    with pytest.raises(BadInput, match="000000.tiff"):
        flow.execute(configure(tmp_path / "maps"), say=quiet)
    assert mlflow.MlflowClient().search_runs(["0", "1"]) == []
    assert not (tmp_path / "out").exists()


def test_settings_of_which_a_class_makes_no_model_are_one_line_and_a_failed_run(maps):
    with pytest.raises(BadInput, match="padim cannot be made: .*0 < n_features <= 64, found 9999; change"):
        flow.execute(configure(maps, "padim", over(RANDOM_PADIM, "model.n_features=9999")), say=quiet)
    assert last_run().info.status == "FAILED" and "n_features" in last_run().data.tags["hdmap.reason"]


def test_of_two_equal_runs_at_once_each_names_the_other_in_one_line_and_goes_on(maps, monkeypatch):
    said, other = [], []

    def begin_another():
        if not other:
            other.append(None)
            other[0] = flow.execute(configure(maps), say=said.append)

    at(monkeypatch, "prepare", begin_another)
    one = flow.execute(configure(maps), say=said.append)
    named = [line for line in said if "the same" in line]
    assert named == [f"run {run.run_id} does the same meanwhile; both go on" for run in (one, other[0])]
    assert one.metrics == other[0].metrics


def test_a_checkpoint_that_is_too_large_is_said_and_the_run_stands(maps):
    result = flow.execute(configure(maps, overrides=RANDOM_PATCHCORE + ",tracking.max_checkpoint_mb=0.001"), say=quiet)
    tags = mlflow.MlflowClient().get_run(result.run_id).data.tags
    assert "over tracking.max_checkpoint_mb" in tags["hdmap.checkpoint"]
    assert tags["hdmap.status"] == "finished"


def test_a_failed_upload_never_loses_the_run(maps, monkeypatch):
    tries = []

    def flaky(self, model_id, path, folder=None):
        tries.append(path)
        raise ConnectionError("store is full")

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", flaky)
    monkeypatch.setenv("HDMAP_PATIENCE", "1")
    result = flow.execute(configure(maps), say=quiet)
    tags = mlflow.MlflowClient().get_run(result.run_id).data.tags
    assert tries and "store is full" in tags["hdmap.checkpoint"] and tags["hdmap.status"] == "finished"


def test_the_optimizer_settings_reach_the_optimizer(maps, caplog):
    seen = {}
    from hdmap_mlflow.runs import train

    original = train._OptimizerSettings.on_train_start

    def spy(self, trainer, module):
        original(self, trainer, module)
        seen["groups"] = [
            (type(o).__name__, o.param_groups[0]["lr"], o.param_groups[0]["weight_decay"]) for o in trainer.optimizers
        ]

    train._OptimizerSettings.on_train_start = spy
    try:
        settings = ",train.max_epochs=1,train.optimizer=adamw,train.learning_rate=0.002,train.weight_decay=0.3"
        flow.execute(configure(maps, "reverse_distillation", SMALL + settings), say=quiet)
    finally:
        train._OptimizerSettings.on_train_start = original
    assert seen["groups"] == [("AdamW", 0.002, 0.3)]


def test_the_log_of_a_run_is_an_artifact(finished):
    logging.getLogger("x").warning("after the run")
    assert "after the run" not in text(finished.run_id, "logs/run.log", finished.uri)
    shutil.rmtree(finished.config.tracking.output_dir)  # the record in MLflow stands on its own
    assert text(finished.run_id, "config.json", finished.uri)
