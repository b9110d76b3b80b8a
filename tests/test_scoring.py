"""Scoring a loader's maps: what a model does while it is fitted is switched off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import ImageBatch
from parts import random
from torch import nn

from hdmap_mlflow import evaluate


class Fickle(nn.Module):
    """Dropout makes its scores random, the batch's own mean makes them zero on average, unless it is in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.BatchNorm2d(3, eps=0.0)
        self.dropout = nn.Dropout(0.5)
        self.pre_processor = SimpleNamespace(transform=lambda images: images)

    def predict_step(self, batch: Any, _: int) -> Any:
        images = self.dropout(self.normal(batch.image))
        return batch.update(pred_score=images.mean((1, 2, 3)), anomaly_map=images[:, 0])


class Loader(list[ImageBatch]):
    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__([ImageBatch(image=part.expand(-1, 3, -1, -1)) for part in maps.split(2)])
        rows = {"path": [f"{i}.tiff" for i in range(len(maps))], "label": 0, "group": "", "severity": 0.0, "mask": ""}
        self.dataset = SimpleNamespace(table=pd.DataFrame(rows))


def test_a_model_left_in_training_mode_is_scored_without_dropout_and_with_the_means_it_learned() -> None:
    maps, model = random(5, 1, 4, 6), Fickle()
    model.normal.running_mean.fill_(0.25)
    model.normal.running_var.fill_(4.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    table = evaluate.score(model, Loader(maps), "domain_A", "test", "cpu", progress=False).table
    np.testing.assert_allclose(table["score"], (maps.mean((1, 2, 3)) - 0.25) / 2, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_anomaly_maps_are_made_in_the_same_mode() -> None:
    maps, model = random(5, 1, 4, 6), Fickle().train()
    found = [anomaly for _, anomaly, _ in evaluate.anomaly_maps(model, Loader(maps), "cpu")]
    np.testing.assert_allclose(np.stack(found), maps[:, 0], rtol=1e-5)
