"""A patch joined with its row: the numbers by hand, in PatchCore and PaDiM, and the adapters that compare features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from backbones import Loader
from lightning import seed_everything
from torch import Tensor

from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.models.own import padim, patchcore
from hdmap_mlflow.models.parts.context import RowContext

BARE: dict[str, Any] = {"post_processor": False, "visualizer": False, "evaluator": False}
SMALL: dict[str, Any] = {"backbone": "test_resnet", "layers": ["layer1", "layer2"], "pre_trained": False}


def naive(features: Tensor, k: int) -> Tensor:
    out = torch.empty_like(features)
    width = features.shape[-1]
    for at in range(width):
        out[..., at] = features[..., max(0, at - k) : min(width, at + k + 1)].mean(-1)
    return out


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 32, 64, generator=torch.Generator().manual_seed(seed))


def made(kind: str, **settings: Any) -> Any:
    seed_everything(0, verbose=False)
    if kind == "padim":
        return padim.Padim(**SMALL, **BARE, pre_processor=False, **{"n_features": 6, **settings})
    model = patchcore.Patchcore(**SMALL, **BARE, pre_processor=False, coreset_sampling_ratio=0.1, **settings)
    model._trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=range(4)), num_training_batches=1)
    return model


def test_a_context_is_the_mean_over_the_row_and_never_over_the_column() -> None:
    maps = torch.tensor([[[[1.0, 2, 3, 4, 50], [0, 0, 0, 0, 0]]]])
    joined = RowContext((1, 2)).joined(maps)
    assert joined.shape == (1, 3, 2, 5) and not joined[:, :, 1].any()
    assert joined[0, 0, 0].tolist() == [1, 2, 3, 4, 50]
    assert joined[0, 1, 0].tolist() == [1.5, 2, 3, 19, 27]
    assert joined[0, 2, 0].tolist() == [2, 2.5, 12, 14.75, 19]


def test_patchcore_joins_every_feature_with_those_of_its_row() -> None:
    plain, wide = (made("patchcore", row_context=reach).eval().features(images(2)) for reach in ((), (2, 3)))
    torch.testing.assert_close(wide, torch.cat([plain, naive(plain, 2), naive(plain, 3)], dim=1))


def test_padim_draws_its_features_among_those_of_all_kinds_and_keeps_their_number() -> None:
    everything = made("padim", n_features=80).eval()
    everything.model.idx = torch.arange(80)
    plain = everything.features(images(2))
    joined = torch.cat([plain, naive(plain, 2), naive(plain, 3)], dim=1)
    model = made("padim", n_features=30, row_context=(2, 3)).eval()
    assert {*(model.model.idx // 80).tolist()} == {0, 1, 2} and len({*model.model.idx.tolist()}) == 30
    torch.testing.assert_close(model.features(images(2)), joined[:, model.model.idx])


@pytest.mark.parametrize("kind", ["patchcore", "padim"])
def test_a_context_of_none_changes_nothing_and_one_changes_scores(kind: str) -> None:
    def fitted(**settings: Any) -> Tensor:
        model = made(kind, **settings)
        model.training_step(ImageBatch(image=images(4)))
        model.fit()
        return model.eval().model(images(3, seed=1)).pred_score

    assert torch.equal(fitted(), fitted(row_context=()))
    assert not torch.allclose(fitted(), fitted(row_context=[2, 3]), rtol=1e-3)


@pytest.mark.parametrize("adapter", [name for name, one in ADAPTERS.items() if one.needs == "features"])
@pytest.mark.parametrize("kind", ["patchcore", "padim"])
def test_adapters_that_compare_features_take_the_joined_ones(kind: str, adapter: str) -> None:
    model = made(kind, row_context=[2])
    model.training_step(ImageBatch(image=images(4)))
    model.fit()
    model.pre_processor = SimpleNamespace(transform=lambda maps: maps)
    adapted = ADAPTERS[adapter].fit(model.eval(), Loader(images(4)), "cpu")(Loader(images(3, seed=2)))
    found = adapted.model.predict_step(ImageBatch(image=images(2, seed=3))).pred_score
    assert found.shape == (2,) and found.isfinite().all() and len(adapted.own) == 3
