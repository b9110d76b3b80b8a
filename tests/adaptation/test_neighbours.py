"""A bank with its density normalised, against distances of everything to everything in double precision."""

import pytest
import torch

from hdmap_mlflow.adaptation import neighbours
from hdmap_mlflow.adaptation.maps import Maps
from hdmap_mlflow.adaptation.neighbours import NOBODY, SOURCE, Neighbours

PLACES = (4, 5)
SOURCES = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))


def _maps(count, seed, spread=1.0, at=0.0):
    return Maps(at + spread * torch.randn(count, 12, *PLACES, generator=torch.Generator().manual_seed(seed)), PLACES)


def _merged(twice, **of):
    """Rows of a source, some of them twice, and of three maps."""
    rows = torch.cat([SOURCES, SOURCES[:twice]])
    source = Neighbours(rows, torch.full((len(rows),), SOURCE))
    return source.with_maps(_maps(3, 1, **of)).dense()


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """Every patch of these small maps is a row, but where a test says otherwise."""
    monkeypatch.setattr(neighbours, "SHARE", 1)


def _apart(rows, others):
    return torch.cdist(rows.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _expected(bank, asked, leave=NOBODY):
    keep = torch.tensor([whose != leave for whose in bank.whose.tolist()])
    every, kept = (_apart(rows, rows).fill_diagonal_(torch.inf).amin(dim=1) for rows in (bank.rows, bank.rows[keep]))
    floor = 1e-3 * float(every[every > 0].median())
    return asked.shaped((_apart(asked.flat(), bank.rows[keep]) / kept.clamp(min=floor)).amin(dim=1))


@pytest.mark.parametrize("twice", [0, 40, 60])
@pytest.mark.parametrize("of", [{}, {"spread": 0.2, "at": 3.0}], ids=["near", "far"])
@pytest.mark.parametrize("leave", [NOBODY, 0, 2])
def test_distances_count_in_units_of_the_radius_of_a_row_whatever_map_is_left_out(of: dict, leave: int, twice: int):
    bank, asked = _merged(twice, **of), _maps(5, 2, **of)
    expected = _expected(bank, asked, leave)
    torch.testing.assert_close(bank.patches(asked, leave).double(), expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["searched", "measured"])
@pytest.mark.parametrize("of", [{}, {"spread": 0.2, "at": 3.0}], ids=["near", "far"])
def test_each_of_the_maps_is_measured_by_a_bank_without_it(of: dict, dtype: torch.dtype):
    bank, own = _merged(40, **of), _maps(3, 1, **of)
    bank = Neighbours(bank.rows.to(dtype), bank.whose).dense()
    found = bank.leaving(own._replace(features=own.features.to(dtype)))
    expected = torch.cat([_expected(bank, own.of(i), i) for i in range(3)])
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=1e-4)


def test_rows_that_are_there_twice_are_near_to_what_is_as_good_as_the_same():
    bank = _merged(20)
    beside = Maps(SOURCES[:20].T.reshape(1, 12, *PLACES) + 3e-5, PLACES)
    found = bank.patches(beside).double()
    assert (found < 0.9).all(), "their nearest is one of these rows"
    torch.testing.assert_close(found, _expected(bank, beside), rtol=1e-2, atol=0)


def test_rows_that_are_all_the_same_have_distances():
    same = torch.ones(300, 12)
    found = Neighbours(same, torch.full((300,), SOURCE)).dense().patches(_maps(1, 0))
    torch.testing.assert_close(found, (_maps(1, 0).features - 1).norm(dim=1))


@pytest.mark.parametrize("density", [True, False])
def test_memories_that_hold_one_source_say_together_what_each_says_alone(density):
    source = Neighbours(SOURCES, torch.full((60,), SOURCE))
    drawn = [source.with_maps(_maps(3 + seed, seed, 0.5, 1.0)) for seed in range(3)]
    drawn = [one.dense() for one in drawn] if density else drawn
    asked = _maps(6, 9)
    found = Neighbours.together(drawn)(asked)
    alone = [one.patches(asked) for one in drawn]
    assert not torch.allclose(*alone[:2], atol=1e-3)
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_memories_without_a_source_say_together_what_each_says_alone():
    drawn, asked = [Neighbours.of_maps(_maps(3, seed, 0.5, 1.0)) for seed in range(2)], _maps(6, 9)
    for one, other in zip(Neighbours.together(drawn)(asked), drawn, strict=True):
        torch.testing.assert_close(one, other.patches(asked), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("share", "count"), [(0.2, 12), (0.01, 3)])
def test_a_bank_takes_up_the_patches_that_it_covers_least(monkeypatch, share, count):
    """By the plain loop over all rows; one of each map on average where that is more."""
    monkeypatch.setattr(neighbours, "SHARE", share)
    source, maps = Neighbours(SOURCES, torch.full((60,), SOURCE)), _maps(3, 1)
    rows, flat, whose = [*SOURCES], maps.flat(), []
    for _ in range(count):
        place = int(_apart(flat, torch.stack(rows)).amin(dim=1).argmax())
        rows.append(flat[place])
        whose.append(place // 20)
    merged = source.with_maps(maps)
    assert torch.equal(merged.rows, torch.stack(rows))
    assert merged.whose.tolist() == [SOURCE] * 60 + whose
