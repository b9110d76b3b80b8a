"""The search that measures less finds what measuring everything finds, and more exactly than anomalib's."""

import copy

import pytest
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor

from hdmap_mlflow.models.own.patchcore import Patchcore
from hdmap_mlflow.models.parts import nearest
from hdmap_mlflow.models.parts.nearest import Nearest


def draw(count: int, channels: int, seed: int, spread: float = 1.0) -> Tensor:
    """Points as features are: far from 0, and wide along few axes."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 0.05, channels) * spread
    turn = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(0)))[0]
    return 5 + (torch.randn(count, channels, generator=random) * scale) @ turn


def exact(points: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cdist(points.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)


@pytest.mark.parametrize(
    ("rows", "channels", "points"),
    [(1, 3, 4), (31, 5, 7), (32, 48, 1), (33, 49, 20), (700, 152, 300), (5000, 64, 1), (2000, 200, 900)],
)
def test_the_nearest_is_that_of_measuring_everything(rows, channels, points, monkeypatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 2**16)  # several blocks, the last one shorter
    bank, asked = draw(rows, channels, 1), draw(points, channels, 2, spread=1.5)
    distances, places = Nearest(bank)(asked)
    expected, where = exact(asked, bank)
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(places, where)


@pytest.mark.parametrize("spread", [0.5, 30.0])
def test_weights_of_rows_are_those_of_squared_distances(spread, monkeypatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 2**16)
    bank, asked = draw(700, 152, 1), draw(300, 152, 2, spread=1.5)
    weights = (torch.randn(700, generator=torch.Generator().manual_seed(3)) * spread).sigmoid() + 1e-3
    squared = torch.cdist(asked.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").square() * weights
    distances, places = Nearest(bank)(asked, weights)
    expected, where = squared.min(dim=1)
    torch.testing.assert_close(distances.double(), expected.sqrt(), rtol=1e-5, atol=1e-6)
    assert torch.equal(places, where) and not torch.equal(places, Nearest(bank)(asked)[1])


def test_a_row_of_infinite_weight_is_left_out_though_nothing_lies_nearer() -> None:
    bank = draw(300, 152, 1)
    weights = torch.ones(300)
    weights[:200] = torch.inf
    distances, places = Nearest(bank)(bank[:200], weights)
    expected, where = exact(bank[:200], bank[200:])
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(places, where + 200)


def test_several_sets_of_weights_are_searched_at_once_and_each_as_alone() -> None:
    bank, asked = draw(700, 152, 1), draw(300, 152, 2, spread=1.5)
    sets = torch.rand(3, 700, generator=torch.Generator().manual_seed(3)) + 0.1
    sets[0, 400:], sets[1, :300] = torch.inf, torch.inf
    asked[7] = bank[500]  # which the first set leaves out
    distances, places = Nearest(bank)(asked, sets)
    assert distances.shape == places.shape == (3, 300)
    for weights, distance, place in zip(sets, distances, places, strict=True):
        alone, there = Nearest(bank)(asked, weights)
        assert torch.equal(place, there) and torch.equal(distance, alone)
    assert distances[0, 7] > 0.1 and distances[2, 7] < 1e-2


def test_a_point_is_searched_for_in_its_own_set_where_it_has_one(monkeypatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 2**16)
    bank, asked = draw(700, 152, 1), draw(300, 152, 2, spread=1.5)
    sets = torch.rand(3, 700, generator=torch.Generator().manual_seed(3)) + 0.1
    sets[0, 400:], sets[1, :300] = torch.inf, torch.inf
    of = torch.arange(300) % 3
    distances, places = Nearest(bank)(asked, sets, of)
    every, where = Nearest(bank)(asked, sets)
    assert distances.shape == places.shape == (300,)
    assert torch.equal(distances, every[of, torch.arange(300)]) and torch.equal(places, where[of, torch.arange(300)])


def test_rows_that_are_asked_for_lie_at_no_distance_and_repeated_ones_do_no_harm() -> None:
    bank = draw(300, 152, 1).repeat(2, 1)
    distances, places = Nearest(bank)(bank[:300])
    assert distances.max() < 1e-3 and torch.equal(places % 300, torch.arange(300))


def test_points_that_are_no_numbers_have_no_distance() -> None:
    bank, asked = draw(100, 60, 1), draw(3, 60, 2)
    asked[1, 5] = torch.nan
    assert Nearest(bank)(asked)[0].isnan().tolist() == [False, True, False]


@pytest.fixture(scope="module")
def model() -> PatchcoreModel:
    torch.manual_seed(0)
    built = Patchcore(backbone="resnet10t", layers=["layer1", "layer2"], pre_trained=False).model.eval()
    built.memory_bank = draw(400, 192, 3)
    return built


def theirs(model: PatchcoreModel, embedding: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return PatchcoreModel.nearest_neighbors(model, embedding, n)


@pytest.mark.parametrize("n", [1, 5])
def test_patchcore_finds_anomalibs_neighbours(model, n) -> None:
    asked = draw(50, 192, 4)
    found, expected = model.nearest_neighbors(asked, n), theirs(model, asked, n)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-3)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("change", ["another", "in place"])
def test_a_bank_that_changes_is_searched_anew(model, change) -> None:
    asked, before = draw(50, 192, 4), model.memory_bank
    model.nearest_neighbors(asked, 1)
    with torch.no_grad():
        if change == "another":
            model.memory_bank = draw(400, 192, 5)
        else:
            model.memory_bank.add_(1)
    assert torch.equal(model.nearest_neighbors(asked, 1)[1], theirs(model, asked, 1)[1])
    torch.testing.assert_close(model.nearest_neighbors(asked, 1)[0], exact(asked, model.memory_bank)[0].float())
    model.memory_bank = before


def test_a_traced_model_holds_the_plain_search_and_a_copy_searches_its_own_bank(model) -> None:
    images, copied = torch.rand(2, 3, 32, 64), copy.deepcopy(model)
    model(images)

    class Scores(torch.nn.Sequential):
        def forward(self, x):
            return self[0](x).pred_score

    with torch.no_grad():
        traced = torch.jit.trace(Scores(model), (images,), check_trace=False)
        torch.testing.assert_close(traced(images.flip(0)), model(images.flip(0)).pred_score, rtol=1e-4, atol=1e-4)
        copied.memory_bank.mul_(0.5)
        assert not torch.allclose(copied(images).pred_score, model(images).pred_score)
