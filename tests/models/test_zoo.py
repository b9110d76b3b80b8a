"""Every model of the registry, offline on tiny maps: it fits, scores every map, and reloads to the same scores."""

import math
from pathlib import Path

import numpy as np
import pytest
from maps import write_domain
from zoo import OFFLINE, SMALLER, smallest

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.datamodule import MultiDomainHDMAPDataModule
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import setup, train


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    write_domain(root, "domain_A", train=9, good=4, fault=4)
    write_domain(root, "domain_B", train=2, good=2, fault=3, gain=3.0)
    return root


def configured(model: str, root: Path, extra: str = "") -> RunConfig:
    side, needs = smallest(model), REGISTRY[model].needs
    overrides = [f"data.image_size=[{side},{side}],train.max_epochs={needs.epochs},train.limit_train_batches=2"]
    overrides += [f"data.batch_size={needs.batch or 4},data.eval_batch_size=4", SMALLER.get(model, ""), extra]
    return setup.configure(model, flags={"data.root": str(root)}, overrides=",".join(filter(None, overrides)))


@pytest.mark.slow
@pytest.mark.parametrize("model", OFFLINE)
def test_every_model_fits_scores_and_reloads_offline(model: str, tiny: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = configured(model, tiny)
    data = dataset.read(config)
    module = MultiDomainHDMAPDataModule(data.domains, config.data)
    train.seed(config.train)
    fitted = builder.build(config)
    trains = builder.trains(config, fitted)
    checkpoint, record = train.fit(config, fitted, module, trains=trains, workdir=tmp_path, progress=False)
    assert (record.best_val_image_AUROC is not None) == trains

    def scores(network, domain: str = "domain_B", batch: int = 4) -> np.ndarray:
        module.eval_batch_size = batch
        loader = module.scoring_dataloader(domain, "test")
        return scoring.score(network, loader, domain, "test", "cpu", progress=False).table["score"].to_numpy()

    found = scores(fitted)
    assert len(found) == 5
    train.seed(config.train.model_copy(update={"seed": 1}))
    rebuilt = builder.build(config, fetch=False)
    train.load_checkpoint(rebuilt, checkpoint)
    # Where the weights lie in memory decides the order of sums: a unit in the last place may differ.
    np.testing.assert_allclose(scores(rebuilt), found, rtol=1e-6)
    # A map's score is its own: it does not depend on the maps that share its batch.
    np.testing.assert_allclose(scores(rebuilt, batch=1), found, rtol=1e-3, atol=1e-5)
    checkpoint.unlink()  # some are large


@pytest.mark.parametrize("model", [name for name in REGISTRY if REGISTRY[name].needs.online])
def test_a_model_that_needs_the_hub_says_so(model: str, tiny: Path, monkeypatch) -> None:
    with pytest.raises(BadInput, match="weights from the hub only"):
        configured(model, tiny, "model.weights=random")


@pytest.mark.parametrize("model", OFFLINE)
def test_the_quickstart_is_for_cpus_and_asks_for_nothing_from_the_hub(model: str) -> None:
    config = setup.configure(model, "quickstart")
    assert config.model.weights in ("embedded", "random", "none")
    assert math.prod(config.data.image_size) <= 128 * 128 or REGISTRY[model].needs.least > 128
    assert config.train.max_epochs <= 15
