"""The simulated data set: as published where something is published, and no easier than it should be."""

import csv
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

from hdmap_mlflow.data import simulate as sim
from hdmap_mlflow.errors import BadInput

PUBLISHED = {  # after minmax scaling: min, q25, median, q75, max, mean, sd
    ("domain_A", "train/good"): (0.0464, 0.1893, 0.2332, 0.2885, 1.000, 0.2476, 0.0841),
    ("domain_A", "test/good"): (0.0416, 0.1429, 0.1959, 0.2715, 1.086, 0.2174, 0.0979),
    ("domain_A", "test/fault"): (0.0446, 0.1636, 0.2121, 0.2748, 1.268, 0.2280, 0.0884),
    ("domain_B", "train/good"): (0.0373, 0.1919, 0.2394, 0.2996, 1.000, 0.2525, 0.0840),
    ("domain_B", "test/good"): (0.0368, 0.1489, 0.2043, 0.2777, 0.931, 0.2232, 0.0974),
    ("domain_B", "test/fault"): (0.0368, 0.1299, 0.1749, 0.2348, 0.945, 0.1903, 0.0804),
    ("domain_C", "train/good"): (0.0746, 0.1954, 0.2342, 0.2833, 1.000, 0.2461, 0.0718),
    ("domain_C", "test/good"): (0.0729, 0.1739, 0.2134, 0.2661, 1.088, 0.2279, 0.0748),
    ("domain_C", "test/fault"): (0.0755, 0.1964, 0.2448, 0.3090, 2.939, 0.2629, 0.0964),
    ("domain_D", "train/good"): (0.0323, 0.1600, 0.2042, 0.2610, 1.000, 0.2184, 0.0817),
    ("domain_D", "test/good"): (0.0339, 0.1251, 0.1788, 0.2413, 0.898, 0.1966, 0.0860),
    ("domain_D", "test/fault"): (0.0317, 0.1285, 0.1658, 0.2159, 1.482, 0.1808, 0.0764),
}
FAULT_OVER_GOOD = {"domain_A": 1.049, "domain_B": 0.852, "domain_C": 1.154, "domain_D": 0.919}
N = 400


@pytest.fixture(scope="module")
def maps():
    """Maps by (domain, split, gain_confound, difficulty), drawn once."""
    drawn: dict[tuple[str, str, bool, str], sim.Maps] = {}

    def get(domain: str, split: str, gain_confound: bool = True, difficulty: str = "published") -> sim.Maps:
        key = (domain, split, gain_confound, difficulty)
        if key not in drawn:
            rng = np.random.default_rng([7, sim.SPLITS.index(split)])
            drawn[key] = sim.domain_maps(domain, split, N, rng, gain_confound, difficulty)
        return drawn[key]

    return get


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return sim.simulate(tmp_path_factory.mktemp("small") / "maps", train=5, test=4, seed=3)


def auroc(good: np.ndarray, fault: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([good, fault]))[len(good) :]
    return float((ranks.mean() - (len(fault) + 1) / 2) / len(good))


def matched_filter(pixels: np.ndarray) -> np.ndarray:
    """How far the brightest row stands out once every column's median is gone: knows the band, not the level."""
    log = np.log(pixels)
    rows = (log - np.median(log, axis=1, keepdims=True)).mean(axis=2)
    return rows.max(axis=1) - np.median(rows, axis=1)


def patch_filter(pixels: np.ndarray) -> np.ndarray:
    """The brightest patch of 2 x 9 pixels once every column's median is gone: as local as a patch memory."""
    log = np.log(pixels)
    return uniform_filter(log - np.median(log, axis=1, keepdims=True), (0, 2, 9), mode="wrap").max((1, 2))


