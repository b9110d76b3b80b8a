"""Scaled CutPaste: what is added, where, and what its labels say."""

import itertools

import numpy as np
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
        ({"width": (20, 10), "height": (1, 2)}, "^patch width .*>= 1"),
        ({"width": (0, 10), "height": (1, 2)}, "^patch width .*>= 1"),
        ({"width": (10, 20), "height": (0, 2)}, "^patch height .*>= 1"),
        ({"width": (10, 20), "ratio": (0.0, 0.2)}, "^patch ratio .*> 0"),
        ({"width": (10, 20), "height": (1, 2), "severity": (-1.0, 2.0)}, "^severity .*>= 0"),
        ({"width": (10, 20), "height": (1, 2), "severity": (0.0, 0.0)}, "^severity"),
        ({"width": (10, 20), "height": (1, 2), "count": 5}, "count"),
        ({"width": (10, 20), "height": (1, 2), "probability": 1.5}, "probability"),
    ],
)
def test_a_bad_range_is_refused_by_name_in_one_line(settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words) as raised:
        CutPaste(**settings)
    assert "\n" not in str(raised.value)


def test_the_ends_of_every_range_are_allowed() -> None:
    CutPaste(width=(1, 1), height=(1, 1), severity=(0.0, 0.1), count=1, probability=0.0)
    CutPaste(width=(3, 3), ratio=(1e-3, 0.5), severity=(2.0, 2.0), count=4, probability=1.0)


def by_hand(faults: CutPaste, images: torch.Tensor, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `paste_batch` says it does, map by map in a loop, from the same random numbers."""
    images = images.numpy()
    (_, _, height, width), pasted, masks, severities = images.shape, images.copy(), np.zeros_like(images[:, :1]), []
    draws = torch.rand(len(images), 5 + faults.count, generator=seeded(seed), dtype=torch.float64).numpy()
    for image, out, mask, draw in zip(images, pasted, masks, draws, strict=True):
        w = faults.width[0] + int(draw[0] * (faults.width[1] - faults.width[0] + 1))
        if faults.height:
            h = faults.height[0] + int(draw[1] * (faults.height[1] - faults.height[0] + 1))
        else:
            h = max(1, round(w * (faults.ratio[0] + (faults.ratio[1] - faults.ratio[0]) * draw[1])))
        across = width - w + 1
        places = across * (height - h + 1)
        source = int(draw[2] * places)
        row, column = divmod(source, across)
        patch = image[:, row : row + h, column : column + w]
        severity = faults.severity[0] + (faults.severity[1] - faults.severity[0]) * draw[3]
        if draw[4] >= faults.probability or not patch.any():
            severity = 0.0
        level = np.sort(abs(image), axis=None)[(image.size - 1) // 2] if faults.relative else 1.0
        for step in draw[5:]:
            row, column = divmod((source + 1 + int(step * (places - 1))) % places, across)
            for i, j in itertools.product(range(h), range(w)):
                if severity and not mask[0, row + i, column + j]:
                    mask[0, row + i, column + j] = 1
                    out[:, row + i, column + j] += severity * level / abs(patch).max() * patch[:, i, j]
        severities.append(severity)
    return pasted, masks, np.array(severities)


@pytest.mark.parametrize(
    ("faults", "height", "width"),
    [
        (CutPaste(width=(2, 6), height=(1, 3), severity=(0.5, 4.0), relative=True), 7, 9),
        (CutPaste(width=(2, 6), ratio=(0.2, 1.1), severity=(0.0, 2.0), count=3, probability=0.7), 7, 9),
        (CutPaste(width=(1, 3), height=(1, 1), severity=(1.0, 2.0), count=4), 1, 4),
        (CutPaste(width=(9, 9), height=(6, 7)), 7, 9),  # one place or two: the patch may lie on itself
        (CutPaste(width=(2, 2), ratio=(0.1, 0.2)), 1, 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_pixel_is_that_of_a_loop_by_hand(faults: CutPaste, height: int, width: int, dtype: torch.dtype) -> None:
    images = torch.randn(60, 2, height, width, generator=seeded(9), dtype=dtype)
    images[3] = 0
    found, expected = faults.paste_batch(images, seeded(2)), by_hand(faults, images, 2)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(31, 79), (1, 95)])
def test_a_patch_that_does_not_fit_the_map_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=f"2x80.*{shape[0]}x{shape[1]}"):
        NATIVE.paste_batch(maps(2, *shape), seeded())
    NATIVE.check_fits(2, 80)


def test_a_patch_whose_height_follows_its_width_must_fit_too() -> None:
    faults = CutPaste(width=(4, 10), ratio=(0.1, 0.6))
    faults.check_fits(6, 10)
    with pytest.raises(BadInput, match="6x10.*5x10"):
        faults.check_fits(5, 10)
