"""Every number that a run records is that of the independent reference, and no number is without one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from compare import same
from lab import CONDITION, SOURCE, TARGETS, execute, write
from reference import images
from reference import run as reference
from reference import split as split_reference
from reference.network import features

from hdmap_mlflow.data import dataset

pytestmark = pytest.mark.slow

# Of result.json: what is no number, and the training, which has tests of its own.
NOT_NUMBERS = {
    "condition",
    "experiment_name",
    "training_info",
    "best_checkpoint",
    "experiment_path",
    "run_id",
    "simulated",
    "status",
}
PHASES = ("read", "build", "fit", "evaluate", "record", "pictures")


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lab"))


def together(names):
    """Each run is made once: its tests stay in one worker."""
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"reference {name}")) for name in names]


# The targets of each strategy: with groups and masks, and of one class; in several formats without masks; one class.
STRATEGIES = {"source_holdout": list(TARGETS[:2]), "synthetic": [TARGETS[2]], "source_test": [TARGETS[1]]}


@pytest.fixture(scope="module", params=together(STRATEGIES))
def done(request, lab, tmp_path_factory):
    """A run of the toy model under every strategy, and what the reference makes of it."""
    targets = STRATEGIES[request.param]
    one = execute(
        lab,
        tmp_path_factory.mktemp("run"),
        "toy_model:Toy",
        "toy",
        request.param,
        "data.batch_size=8,data.eval_batch_size=5",
        **{"data.target_domains": targets},
    )
    expected = reference.record(
        lab, SOURCE, targets, one.kept, features, lambda _domain, _path, pixels: pixels[::2, ::2]
    )
    return SimpleNamespace(**vars(one), validation=request.param, targets=targets, expected=expected, lab=lab)


def check_record(one):
    """Names and values of all that a run recorded, but for its costs and epochs, which have checks of their own."""
    recorded = {k: v for k, v in one.found.data.metrics.items() if k.split("/")[0] not in ("cost", "epoch")}
    assert recorded == pytest.approx(one.expected["metrics"], abs=1e-6)
    same(one.cards, one.expected["cards"], 1e-6)
    stored = dict(one.result)
    stored["validation"] = {k: v for k, v in stored["validation"].items() if k != "strategy"}
    expected = reference.result(one.expected, SOURCE, one.targets)
    assert set(stored) - set(expected) == NOT_NUMBERS
    for name, value in expected.items():
        same(stored[name], value, 1e-6)
    assert (stored["run_id"], stored["status"], stored["simulated"]) == (one.found.info.run_id, "success", False)
    assert stored["experiment_name"] == one.found.info.run_name
    tags = one.found.data.tags
    assert tags.get("hdmap.grade") == one.expected["grade"]
    assert tags["hdmap.data_digest"] == one.expected["data_digest"]
    inputs = {i.dataset.name: i.dataset for i in one.found.inputs.dataset_inputs}
    assert {name: i.digest for name, i in inputs.items()} == one.expected["digests"]
    assert {name: json.loads(i.profile) for name, i in inputs.items()} == one.expected["profiles"]
    assert one.finished.counts == one.expected["counts"]


def test_every_number_of_a_run_is_the_references_and_none_is_without_one(done):
    check_record(done)


def test_costs_are_those_of_the_phases(done):
    cost = {k.removeprefix("cost/"): v for k, v in done.found.data.metrics.items() if k.startswith("cost/")}
    assert set(cost) - {f"{phase}_peak_cuda_MB" for phase in PHASES} == {
        *(f"{phase}_{what}" for phase in PHASES for what in ("seconds", "peak_MB")),
        *("train_steps", "train_maps"),
    }
    info = done.found.info
    assert 0 < cost["fit_seconds"] < (info.end_time - info.start_time) / 1000
    assert 50 < cost["fit_peak_MB"] < 1e5


def test_the_score_tables_say_what_the_files_say(done):
    for name, kept in done.kept.items():
        for split in {"val", "test"} if name == SOURCE else {"test"}:
            found, truth = kept[kept["split"] == split], reference.rows(done.lab / name, kept, split)
            for column in ("label", "group"):
                assert found[column].tolist() == truth[column].tolist()
            np.testing.assert_array_equal(found["severity"], truth["severity"])
            plain = ~truth["pasted"].to_numpy()
            for column in ("image_max", "image_mean"):
                np.testing.assert_allclose(found[column][plain], truth[column][plain], rtol=1e-5)
            assert (found["seconds"] > 0).all()
        everything = {path for path, split, _ in images.files(done.lab / name) if split == "test"}
        assert set(kept.loc[kept["split"] == "test", "path"]) <= everything
        if name != SOURCE:
            assert sorted(kept.loc[kept["split"] == "test", "path"]) == sorted(everything)
            assert set(kept["split"]) == {"test", "reference"}
        healthy = kept[kept["split"] == "reference"]
        assert healthy["path"].is_unique and (healthy["label"] == 0).all()
        trained, _, _ = split_reference.split(done.lab / name, done.validation, seed=0)
        everything = {path for path, split, _ in images.files(done.lab / name) if split == "train"}
        assert set(healthy["path"]) == (set(trained) if name == SOURCE else everything)


def test_scores_are_the_models_own_of_maps_fitted_to_what_the_split_leaves(done):
    """A model whose scores can be had from the files: another training set, order or scale would show."""

    def quantile(path):
        return np.quantile(images.read(done.lab / path).astype(np.float64), CONDITION["toy"]["config"]["quantile"])

    train, _, _ = split_reference.split(done.lab / SOURCE, done.validation, seed=0)
    assert len(train) == {"synthetic": 42}.get(done.validation, 52)  # a fifth is held out
    normal = np.mean([quantile(f"{SOURCE}/{path}") for path in train])
    for name, kept in done.kept.items():
        plain = kept[(kept["split"] == "test") | kept["path"].str.startswith("test/") | (kept["label"] == 0)]
        expected = [quantile(f"{name}/{path}") / normal for path in plain["path"]]
        np.testing.assert_allclose(plain["score"], expected, rtol=1e-5)


def test_each_strategy_validates_on_its_own_maps_and_reports_the_rest(done):
    val, reported = (done.kept[SOURCE].query(f"split == '{split}'") for split in ("val", "test"))
    _, chosen, rest = split_reference.split(done.lab / SOURCE, done.validation, seed=0)
    assert set(val["path"]) == chosen and sorted(reported["path"]) == sorted(rest)
    if done.validation == "synthetic":
        assert val["label"].tolist() == [0] * 10 + [1] * 10  # the held out maps, and the same again with faults
        assert val["path"].tolist()[:10] == val["path"].tolist()[10:]
        assert (val["score"].to_numpy()[10:] >= val["score"].to_numpy()[:10]).all()
    else:
        assert val["path"].is_unique
    assert done.found.data.tags["hdmap.validation"] == done.validation
    assert ("optimistic" in done.finished.markdown()) == (done.validation == "source_test")


def test_a_domain_of_one_class_is_absent_and_said(done):
    if "domain_C" in done.targets:
        named = {name for name in done.found.data.metrics if name.startswith("target/domain_C/")}
        assert named == {f"target/domain_C/FPR_at_normal_{quantile}" for quantile in ("q99", "q95")}
    assert ("AUROC is undefined for domain_C" in done.finished.markdown()) == ("domain_C" in done.targets)


def test_a_model_that_one_pass_fits_has_a_plain_training_record(done):
    training, cost = done.result["training_info"], done.found.data.metrics
    steps, maps = (6, 42) if done.validation == "synthetic" else (7, 52)
    assert (cost["cost/train_steps"], cost["cost/train_maps"]) == (steps, maps)
    assert training == {
        "completion": "fitted",
        "max_epochs_configured": 1,
        "last_epoch": 0,
        "total_steps": steps,
        "maps_seen": maps,
        "early_stopped": False,
        "reason": "",
        "best_val_image_AUROC": None,
    }
    assert not [name for name in done.found.data.metrics if name.startswith("epoch/")]


# ------------------------------------------------------------------------------- models of the registry
SMALL = "data.image_size=[32,96],data.batch_size=8,model.weights=random,model.backbone=resnet18"
MODELS = {
    "padim": SMALL + ",model.layers=[layer1],model.n_features=20",
    "reverse_distillation": SMALL + ",train.max_epochs=3",
}


@pytest.fixture(scope="module", params=together(MODELS))
def fitted(request, lab, tmp_path_factory):
    """A run of a model whose anomaly maps nobody can compute by hand: those of its checkpoint are taken as given."""
    from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
    from hdmap_mlflow.evaluation import scoring
    from hdmap_mlflow.models import builder
    from hdmap_mlflow.runs import train

    targets = list(TARGETS[:2])
    one = execute(
        lab,
        tmp_path_factory.mktemp("run"),
        request.param,
        "quickstart",
        "source_holdout",
        MODELS[request.param],
        **{"data.target_domains": targets},
    )
    model = builder.build(one.finished.config)
    train.load_checkpoint(model, one.result["best_checkpoint"])
    module = MultiDomainHDMAPDataModule(dataset.read(one.finished.config).domains, one.finished.config.data)
    heat = {}
    for name in one.finished.domains:
        loader = module.scoring_dataloader(name, "test")
        maps = scoring.anomaly_maps(model, loader, "cpu")
        heat |= {(name, path): found for path, (_, found, _) in zip(loader.dataset.table["path"], maps, strict=True)}
    expected = reference.record(
        lab, SOURCE, list(TARGETS[:2]), one.kept, features, lambda name, path, _: heat[name, path]
    )
    return SimpleNamespace(**vars(one), targets=list(TARGETS[:2]), expected=expected, model=request.param)


def test_every_number_of_a_run_of_the_registrys_models_is_the_references(fitted):
    check_record(fitted)
    assert {name for name in fitted.expected["metrics"] if name.endswith("pixel_AUPRO")} == {
        "source/pixel_AUPRO",
        "target/domain_B/pixel_AUPRO",
    }


def test_the_epochs_of_a_model_that_trains_lead_to_its_validation_auroc(fitted):
    names = {name for name in fitted.found.data.metrics if name.startswith("epoch/")}
    training = fitted.result["training_info"]
    if fitted.model == "padim":
        assert names == set() and training["completion"] == "fitted"
        return
    assert names == {"epoch/val_image_AUROC", "epoch/train_loss"}, "each loss once"
    points = {name: fitted.client.get_metric_history(fitted.found.info.run_id, name) for name in names}
    for found in points.values():
        assert [point.step for point in found] == list(range(training["last_epoch"] + 1))
    aurocs = [point.value for point in points["epoch/val_image_AUROC"]]
    assert max(aurocs) == pytest.approx(fitted.expected["metrics"]["val/image_AUROC"], abs=1e-6)
    assert training["best_val_image_AUROC"] == max(aurocs)
    assert training["total_steps"] == 7 * len(aurocs), "52 maps in batches of 8"
    assert training["maps_seen"] == 52 * len(aurocs) == fitted.found.data.metrics["cost/train_maps"]