def image_mean(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean((1, 2))


def image_max(pixels: np.ndarray) -> np.ndarray:
    return pixels.max((1, 2))


def separation(
    maps, score, domain: str, part: slice = slice(None), gain_confound: bool = True, difficulty: str = "published"
) -> float:
    good, fault = (
        score(maps(domain, split, gain_confound, difficulty).pixels[part]) for split in ("test/good", "test/fault")
    )
    return auroc(good, fault)


COLD, WARM = slice(0, N // 2), slice(N // 2, N)


# --------------------------------------------------------------------------------------- calibration
@pytest.mark.parametrize("difficulty", sim.DIFFICULTIES)
@pytest.mark.parametrize(("domain", "split"), PUBLISHED)
def test_every_domain_and_split_matches_the_published_quartiles_mean_and_sd(maps, domain, split, difficulty):
    low, *quartiles, high, mean, sd = PUBLISHED[domain, split]
    pixels = maps(domain, split, difficulty=difficulty).pixels
    measured = [*np.quantile(pixels, [0.25, 0.5, 0.75]), pixels.mean(), pixels.std()]
    np.testing.assert_allclose(measured, [*quartiles, mean, sd], rtol=0.10)
    assert low / 2 < pixels.min() < low * 1.5
    assert high / 2 < pixels.max() < high * 2


@pytest.mark.parametrize("domain", FAULT_OVER_GOOD)
def test_the_fault_recording_differs_in_gain_as_published(maps, domain):
    ratio = maps(domain, "test/fault").pixels.mean() / maps(domain, "test/good").pixels.mean()
    assert ratio == pytest.approx(FAULT_OVER_GOOD[domain], rel=0.05)


@pytest.mark.parametrize(
    ("split", "part", "mean", "sd", "highest"),
    [
        ("test/good", COLD, 0.190, 0.046, 0.487),
        ("test/good", WARM, 0.265, 0.075, 0.748),
        ("test/fault", COLD, 0.216, 0.057, 0.596),
        ("test/fault", WARM, 0.310, 0.101, 1.911),
    ],
)
def test_cold_and_warm_maps_of_domain_c_have_the_published_level_and_spread(maps, split, part, mean, sd, highest):
    pixels = maps("domain_C", split).pixels[part]
    assert pixels.mean() == pytest.approx(mean, rel=0.05)
    assert pixels.std((1, 2)).mean() == pytest.approx(sd, rel=0.10)
    assert image_max(pixels).mean() == pytest.approx(highest, rel=0.30)


@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_train_marginals_are_one_lognormal_and_not_two_states(maps, domain):
    log = np.log(maps(domain, "train/good").pixels)
    assert abs(((log - log.mean()) ** 3).mean() / log.std() ** 3) < 0.35


# ------------------------------------------------------------------------------------------- texture
@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_warm_is_another_texture_and_not_a_gain_on_cold(maps, domain):
    pixels = maps(domain, "test/good").pixels

    def stripes(part: np.ndarray) -> np.ndarray:
        return np.log(part).mean((0, 1))

    same = np.corrcoef(stripes(pixels[: N // 4]), stripes(pixels[N // 4 : N // 2]))[0, 1]
    other = np.corrcoef(stripes(pixels[COLD]), stripes(pixels[WARM]))[0, 1]
    assert same > 0.98
    assert 0.2 < other < 0.85


@pytest.mark.parametrize("domain", sim.DOMAINS)
@pytest.mark.parametrize("part", [COLD, WARM], ids=["cold", "warm"])
def test_the_columns_carry_three_planet_pass_humps(maps, domain, part):
    columns = np.log(maps(domain, "test/good").pixels[part]).mean((0, 1))
    assert np.abs(np.fft.rfft(columns))[1:].argmax() + 1 == 3


def test_test_maps_step_from_cold_to_warm_half_way(maps):
    assert maps("domain_A", "test/fault").groups == ["cold"] * (N // 2) + ["warm"] * (N // 2)


# --------------------------------------------------------------------------------------------- fault
@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_the_mask_is_exactly_where_the_band_was_added(monkeypatch, domain):
    def draw() -> sim.Maps:
        return sim.domain_maps(domain, "test/fault", 40, np.random.default_rng(1))

    fault = draw()
    monkeypatch.setitem(sim.DOMAINS, domain, dataclasses.replace(sim.DOMAINS[domain], contrast=(0.0, 0.0)))
    healthy = draw()
    raised = fault.pixels > healthy.pixels
    assert np.array_equal(fault.pixels[~fault.masks], healthy.pixels[~fault.masks])
    assert not (raised & ~fault.masks).any()
    assert raised[fault.masks].mean() > 0.99  # a ragged band may vanish below float32 on a pixel


def test_the_band_is_one_or_two_adjacent_rows_broken_and_about_five_percent(maps):
    masks = maps("domain_A", "test/fault").masks
    rows = masks.any(axis=2)
    assert set(rows.sum(axis=1)) == {1, 2}
    two = rows[rows.sum(axis=1) == 2]
    assert (two & np.roll(two, 1, axis=1)).any(axis=1).all()
    assert not masks.all(axis=2).any()
    assert 0.03 < masks.mean() < 0.06
    assert len(set(rows.argmax(axis=1))) == sim.ROWS  # the start phase is unknown, so any row can hold the tooth


def test_severity_raises_the_band_relative_to_the_healthy_level(maps):
    fault = maps("domain_A", "test/fault")
    low, high = sim.SEVERITY
    assert fault.severity.min() >= low and fault.severity.max() <= high
    band = np.array([np.median(p[m]) / np.median(p[~m]) for p, m in zip(fault.pixels, fault.masks, strict=True)])
    assert np.corrcoef(band, fault.severity)[0, 1] > 0.5


@pytest.mark.parametrize("split", ["train/good", "test/good"])
def test_good_maps_have_no_mask_and_no_severity(maps, split):
    good = maps("domain_B", split)
    assert not good.masks.any() and not good.severity.any()


# ---------------------------------------------------------------------------------------- difficulty
# Whoever knows the whole band finds nearly every `published` one, so that its order shows in a local score only.
ORDERED = pytest.mark.parametrize(("difficulty", "score"), [("published", patch_filter), ("hard", matched_filter)])
EACH_DIFFICULTY = pytest.mark.parametrize("difficulty", sim.DIFFICULTIES)


@ORDERED
def test_difficulty_is_a_like_b_then_d_then_c(maps, difficulty, score):
    a, b, c, d = (separation(maps, score, domain, difficulty=difficulty) for domain in sim.DOMAINS)
    assert a == pytest.approx(b, abs=0.02)
    assert min(a, b) > d + 0.005
    assert d > c + 0.03


@EACH_DIFFICULTY
def test_domain_c_is_hard_and_not_hopeless(maps, difficulty):
    assert separation(maps, matched_filter, "domain_C", difficulty=difficulty) > 0.8


@ORDERED
def test_cold_maps_of_domain_c_are_the_hardest(maps, difficulty, score):
    cold = {domain: separation(maps, score, domain, COLD, difficulty=difficulty) for domain in sim.DOMAINS}
    assert min(cold, key=lambda domain: cold[domain]) == "domain_C"
    assert cold["domain_C"] < separation(maps, score, "domain_C", WARM, difficulty=difficulty) - 0.03


@EACH_DIFFICULTY
def test_trivial_baselines_on_domain_c_are_near_the_published_ones(maps, difficulty):
    assert separation(maps, image_max, "domain_C", difficulty=difficulty) == pytest.approx(0.731, abs=0.07)
    assert separation(maps, image_mean, "domain_C", difficulty=difficulty) == pytest.approx(0.709, abs=0.07)


@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_hard_shows_less_of_the_same_faults_and_nothing_else_differs(maps, domain):
    easier, harder = (maps(domain, "test/fault", difficulty=difficulty) for difficulty in sim.DIFFICULTIES)
    assert np.array_equal(easier.masks, harder.masks) and np.array_equal(easier.severity, harder.severity)
    assert np.array_equal(easier.pixels[~easier.masks], harder.pixels[~harder.masks])
    assert (easier.pixels[easier.masks] >= harder.pixels[harder.masks]).all()
    assert easier.pixels[easier.masks].mean() > harder.pixels[harder.masks].mean() * 1.01


@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_without_the_gain_confound_the_image_mean_learns_almost_nothing(maps, domain):
    assert 0.48 < separation(maps, image_mean, domain, gain_confound=False) < 0.60


@pytest.mark.parametrize("domain", sim.DOMAINS)
def test_without_the_gain_confound_only_the_band_differs(maps, domain):
    fault = maps(domain, "test/fault", gain_confound=False)
    good = maps(domain, "test/good", gain_confound=False).pixels
    for part in (COLD, WARM):
        background = fault.pixels[part][~fault.masks[part]]
        assert background.mean() == pytest.approx(good[part].mean(), rel=0.03)


# ------------------------------------------------------------------------------------------- on disk
def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_layout_is_complete_and_says_simulated(small):
    for domain in sim.DOMAINS:
        found = {name: len(list((small / domain / name).iterdir())) for name in (*sim.SPLITS, "test/masks")}
        assert found == {"train/good": 5, "test/good": 4, "test/fault": 4, "test/masks": 4}
    facts = json.loads((small / sim.MARKER).read_text())
    assert {"simulated": True, "seed": 3, "train": 5, "test": 4, "gain_confound": True}.items() <= facts.items()
    assert sim.is_simulated(small) and not sim.is_simulated(small.parent)


def test_files_hold_the_generated_maps_as_float32_and_values_above_one_survive(tmp_path):
    root = sim.simulate(tmp_path / "maps", train=1, test=40)
    stored = np.stack([tifffile.imread(path) for path in sorted((root / "domain_C/test/fault").iterdir())])
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(2, 2)))
    assert stored.dtype == np.float32 and stored.shape == (40, 31, 95)
    assert np.array_equal(stored, sim.domain_maps("domain_C", "test/fault", 40, rng).pixels)
    assert stored.max() > 1


def test_other_readers_accept_the_tiff_files_too(small):
    cv2 = pytest.importorskip("cv2")
    path = small / "domain_A/train/good/000000.tiff"
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), tifffile.imread(path))


def test_masks_on_disk_are_0_and_255_and_stand_on_the_bright_rows(small):
    cv2 = pytest.importorskip("cv2")
    for path in (small / "domain_A/test/masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pixels = tifffile.imread(small / "domain_A/test/fault" / f"{path.stem}.tiff")
        assert mask.dtype == np.uint8 and mask.shape == pixels.shape and set(np.unique(mask)) == {0, 255}
        assert pixels[mask > 0].mean() > pixels[mask == 0].mean()


def test_metadata_names_every_map_with_its_group_and_severity(small):
    for domain in sim.DOMAINS:
        with open(small / domain / "metadata.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        on_disk = {p.relative_to(small / domain).as_posix() for p in (small / domain).rglob("*.tiff")}
        assert list(rows[0]) == ["path", "group", "severity"]
        assert len(rows) == 13 and {row["path"] for row in rows} == on_disk
        assert {row["group"] for row in rows} == {"cold", "warm"}
        assert [row["group"] for row in rows if "fault" in row["path"]] == ["cold", "cold", "warm", "warm"]
        assert all((float(row["severity"]) > 0) == ("fault" in row["path"]) for row in rows)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_maps(small, tmp_path):
    again = contents(sim.simulate(tmp_path / "again", train=5, test=4, seed=3))
    other = contents(sim.simulate(tmp_path / "other", train=5, test=4, seed=4))
    assert again == contents(small)
    assert all(other[name] != again[name] for name in again if name.endswith(".tiff"))


def test_test_maps_do_not_depend_on_how_many_train_maps_are_asked_for(small, tmp_path):
    more = contents(sim.simulate(tmp_path / "more", train=9, test=4, seed=3))
    same = {name: data for name, data in contents(small).items() if "/test/" in name}
    assert same.items() <= more.items()


def test_hard_maps_are_those_of_the_first_generator_byte_for_byte(tmp_path):
    maps = contents(sim.simulate(tmp_path / "maps", train=2, test=2, seed=3, difficulty="hard"))
    facts = json.loads(maps.pop(sim.MARKER))
    assert (facts["difficulty"], facts["generator"]) == ("hard", 2)
    digest = hashlib.sha256(b"".join(maps.values())).hexdigest()
    assert digest == "301e3db69b2a19db591b71e0a4ce6b1eb346218306b592c244f819c64766eaa1"


def test_the_gain_confound_is_switched_on_disk_too(tmp_path):
    levels = {}
    for switch in (True, False):
        root = sim.simulate(tmp_path / str(switch), train=1, test=2, gain_confound=switch)
        assert json.loads((root / sim.MARKER).read_text())["gain_confound"] is switch
        levels[switch] = tifffile.imread(root / "domain_B/test/fault/000000.tiff").mean()
    assert levels[True] / levels[False] == pytest.approx(sim.DOMAINS["domain_B"].fault_gain[0], rel=0.01)


# -------------------------------------------------------------------------------------- wrong input
@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"train": 0}, "--train"),
        ({"test": -1}, "--test"),
        ({"seed": -1}, "--seed"),
        ({"difficulty": "easy"}, "choose from published, hard"),
    ],
)
def test_a_wrong_number_is_refused_by_name_and_nothing_is_written(tmp_path, wrong, named):
    with pytest.raises(BadInput, match=named):
        sim.simulate(tmp_path / "maps", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="not an empty folder"):
        sim.simulate(tmp_path, train=1, test=1)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "maps").mkdir()
    assert sim.is_simulated(sim.simulate(tmp_path / "maps", train=1, test=1))
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_a_place_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write") as error:
        sim.simulate(tmp_path / "file" / "maps", train=1, test=1)
    assert "\n" not in str(error.value)


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    write = sim._write_domain

    def interrupted(folder, domain, *rest):
        if domain == "domain_C":
            raise KeyboardInterrupt
        write(folder, domain, *rest)

    monkeypatch.setattr(sim, "_write_domain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sim.simulate(tmp_path / "maps", train=1, test=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("domain", "split", "n"), [("domain_E", "test/good", 1), ("domain_A", "test", 1), ("domain_A", "test/good", 0)]
)
def test_an_unknown_domain_or_split_or_no_maps_at_all_is_refused(domain, split, n):
    with pytest.raises(BadInput):
        sim.domain_maps(domain, split, n, np.random.default_rng(0))


