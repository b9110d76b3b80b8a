"""A model of the user's own: named by its class, with a condition file, and no change to this package."""

import json
from pathlib import Path

import pytest

from hdmap_mlflow import run
from hdmap_mlflow.errors import BadInput, OutOfMemory
from hdmap_mlflow.models import signature

SOURCE = """
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import nn


class Quantile(nn.Module):
    def __init__(self, quantile):
        super().__init__()
        self.quantile = quantile
        self.register_buffer("normal", torch.ones(()))

    def forward(self, images):
        return InferenceBatch(pred_score=images.flatten(1).quantile(self.quantile, dim=1) / self.normal)


class MyModel(AnomalibModule):
    def __init__(self, quantile: float = 0.99, **components):
        super().__init__(**components)
        self.model = Quantile(quantile)
        self.seen = []

    def training_step(self, batch, *args, **kwargs):
        self.seen.append(self.model(batch.image).pred_score)

    def on_train_epoch_end(self):
        self.model.normal.fill_(float(torch.cat(self.seen).mean()))

    def validation_step(self, batch, *args, **kwargs):
        return batch.update(pred_score=self.model(batch.image).pred_score)

    def configure_optimizers(self):
        return None

    learning_type = LearningType.ONE_CLASS
    trainer_arguments = {"max_epochs": 1}


class Greedy(MyModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def training_step(self, batch, *args, **kwargs):
        raise MemoryError
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `my_models` beside the user, and a condition file for it."""
    (tmp_path / "my_models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)
    signature.parameters.cache_clear()
    condition = {"condition_1": {"name": "mine", "config": {"quantile": 0.9, "image_size": [31, 95], "batch_size": 4}}}
    (tmp_path / "mine.json").write_text(json.dumps(condition))
    return tmp_path / "mine.json"


def test_a_class_of_the_users_own_runs_like_any_model(own, maps):
    config = run.configure("my_models:MyModel", "mine", str(own), {"data.root": str(maps)})
    assert config.model.settings == {"quantile": 0.9} and config.model.weights == "none"
    result = run.execute(config, say=lambda _: None)
    assert result.metrics["source/image_AUROC"] > 0.9
    assert {"target/domain_B/image_AUROC", "target/domain_C/image_AUROC"} <= set(result.metrics)


def test_its_settings_are_checked_like_those_of_any_model(own):
    with pytest.raises(BadInput, match="did you mean 'quantile'"):
        run.configure("my_models:MyModel", "mine", str(own), overrides="model.quantil=0.5")
    with pytest.raises(BadInput, match="model.quantile.*got 'high'"):
        run.configure("my_models:MyModel", "mine", str(own), overrides="model.quantile=high")
    with pytest.raises(BadInput, match="no packaged conditions; give"):
        run.configure("my_models:MyModel", "mine")
    with pytest.raises(BadInput, match="cannot be imported"):
        run.configure("my_models:YourModel", "mine", str(own))


def test_running_out_of_memory_says_what_to_lower(own, maps):
    assert list(signature.parameters("my_models:Greedy")) == ["quantile"]  # what the class above takes
    config = run.configure("my_models:Greedy", "mine", str(own), {"data.root": str(maps)})
    with pytest.raises(OutOfMemory, match="machine's memory at batch size 4, 31x95 px; lower data.batch_size"):
        run.execute(config, say=lambda _: None)
