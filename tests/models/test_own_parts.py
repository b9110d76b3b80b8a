"""What our CFlow, Dinomaly, PaDiM and PatchCore do in place of anomalib's, on numbers worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models.image import Cflow as PublishedCflow
from anomalib.models.image import Dinomaly as PublishedDinomaly
from anomalib.models.image import InpFormer as PublishedInpFormer
from anomalib.models.image.dinomaly.components.optimizer import WarmCosineScheduler
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
from anomalib.pre_processing import PreProcessor
from torch import Tensor

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own import cflow, dinomaly, padim, patchcore
from hdmap_mlflow.models.parts import coreset
from hdmap_mlflow.models.parts.features import Features

BARE: dict[str, Any] = {"post_processor": False, "visualizer": False, "evaluator": False}
SMALL: dict[str, Any] = {"backbone": "test_resnet", "layers": ["layer1", "layer2"], "pre_trained": False}
SIZE = (32, 64)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def batches(*counts: int) -> list[ImageBatch]:
    return [ImageBatch(image=images(count, seed)) for seed, count in enumerate(counts)]


# -------------------------------------------------------------------------------------------------------------- CFlow
def test_a_cflow_map_is_the_likelihoods_below_the_kept_reference() -> None:
    fixed = cflow.FixedReference(2)
    assert list(fixed.state_dict()) == ["reference"] and not fixed.reference.any()
    fixed.reference.copy_(torch.tensor([1.0, -2.0]))
    first = torch.tensor([[0.2, 0.4, 0.6, 0.8], [1.0, 1.0, 1.0, 1.0]])  # two maps of 2 x 2, exp(likelihood - reference)
    second = torch.tensor([0.5, 0.25])  # two maps of 1 x 1
    likelihoods = [(first.log() + 1.0).flatten(), second.log() - 2.0]
    maps = fixed(likelihoods, [2, 1], [2, 1], (3, 5))
    enlarged = torch.tensor([[0.2], [0.4], [0.6]]) + torch.tensor([0.0, 0.05, 0.1, 0.15, 0.2])  # corner to corner
    torch.testing.assert_close(maps, torch.stack([2 - enlarged - 0.5, torch.full((3, 5), 2 - 1 - 0.25)]))
    with pytest.raises(ValueError):
        fixed(likelihoods[:1], [2], [2], (3, 3))


class Twice(torch.nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return 2 * maps


@pytest.fixture
def flow() -> Any:
    torch.manual_seed(0)
    doubled = PreProcessor(transform=Twice())
    return cflow.Cflow(**SMALL, **BARE, pre_processor=doubled, coupling_blocks=1, fiber_batch_size=1000)


def test_the_references_are_the_largest_likelihoods_of_the_training_maps(flow: Any) -> None:
    fixed = flow.model.anomaly_map_generator
    assert isinstance(fixed, cflow.FixedReference) and len(fixed.reference) == 2
    fixed.reference.fill_(1e9)  # of an earlier epoch
    data = batches(2, 1)
    flow._trainer = SimpleNamespace(datamodule=SimpleNamespace(train_dataloader=lambda: data))
    flow.on_validation_start()
    assert flow.model.anomaly_map_generator is fixed
    seen: list[list[Tensor]] = []

    class Collect(torch.nn.Module):
        def forward(self, distribution: list[Tensor], **_: Any) -> Tensor:
            seen.append(distribution)
            return torch.zeros(1, 1, 1)

    flow.model.anomaly_map_generator = Collect()
    for batch in data:
        flow.model(2 * batch.image)
    assert seen[0][0].max() != seen[1][0].max()
    torch.testing.assert_close(
        fixed.reference, torch.stack([torch.cat(layer).max() for layer in zip(*seen, strict=True)])
    )


def test_the_maps_of_cflow_come_back_after_a_broken_pass(flow: Any) -> None:
    fixed = flow.model.anomaly_map_generator
    flow._trainer = SimpleNamespace(datamodule=SimpleNamespace(train_dataloader=lambda: [None]))
    with pytest.raises(AttributeError):
        flow.on_validation_start()
    assert flow.model.anomaly_map_generator is fixed


@pytest.mark.parametrize(("asked", "count", "taken"), [(64, 3, 18), (64, 1, 6), (5, 3, 5)])
def test_a_short_batch_takes_the_fibres_it_has(flow: Any, monkeypatch, asked: int, count: int, taken: int) -> None:
    seen: list[Any] = []
    step = lambda self, batch, *more, **named: seen.append((self.model.fiber_batch_size, batch, more, named)) or "loss"  # noqa: E731
    monkeypatch.setattr(PublishedCflow, "training_step", step)
    flow.fibres = asked
    batch = ImageBatch(image=torch.zeros(count, 3, 80, 112))  # 2 x 3 whole places of 32 pixels
    assert flow.training_step(ImageBatch(image=torch.zeros(1, 3, 32, 32)), 0) == "loss"
    assert flow.training_step(batch, 7, more=True) == "loss"
    assert seen[0][0] == 1 and seen[1] == (taken, batch, (7,), {"more": True})


def test_cflow_keeps_the_number_of_fibres_that_was_asked_for(flow: Any) -> None:
    assert flow.fibres == 1000


# ----------------------------------------------------------------------------------------------------------- Dinomaly
@pytest.mark.parametrize(
    ("ours", "theirs"), [(dinomaly.Dinomaly, PublishedDinomaly), (dinomaly.InpFormer, PublishedInpFormer)]
)
@pytest.mark.parametrize(("total", "warm_up"), [(40, 4), (5, 0), (1500, 100)])
def test_the_rate_warms_up_over_a_tenth_and_falls_along_a_cosine_step_by_step(
    ours: Any, theirs: Any, total: int, warm_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    published = WarmCosineScheduler(optimizer, 0.002, 0.0002, total, 100)
    monkeypatch.setattr(theirs, "configure_optimizers", lambda self: ([optimizer], [published]))
    found = ours.configure_optimizers(ours.__new__(ours))
    assert found["optimizer"] is optimizer and found["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        found["lr_scheduler"]["scheduler"].step()
    up = [0.002 * i / (warm_up - 1) for i in range(warm_up)]
    angle = np.pi * np.arange(total - warm_up) / (total - warm_up)
    np.testing.assert_allclose(rates, [*up, *(0.0002 + 0.0018 * (1 + np.cos(angle)) / 2)], rtol=1e-6, atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0002)  # past the end


@pytest.mark.parametrize("given", [{}, {"fuse_layer_encoder": [[0], [1]]}, {"fuse_layer_decoder": [[0, 1]]}])
def test_the_groups_of_layers_that_are_given_are_those_of_the_network(given, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def published(self: Any, *args: Any, **kwargs: Any) -> None:
        torch.nn.Module.__init__(self)
        self.model = SimpleNamespace(fuse_layer_encoder="published", fuse_layer_decoder="published")
        seen.append((args, kwargs))

    monkeypatch.setattr(PublishedDinomaly, "__init__", published)
    model = dinomaly.Dinomaly("vit", decoder_depth=2, **given)
    assert seen == [(("vit",), {"decoder_depth": 2})]
    assert vars(model.model) == {"fuse_layer_encoder": "published", "fuse_layer_decoder": "published"} | given


# -------------------------------------------------------------------------------------------------------------- PaDiM
@pytest.fixture
def gauss() -> Any:
    torch.manual_seed(0)
    return padim.Padim(**SMALL, **BARE, pre_processor=False, n_features=5)


def test_padim_fits_the_mean_and_inverse_covariance_of_every_place(gauss: Any) -> None:
    data = batches(3, 2, 4)
    vectors = gauss.model(torch.cat([batch.image for batch in data])).flatten(2).double().numpy()
    gauss.model.memory_bank.clear()
    for batch in data:
        loss = gauss.training_step(batch)
        assert loss.shape == () and loss.item() == 0 and loss.requires_grad and not gauss.model.memory_bank
    assert gauss.moments.count == 9
    gauss.fit()
    assert gauss.moments is None
    np.testing.assert_allclose(gauss.model.gaussian.mean, vectors.mean(axis=0), rtol=1e-4, atol=1e-6)
    for place in (0, 17, vectors.shape[2] - 1):
        inverse = np.linalg.inv(np.cov(vectors[:, :, place].T) + (0.01 + 1e-5) * np.eye(5))
        np.testing.assert_allclose(gauss.model.gaussian.inv_covariance[place], inverse, rtol=2e-3, atol=1e-3)
    again = gauss.eval().model(data[0].image)
    assert again.pred_score.shape[0] == 3 and torch.isfinite(again.pred_score).all()


def test_padims_distances_are_anomalibs() -> None:
    generator = torch.Generator().manual_seed(0)
    embedding, mean = torch.randn(3, 5, 4, 6, generator=generator), torch.randn(5, 24, generator=generator)
    inverse = torch.randn(24, 5, 5, generator=generator)
    inverse = inverse @ inverse.mT
    inverse[0] *= -1  # what rounding may bring below 0 is 0
    found = padim.distances(embedding, [mean, inverse])
    torch.testing.assert_close(found, AnomalyMapGenerator.compute_distance(embedding, [mean, inverse]))
    assert (found[:, 0, 0, 0] == 0).all() and (found[:, 0].flatten(1)[:, 1:] > 0).all()
    model = padim.Padim(**SMALL, **BARE, pre_processor=False, n_features=5).model
    assert model.anomaly_map_generator.compute_distance is padim.distances


@pytest.mark.parametrize("maps", [0, 1])
def test_padim_refuses_to_fit_fewer_than_two_maps(gauss: Any, maps: int) -> None:
    for batch in batches(*[1] * maps):
        gauss.training_step(batch)
    with pytest.raises(ValueError, match="two training maps"):
        gauss.fit()


def test_two_maps_are_enough_for_padim(gauss: Any) -> None:
    gauss.training_step(*batches(2))
    gauss.fit()
    assert torch.isfinite(gauss.model.gaussian.inv_covariance).all()


# ---------------------------------------------------------------------------------------------------------- PatchCore
def bank(ratio: float = 0.1, mb: float = 500, maps: int = 6, steps: int = 10) -> Any:
    torch.manual_seed(0)
    model = patchcore.Patchcore(**SMALL, **BARE, pre_processor=False, coreset_sampling_ratio=ratio, max_bank_mb=mb)
    model._trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=range(maps)), num_training_batches=steps)
    return model


ROW = (32 + 48) * 4  # bytes of a patch of test_resnet's layers 1 and 2
PATCHES = 8 * 16  # of a map of 32 x 64


@pytest.mark.parametrize(
    ("ratio", "mb", "maps", "steps", "size", "held"),
    [
        (0.1, 500, 6, 10, 76, 6 * PATCHES),  # all fit: the published selection
        (0.1, 500, 6, 2, 51, 4 * PATCHES),  # two batches of two maps only
        (0.5, 0.0417, 6, 10, 130, 4 * 130),  # the budget cuts the bank, and what is held
        (0.5, 0.0833, 6, 10, 260, 6 * PATCHES),  # it cuts the bank, but four times as much holds all
        (0.01, 0.0417, 6, 10, 7, 4 * 130),  # a small bank is selected as the patches come, too
    ],
)
def test_the_bank_and_what_is_held_follow_from_ratio_and_budget(
    ratio: float, mb: float, maps: int, steps: int, size: int, held: int, caplog
) -> None:
    caplog.set_level("INFO", "hdmap_mlflow")
    model = bank(ratio, mb, maps, steps)
    loss = model.training_step(*batches(2))
    assert loss.shape == () and loss.item() == 0 and loss.requires_grad
    assert (model.gathered.size, model.gathered.limit) == (size, held) and model.gathered.held == min(held, 2 * PATCHES)
    assert not model.model.embedding_store
    said = caplog.text
    total = min(maps, 2 * steps) * PATCHES
    assert f"memory bank: {size:,} of {total:,} patches, {size * ROW / 1e6:,.1f} MB" in said
    assert ("selected from all" in said) == (held == total) and (f"{held:,} at a time" in said) == (held < total)
    wanted = int(ratio * total)
    assert (f"max_bank_mb={mb:g} cut it from {wanted:,}" in said) == (size < wanted)


class Files(list):
    """A data set that knows which domain each of its files is of."""

    def __init__(self, origin: dict[str, str]) -> None:
        super().__init__(origin)
        self.origin = origin


@pytest.mark.parametrize("counts", [(3, 3), (4, 3), (3, 4)])
def test_a_bank_of_two_sources_that_fit_is_selected_once_from_all_of_them(counts: tuple[int, int]) -> None:
    model, names = bank(maps=sum(counts)), ["A"] * counts[0] + ["B"] * counts[1]
    paths = [f"{name}/{i}" for i, name in enumerate(names)]
    loader = SimpleNamespace(dataset=Files(dict(zip(paths, names, strict=True))))
    model._trainer = SimpleNamespace(train_dataloader=loader, num_training_batches=10)
    for at in range(0, len(paths), 2):
        of = paths[at : at + 2]
        model.training_step(ImageBatch(image=images(len(of), at), image_path=of))
    shares = model.gathered.of
    assert [share.held for share in shares.values()] == [n * PATCHES for n in counts]
    assert not any(share.streams for share in shares.values())
    model.fit()
    size = int(0.1 * sum(counts) * PATCHES)
    assert model.model.memory_bank.shape == (size, 80) and model.gathered is None


def test_patchcore_keeps_features_of_the_training_maps_and_scores_by_them(caplog) -> None:
    caplog.set_level("INFO", "hdmap_mlflow")
    model = bank(0.05, maps=5)
    data = batches(2, 2, 1)
    for batch in data:
        model.training_step(batch)
    assert "memory bank" in caplog.text
    caplog.clear()
    model.fit()
    assert not caplog.records, "the size is said once"
    assert model.gathered is None and model.model.memory_bank.shape == (32, 80)
    patches = model.train().model(torch.cat([batch.image for batch in data]))
    nearest = torch.cdist(model.model.memory_bank, patches).min(dim=1).values
    assert nearest.max() < 1e-2
    scores = model.eval().model(data[0].image).pred_score
    assert (scores < model.model(images(2, 9) ** 3).pred_score).all()


def test_patchcore_says_what_it_cannot_do() -> None:
    for mb in (0, -1.0):
        with pytest.raises(BadInput, match=f"model.max_bank_mb is {mb}"):
            bank(mb=mb)
    with pytest.raises(BadInput, match=f"model.coreset_sampling_ratio=0.001 leaves no patch of 6 x {PATCHES}"):
        bank(0.001).training_step(*batches(2))
    with pytest.raises(ValueError, match="no training map"):
        bank().fit()
    assert bank(mb=1e-9)._plan(6, PATCHES, torch.zeros(1, 80)).size == 1
    assert bank(1.0 / (6 * PATCHES) + 1e-9).training_step(*batches(2)).item() == 0  # one patch is one


@pytest.mark.parametrize("model", ["flow", "gauss", "bank"])
def test_training_does_not_move_the_running_means_of_a_frozen_backbone(model: str, request) -> None:
    built = bank() if model == "bank" else request.getfixturevalue(model)
    found = [part for part in built.modules() if isinstance(part, Features)]
    assert len(found) == (0 if model == "flow" else 1)
    frozen = found[0] if found else built.model.encoder
    built.train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(images(4))
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items()), "running means moved"


# ------------------------------------------------------------------------------------------------------------ coreset
def test_a_gpus_picks_are_those_of_the_plain_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    covered = torch.linalg.vector_norm(points - points[7], dim=1)
    on_cpu, going_on = coreset.greedy(points, 25, 3), coreset.further(points, 25, covered)

    class Elsewhere(torch.Tensor):
        """Says that it is not on a CPU."""

        device = SimpleNamespace(type="cuda")  # type: ignore[assignment]

    full = torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, device=None: full(size, value))
    points, covered = points.as_subclass(Elsewhere), covered.as_subclass(Elsewhere)
    assert coreset.greedy(points, 25, 3).tolist() == on_cpu.tolist()
    assert coreset.further(points, 25, covered).tolist() == going_on.tolist() != on_cpu.tolist()
