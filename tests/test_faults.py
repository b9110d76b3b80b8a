"""Scaled CutPaste: what is added, where, and what its labels say."""

import pytest
import torch

from hdmap_mlflow.data.faults import NATIVE, CutPaste, map_level
from hdmap_mlflow.errors import BadInput

BANDS = CutPaste(width=(8, 40), ratio=(0.05, 0.2), severity=(0.0, 2.0))


def maps(n: int = 8, height: int = 31, width: int = 95, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.2 * torch.exp(0.3 * torch.randn(n, 1, height, width, generator=generator)).repeat(1, channels, 1, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def extent(mask: torch.Tensor) -> tuple[int, int]:
    """Height and width of the smallest rectangle around a mask (1, H, W)."""
    return int(mask.any(dim=2).sum()), int(mask.any(dim=1).sum())


@pytest.mark.parametrize("faults", [NATIVE, BANDS])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_added_peak_is_the_severity_on_the_label(faults: CutPaste, channels: int) -> None:
    images = maps(32, channels=channels)
    pasted, masks, severity = faults.paste_batch(images, seeded())
    unit = map_level(images) if faults.relative else torch.ones(32)
    torch.testing.assert_close((pasted - images).amax(dim=(1, 2, 3)), severity * unit, rtol=1e-4, atol=1e-6)
    assert pasted.shape == images.shape and masks.shape == (32, 1, 31, 95) and severity.shape == (32,)


@pytest.mark.parametrize("faults", [NATIVE, BANDS])
def test_nothing_changes_outside_the_mask_and_everything_rises_inside(faults: CutPaste) -> None:
    images = maps(32)
    pasted, masks, _ = faults.paste_batch(images, seeded())
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(pasted[masks == 0], images[masks == 0])
    assert (pasted[masks == 1] > images[masks == 1]).all()


def test_a_fault_above_one_is_not_clipped() -> None:
    images = maps()
    pasted, _, severity = CutPaste(width=(20, 20), height=(2, 2), severity=(5.0, 5.0)).paste_batch(images, seeded())
    assert (severity == 5).all()
    assert (pasted.amax(dim=(1, 2, 3)) > 5).all()


def test_what_is_added_is_a_patch_from_another_place_of_the_same_map() -> None:
    image = torch.arange(1.0, 31 * 95 + 1, dtype=torch.float64).reshape(1, 31, 95)  # every pixel tells its place
    for seed in range(20):
        pasted, mask, _ = CutPaste(width=(10, 30), height=(2, 2)).paste(image, seeded(seed))
        height, width = extent(mask)
        added = (pasted - image)[mask.bool()].reshape(height, width)
        source = added * 95 / (added[1, 0] - added[0, 0])  # before scaling, the next row of a map is 95 more
        place = image[mask.bool()].reshape(height, width)
        step = source - place
        torch.testing.assert_close(step, step[0, 0].round().expand_as(step), rtol=0, atol=1e-3)
        assert step[0, 0].abs() > 0.5


@pytest.mark.parametrize(
    ("faults", "heights", "widths"),
    [
        (NATIVE, (1, 2), (10, 80)),
        (CutPaste(width=(10, 10), ratio=(0.5, 0.5)), (5, 5), (10, 10)),
        (CutPaste(width=(4, 4), ratio=(0.01, 0.02)), (1, 1), (4, 4)),
    ],
)
def test_patches_span_their_ranges_and_stay_inside(faults: CutPaste, heights: tuple, widths: tuple) -> None:
    _, masks, _ = faults.paste_batch(maps(400), seeded())
    sizes = [extent(mask) for mask in masks]
    assert (min(h for h, _ in sizes), max(h for h, _ in sizes)) == heights
    narrowest, widest = min(w for _, w in sizes), max(w for _, w in sizes)
    assert widths[0] <= narrowest <= widths[0] + 2 and widths[1] - 2 <= widest <= widths[1]


def test_faults_reach_every_row_and_every_column() -> None:
    _, masks, _ = NATIVE.paste_batch(maps(600), seeded())
    covered = masks[:, 0].any(dim=0)
    assert covered.any(dim=0).all() and covered.any(dim=1).all()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_patches_share_severity_and_do_not_add_up(count: int) -> None:
    images = maps(200, 32, 32)
    faults = CutPaste(width=(10, 10), height=(2, 2), severity=(1.0, 1.0), count=count)
    pasted, masks, _ = faults.paste_batch(images, seeded())
    assert masks.sum(dim=(1, 2, 3)).max() == 20 * count
    torch.testing.assert_close((pasted - images).amax(dim=(1, 2, 3)), torch.ones(200))


def test_severities_are_uniform_over_their_range() -> None:
    _, _, severity = CutPaste(width=(4, 8), height=(1, 2), severity=(1.0, 3.0)).paste_batch(maps(2000), seeded())
    counts = torch.histc(severity, bins=4, min=1, max=3)
    assert counts.sum() == 2000
    assert (counts - 500).abs().max() < 100


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_stated_share_of_maps_gets_a_fault_and_the_others_come_back_untouched(probability: float) -> None:
    images = maps(1000, 16, 40)
    faults = CutPaste(width=(4, 20), height=(1, 2), severity=(0.5, 1.0), probability=probability)
    pasted, masks, severity = faults.paste_batch(images, seeded())
    healthy = severity == 0
    assert abs(float((~healthy).float().mean()) - probability) < 0.05
    assert torch.equal(pasted[healthy], images[healthy])
    assert torch.equal(masks.amax(dim=(1, 2, 3)) > 0, ~healthy)


@pytest.mark.parametrize("faults", [NATIVE, BANDS])
def test_the_generator_alone_decides(faults: CutPaste) -> None:
    images = maps()
    first, second = (faults.paste_batch(images, seeded(3)) for _ in range(2))
    other = faults.paste_batch(images, seeded(4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])


def test_without_a_generator_the_global_seed_decides() -> None:
    pasted = []
    for _ in range(2):
        torch.manual_seed(5)
        pasted.append(BANDS.paste_batch(maps())[0])
    assert torch.equal(*pasted)
    assert not torch.equal(pasted[0], BANDS.paste_batch(maps())[0])


def test_one_map_gets_what_a_batch_of_one_gets() -> None:
    image = maps(1)
    alone, batch = NATIVE.paste(image[0], seeded()), NATIVE.paste_batch(image, seeded())
    assert [part.shape for part in alone] == [(1, 31, 95), (1, 31, 95), ()]
    assert all(torch.equal(a, b[0]) for a, b in zip(alone, batch, strict=True))


def test_the_map_that_is_given_is_left_alone() -> None:
    images = maps()
    before = images.clone()
    NATIVE.paste_batch(images, seeded())
    assert torch.equal(images, before)


def test_relative_faults_scale_with_the_gain_of_the_map() -> None:
    images = maps()
    pasted, _, severity = NATIVE.paste_batch(images, seeded())
    louder, _, same = NATIVE.paste_batch(16 * images, seeded())
    torch.testing.assert_close(louder, 16 * pasted)
    assert torch.equal(severity, same)


def test_maps_of_both_signs_are_scaled_by_their_largest_absolute_value() -> None:
    images = maps() - 1  # as after zscore
    pasted, _, severity = BANDS.paste_batch(images, seeded())
    torch.testing.assert_close((pasted - images).abs().amax(dim=(1, 2, 3)), severity, rtol=1e-4, atol=1e-5)


def test_an_empty_map_gets_no_fault_and_no_label() -> None:
    pasted, masks, severity = NATIVE.paste_batch(torch.zeros(4, 1, 31, 95), seeded())
    assert not pasted.any() and not masks.any() and not severity.any()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": (10, 20)}, "height"),
        ({"width": (10, 20), "height": (1, 2), "ratio": (0.1, 0.2)}, "give one"),
        ({"width": (20, 10), "height": (1, 2)}, "patch width"),
        ({"width": (0, 10), "height": (1, 2)}, "patch width"),
        ({"width": (10, 20), "height": (0, 2)}, "patch height"),
        ({"width": (10, 20), "ratio": (0.0, 0.2)}, "patch ratio"),
        ({"width": (10, 20), "height": (1, 2), "severity": (-1.0, 2.0)}, "severity"),
        ({"width": (10, 20), "height": (1, 2), "severity": (0.0, 0.0)}, "severity"),
        ({"width": (10, 20), "height": (1, 2), "count": 5}, "count"),
        ({"width": (10, 20), "height": (1, 2), "probability": 1.5}, "probability"),
    ],
)
def test_a_bad_range_is_refused_by_name_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words) as raised:
        CutPaste(**settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(31, 79), (1, 95)])
def test_a_patch_that_does_not_fit_the_map_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=f"2x80.*{shape[0]}x{shape[1]}"):
        NATIVE.paste_batch(maps(2, *shape), seeded())
