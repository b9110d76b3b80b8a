"""Every model of the registry keeps the contract, offline on tiny maps: it fits, scores every map, and reloads."""

import math
from pathlib import Path

import pytest
from zoo import OFFLINE, SMALLER

from hdmap_mlflow.config import parse_overrides
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models import builder
from hdmap_mlflow.models.contract import check_model
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.runs import setup, train


def as_a_run_fits(config, model, datamodule, folder: Path) -> Path:
    """The training of a run in place of the contract's own."""
    trains = builder.trains(config, model)
    checkpoint, record = train.fit(config, model, datamodule, trains=trains, workdir=folder, progress=False)
    assert (record.best_val_image_AUROC is not None) == trains
    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("model", OFFLINE)
def test_every_model_fits_scores_and_reloads_offline(model: str, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    check_model(model, parse_overrides(SMALLER.get(model, "")), as_a_run_fits)


@pytest.mark.parametrize("model", [name for name in REGISTRY if REGISTRY[name].needs.online])
def test_a_model_that_needs_the_hub_says_so(model: str) -> None:
    with pytest.raises(BadInput, match="weights from the hub only"):
        check_model(model, {"weights": "random"})


@pytest.mark.parametrize("model", OFFLINE)
def test_the_quickstart_is_for_cpus_and_asks_for_nothing_from_the_hub(model: str) -> None:
    config = setup.configure(model, "quickstart")
    assert config.model.weights in ("embedded", "random", "none")
    assert math.prod(config.data.image_size) <= 128 * 128 or REGISTRY[model].needs.least > 128
    assert config.train.max_epochs <= 15
