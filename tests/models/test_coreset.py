"""Coreset selection: the picks of the plain loop, with less work, and from a stream within a budget."""

import pytest
import torch
from anomalib.models.components import KCenterGreedy
from lightning.pytorch import seed_everything

from hdmap_mlflow.models.parts import coreset


def clusters(points: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Points as features lie: in groups of very different width."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(20, dimensions, generator=generator)
    widths = torch.rand(20, 1, generator=generator)
    group = torch.randint(20, (points,), generator=generator)
    return centres[group] + widths[group] * torch.randn(points, dimensions, generator=generator)


def plain(features: torch.Tensor, count: int, start: int) -> list[int]:
    """The loop that the method's paper describes."""
    picked, distance = [start], torch.full((len(features),), torch.inf, dtype=features.dtype)
    while len(picked) < count:
        distance = torch.minimum(distance, torch.linalg.vector_norm(features - features[picked[-1]], dim=1))
        distance[picked[-1]] = 0
        picked.append(int(distance.argmax()))
    return picked


@pytest.mark.parametrize(
    ("points", "dimensions", "count"), [(500, 3, 50), (800, 40, 400), (600, 200, 60), (50, 16, 50)]
)
def test_the_picks_are_those_of_the_plain_loop(points: int, dimensions: int, count: int) -> None:
    features = clusters(points, dimensions)
    assert coreset.greedy(features, count, 7).tolist() == plain(features, count, 7)


def test_the_picks_go_on_from_a_coreset_that_is_there() -> None:
    features = clusters(800, 40)
    first = coreset.greedy(features, 300, 7)
    covered = torch.cdist(features, features[first[:100]], compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    assert coreset.further(features, 200, covered).tolist() == first[100:].tolist()


def test_the_picks_are_anomalibs_from_the_same_start() -> None:
    sampler = KCenterGreedy(clusters(2000, 96), 0.1)
    torch.manual_seed(3)
    expected = sampler.select_coreset_idxs()
    assert coreset.greedy(sampler.features, len(expected), expected[0]).tolist() == expected


def test_points_that_are_all_alike_are_all_picked_once() -> None:
    assert sorted(coreset.greedy(torch.ones(9, 20), 9, 4).tolist()) == list(range(9))


@pytest.mark.parametrize("count", [0, 11])
def test_a_count_that_is_no_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 10"):
        coreset.greedy(torch.rand(10, 3), count, 0)


def test_a_stream_that_fits_is_the_selection_from_all() -> None:
    points = clusters(400, 24)
    seed_everything(0, verbose=False)  # the projection draws from NumPy, too
    expected = KCenterGreedy(points, 0.1).sample_coreset()
    seed_everything(0, verbose=False)
    stream = coreset.StreamingCoreset(40, 360)
    for batch in points.split(37):
        stream.add(batch)
    assert torch.equal(stream.result(), expected)


def test_a_long_stream_covers_the_points_nearly_as_well_and_holds_no_more_than_it_may() -> None:
    torch.manual_seed(0)
    points = clusters(6000, 24)
    stream = coreset.StreamingCoreset(200, 600)
    for batch in points.split(130):
        stream.add(batch)
        assert stream.points is not None and len(stream.points) == 800
    found = stream.result()
    assert found.shape == (200, 24)
    radius = torch.cdist(points, found).min(dim=1).values
    best = torch.cdist(points, points[plain(points, 200, 0)]).min(dim=1).values
    assert radius.max() < 1.5 * best.max() and radius.mean() < 1.3 * best.mean()
    assert {tuple(row) for row in found.tolist()} <= {tuple(row) for row in points.tolist()}  # no mixtures


def test_fewer_points_than_asked_for_are_all_kept() -> None:
    stream = coreset.StreamingCoreset(50, 10)
    stream.add(torch.rand(7, 4))
    assert len(stream.result()) == 7


def test_one_pick_is_the_point_to_start_from():
    assert coreset.greedy(torch.arange(6.0)[:, None], 1, 4).tolist() == [4]


@pytest.mark.parametrize(("batches", "projected"), [(1, []), (4, [40]), (6, [])])
def test_what_fits_is_compared_in_a_projection_once_and_what_streamed_as_it_is(batches, projected, monkeypatch):
    seen = []
    monkeypatch.setattr(coreset, "project", lambda points: seen.append(len(points)) or points)
    stream = coreset.StreamingCoreset(10, 30)
    for batch in clusters(10 * batches, 4).split(10):
        stream.add(batch)
    assert stream.result().shape == (10, 4) and seen == projected


def test_each_domain_fills_an_equal_share_of_a_bank_however_far_its_points_lie_apart() -> None:
    shares = coreset.Shares(9, 100, ["near", "far"])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        shares.add("near", torch.rand(10, 4, generator=generator))
        shares.add("far", 100 + 100 * torch.rand(10, 4, generator=generator))
    bank = shares.result()
    assert len(bank) == 9 and int((bank.amax(dim=1) <= 1).sum()) == 4