@pytest.mark.slow
# --------------------------------------------------------------------------------------------- demo
def test_two_starts_at_once_make_one_intact_demo_set(tmp_path):
    code = "from hdmap_mlflow.data.simulate import demo; print(demo(train=30, test=10))"
    environment = {**os.environ, "HDMAP_CACHE": str(tmp_path / "cache")}
    starts = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [start.communicate(timeout=60)[0].strip() for start in starts]
    assert [start.returncode for start in starts] == [0, 0]
    assert outputs[0] == outputs[1]
    made = contents(Path(outputs[0]))
    assert json.loads(made.pop("sums.json")).keys() == made.keys()
    assert made == contents(sim.simulate(tmp_path / "alone", train=30, test=10))
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [Path(outputs[0]).name]


def test_the_demo_set_is_made_once_and_then_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    root = sim.demo(train=2, test=2)
    monkeypatch.setattr(sim, "_write", lambda *_, **__: pytest.fail("made a second time"))
    assert sim.demo(train=2, test=2) == root
    assert "simulated" in root.name


def test_the_demo_set_of_an_older_generator_is_left_alone_and_stays_readable(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path))
    old = sim.simulate(tmp_path / "demo-simulated-g1-train2-test2", train=2, test=2, difficulty="hard")
    facts = json.loads((old / sim.MARKER).read_text())
    (old / sim.MARKER).write_text(json.dumps(facts | {"generator": 1}))
    before = contents(old)
    new = sim.demo(train=2, test=2)
    assert new != old and json.loads((new / sim.MARKER).read_text())["difficulty"] == "published"
    assert contents(old) == before and sim.is_simulated(old)


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(BadInput, match="HDMAP_CACHE"):
        sim.demo(train=2, test=2)


def test_maps_of_one_recording_resemble_one_another_and_the_pixels_are_no_others(maps):
    """One-way analysis of variance of the log image means, cold and warm apart."""
    rng = np.random.default_rng([7, sim.SPLITS.index("test/good")])
    drawn = sim.domain_maps("domain_C", "test/good", 4000, rng, recordings=100)
    level = np.log(drawn.pixels.mean((1, 2)))
    assert set(np.bincount(drawn.recording)) == {20}
    for state in (0, 1):
        groups = level[drawn.warmth == state].reshape(100, 20)
        between, within = 20 * groups.mean(1).var(ddof=1), groups.var(axis=1, ddof=1).mean()
        assert (between - within) / (between + 19 * within) == pytest.approx(sim.ALIKE, abs=0.08)
        whole = np.log(maps("domain_C", "test/good").pixels.mean((1, 2)))
        alone = whole[maps("domain_C", "test/good").warmth == state]
        assert level[drawn.warmth == state].std() == pytest.approx(alone.std(), rel=0.15)


def test_the_recordings_are_named_and_keep_their_state(tmp_path):
    root = sim.simulate(tmp_path / "maps", train=9, test=8, recordings=2)
    rows = list(csv.DictReader((root / "domain_A" / "metadata.csv").open()))
    good = [row for row in rows if row["path"].startswith("test/good")]
    assert [row["recording"] for row in good] == [f"test-good-{n:03d}" for n in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert [row["group"] for row in good] == ["cold"] * 4 + ["warm"] * 4
    assert len({row["recording"] for row in rows}) == 12
    assert json.loads((root / sim.MARKER).read_text())["recordings"] == 2
    with pytest.raises(BadInput, match="8 maps are too few for 5 cold"):
        sim.simulate(tmp_path / "more", train=12, test=8, recordings=5)
    assert not (tmp_path / "more").exists()
