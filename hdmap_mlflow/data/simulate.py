"""SIMULATED health data maps: a stand-in for the private HDMAP data, for demos and tests, never for conclusions.

Every map here is drawn from a small log-additive model; no measured signal enters it. A pixel is

    log level = recording and map level + ring-tooth stripes and three planet-pass humps + planet-tooth rows + residual

Calibrated to published numbers (per domain and split, within 10 %): mean, sd and quartiles of the pixels; on domain C
also the cold and warm levels. Of the published order only: image maxima, the trivial baselines on domain C, and the
difficulty A ~ B > D > C with C cold the worst. Its level, too, where `difficulty` is `published`: how much of a fault a
sensor shows is chosen such that PatchCore and PaDiM in their quickstart reach what is published (docs/simulator.md).
Not calibrated, because nothing is published: the stripes themselves, how alike the domains' stripes are (so simulated
transfer between domains says nothing about real transfer), the spatial correlation, the unit of severity.

Choices, with their reasons:
- Cold and warm are two textures, not a gain: other stripes, other hump positions, another share of streaks.
  A test recording steps from cold to warm half way. The published train marginals are one lognormal with a mean near
  the warm one, not two modes, so a train map has a warmth in (0, 1), Beta distributed, that blends the two textures.
- The rig is fixed: stripes and rows depend on the domain, not on the seed, which draws recordings of that rig.
- The damaged tooth is one tooth, but a map starts at an unknown planet phase, so rows roll by a random phase a map.
  With a fixed row, the mean of that row alone would find every fault.
- Good and fault recordings differ in gain, as published, for reasons other than the fault; `gain_confound` switches it.
- With `recordings`, neighbouring maps share a recording and its gain: a part of the gain from map to map, so that the
  statistics of the pixels stay, and maps of one recording resemble one another as real ones do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter1d

from hdmap_mlflow import __version__
from hdmap_mlflow.data.formats import tiff_header
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import cache_dir, expanded, kept_folder, new_folder, to_json

ROWS, COLUMNS = 31, 95  # planet teeth, ring teeth
SPLITS = ("train/good", "test/good", "test/fault")  # also the folders inside a domain
MARKER = "SIMULATED.json"
GENERATOR = 2  # raise it when the same seed gives other maps: it names the cached demo set

MAP_GAIN_SD = 0.075  # log gain from map to map within a state; from the image-mean AUROC on C, .869 and .954
ALIKE = 0.3  # of the variance of that gain, the recording's share where there are recordings (intraclass correlation)
SEVERITY = (0.5, 2.0)  # uniform; severity x contrast = mean rise of the band relative to the healthy level
TRAIN_WARMTH = (2.5, 0.87)  # Beta parameters: mostly warm
STREAK = 9  # ring teeth a streak of the residual spans
STRIPE_SHARE, HUMP_SHARE, ROW_SHARE, RESIDUAL_SHARE = 0.28, 0.17, 0.05, 0.50  # of a map's log variance
STREAKS = (0.65, 2.0)  # weight of the streaks against white noise in the residual: cold, warm
NO_GAINS = np.zeros(1)
CHUNK = 128  # maps generated at once: they stay in the processor's cache


@dataclass(frozen=True)
class Domain:
    """Constants of one domain; pairs are (cold, warm), levels are in units of the domain's train maximum."""

    condition: int  # operating condition (HDMAP class)
    sensor: int
    level: tuple[float, float]  # mean of a healthy map in the good recording
    sigma: tuple[float, float]  # sd of the log level within a map
    skew: float  # bends the residual: above 0, minima and image maxima lie above the lognormal's
    fault_gain: tuple[float, float]  # fault recording / good recording, without the band
    contrast: tuple[float, float]  # how much of a severity of 1 this sensor shows
    ragged: float  # sd / mean of the rise within the band: a ragged band has peaks but is hard to follow


DOMAINS = {
    "domain_A": Domain(1, 3, (0.153, 0.284), (0.29, 0.31), 0.00, (1.19, 0.94), (0.58, 0.58), 0.40),
    "domain_B": Domain(1, 1, (0.157, 0.287), (0.29, 0.28), 0.00, (0.88, 0.81), (0.58, 0.52), 0.40),
    "domain_C": Domain(3, 3, (0.192, 0.264), (0.24, 0.29), 0.06, (1.13, 1.13), (0.12, 0.42), 1.00),
    "domain_D": Domain(3, 1, (0.145, 0.241), (0.33, 0.34), -0.02, (1.01, 0.86), (0.48, 0.48), 0.60),
}
HARD = {  # the contrasts of generator 1: a map's difficulty by pixel statistics alone, far above the real maps'
    "domain_A": (0.26, 0.26),
    "domain_B": (0.26, 0.26),
    "domain_C": (0.07, 0.42),
    "domain_D": (0.21, 0.21),
}
DIFFICULTIES = ("published", "hard")


@dataclass(frozen=True)
class Maps:
    """n simulated maps.

    pixels: (n, 31, 95) float32, positive, may exceed 1. masks: (n, 31, 95) bool, the fault band.
    warmth: (n,) in [0, 1], 0 cold and 1 warm. severity: (n,), 0 for good maps. recording: (n,), its number, 0 if none.
    """

    pixels: np.ndarray
    masks: np.ndarray
    warmth: np.ndarray
    severity: np.ndarray
    recording: np.ndarray

    @property
    def groups(self) -> list[str]:
        """`cold` or `warm` for each map: the nearer of the two textures."""
        return ["warm" if warmth >= 0.5 else "cold" for warmth in self.warmth]


def domain_maps(
    domain: str,
    split: str,
    n: int,
    rng: np.random.Generator,
    gain_confound: bool = True,
    difficulty: str = DIFFICULTIES[0],
    recordings: int = 0,
) -> Maps:
    """Draw n simulated maps of one domain and split, in memory (12 kB a map); see `Maps` for shapes and units.

    Test maps: the first half cold, the second warm, each of `recordings` recordings one after the other (0: maps are
    independent). Raises BadInput for an unknown domain, split or difficulty, n < 1 or fewer maps than recordings.
    """
    chunks = list(_chunks(domain, split, n, rng, gain_confound, difficulty, recordings))
    return Maps(*(np.concatenate([getattr(chunk, field.name) for chunk in chunks]) for field in fields(Maps)))


def _chunks(
    domain: str, split: str, n: int, rng: np.random.Generator, gain_confound: bool, difficulty: str, recordings: int
) -> Iterator[Maps]:
    """The same maps a chunk at a time, so that 100,000 of them need no more memory than a chunk."""
    if domain not in DOMAINS:
        raise BadInput(f"unknown simulated domain {domain!r}: choose from {', '.join(DOMAINS)}")
    if split not in SPLITS:
        raise BadInput(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if n < 1:
        raise BadInput(f"{n} maps asked of {domain}/{split}: ask for at least 1")
    check_difficulty(difficulty)
    constants = DOMAINS[domain] if difficulty == DIFFICULTIES[0] else replace(DOMAINS[domain], contrast=HARD[domain])
    warmth = rng.beta(*TRAIN_WARMTH, n) if split == SPLITS[0] else (np.arange(n) >= (n + 1) // 2).astype(float)
    cuts = range(CHUNK, n, CHUNK)
    if not recordings:
        for part in np.split(warmth, cuts):
            yield _draw(constants, split == SPLITS[2], part, rng, gain_confound)
        return
    if n < 2 * recordings:
        raise BadInput(f"{n} maps are too few for {recordings} cold and as many warm recordings: ask for fewer")
    gains = rng.spawn(1)[0].normal(0, ALIKE**0.5 * MAP_GAIN_SD, 2 * recordings)
    number = np.arange(n) * 2 * recordings // n
    for part, recording in zip(np.split(warmth, cuts), np.split(number, cuts), strict=True):
        yield _draw(constants, split == SPLITS[2], part, rng, gain_confound, recording, gains)


def check_difficulty(difficulty: str) -> None:
    if difficulty not in DIFFICULTIES:
        raise BadInput(f"unknown difficulty {difficulty!r}: choose from {', '.join(DIFFICULTIES)}")


def _draw(
    domain: Domain,
    fault: bool,
    warmth: np.ndarray,
    rng: np.random.Generator,
    gain_confound: bool,
    recording: np.ndarray | None = None,
    gains: np.ndarray = NO_GAINS,
) -> Maps:
    """One chunk: healthy maps at these warmths and, if `fault`, a band on each; `gains` are those of recordings."""
    n = len(warmth)
    gain = np.array(domain.fault_gain if fault and gain_confound else (1.0, 1.0))
    sigma, weight = _blend(warmth, domain.sigma), _blend(warmth, STREAKS)
    # Mean of a lognormal = exp(location + sigma^2 / 2): the level in the table is a mean, the one drawn a location.
    own = rng.normal(0, MAP_GAIN_SD, n)
    if recording is not None:
        own = (1 - ALIKE) ** 0.5 * own + gains[recording]
    log_mean = _blend(warmth, np.log(np.array(domain.level) * gain)) + own
    location: np.ndarray = log_mean - sigma**2 / 2
    cold, warm = _columns(domain, "cold"), _columns(domain, "warm")
    columns: np.ndarray = cold + warmth[:, None] * (warm - cold)
    tooth = (np.arange(ROWS) + rng.integers(ROWS, size=(n, 1))) % ROWS  # which planet tooth each row shows
    rows: np.ndarray = ROW_SHARE**0.5 * _pattern(ROWS, "planet")[tooth]

    # Small arrays go to float32 before they meet the large ones: in float64 this takes half as long again.
    location, sigma, weight = (a.astype(np.float32)[:, None, None] for a in (location, sigma, weight))
    columns, rows = columns.astype(np.float32)[:, None, :], rows.astype(np.float32)[:, :, None]
    white = rng.standard_normal((n, ROWS, COLUMNS), dtype=np.float32)
    residual = white + weight * uniform_filter1d(white, STREAK, mode="wrap")
    residual /= np.sqrt(1 + weight * (2 + weight) / STREAK)  # back to a variance of 1
    residual += domain.skew * (residual**2 - 1)
    texture = columns + rows + RESIDUAL_SHARE**0.5 * residual
    pixels = np.exp(location + sigma * texture)

    masks, severity = np.zeros(pixels.shape, bool), np.zeros(n)
    if fault:
        severity = rng.uniform(*SEVERITY, n)
        masks = _band(tooth, rng)
        rise = np.repeat(_blend(warmth, domain.contrast) * severity, masks.sum((1, 2)))
        shape = domain.ragged**-2  # of a Gamma of mean 1 and sd `ragged`
        pixels[masks] *= 1 + rise * rng.gamma(shape, 1 / shape, len(rise))
    number = np.zeros(n, int) if recording is None else recording
    return Maps(pixels.astype(np.float32), masks, warmth, severity, number)


def _band(tooth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Masks (n, 31, 95) of a band on the damaged tooth (0), one or two rows thick, broken along the ring: about 5 %."""
    n = len(tooth)
    thickness = np.where(rng.random((n, 1)) < 0.75, 2, 1)
    along = uniform_filter1d(rng.standard_normal((n, COLUMNS)), 7, mode="wrap")
    unbroken = along.argsort(axis=1).argsort(axis=1) < COLUMNS * rng.uniform(0.6, 0.95, (n, 1))
    return (tooth < thickness)[:, :, None] & unbroken[:, None, :]


def _columns(domain: Domain, state: str) -> np.ndarray:
    """Ring-tooth structure (95,) of a domain in one state: stripes plus three planet-pass humps.

    Part of the stripes belongs to the ring, the rest to the operating condition, the sensor and the state.
    """
    weights = {"ring": 1.0, f"class {domain.condition}": 0.5, f"sensor {domain.sensor}": 0.5, state: 0.9}
    stripes = np.sum([weight * _pattern(COLUMNS, name) for name, weight in weights.items()], axis=0)
    turn = 3 * np.arange(COLUMNS) / COLUMNS + 0.2 * domain.sensor + (0.15 if state == "warm" else 0.0)
    humps = np.exp(1.5 * np.cos(2 * np.pi * turn))  # rounder troughs than peaks
    return STRIPE_SHARE**0.5 * _standard(stripes) + HUMP_SHARE**0.5 * _standard(humps)


def _pattern(length: int, name: str) -> np.ndarray:
    """A fixed random pattern (length,) that belongs to a part of the rig by name: mean 0, sd 1."""
    return _standard(np.random.default_rng(list(name.encode())).standard_normal(length))


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def _blend(warmth: np.ndarray, pair: Sequence[float] | np.ndarray) -> np.ndarray:
    return pair[0] + warmth * (pair[1] - pair[0])


# ------------------------------------------------------------------------------------------------ on disk
def simulate(
    out: Path,
    train: int = 400,
    test: int = 200,
    seed: int = 0,
    gain_confound: bool = True,
    difficulty: str = DIFFICULTIES[0],
    recordings: int = 0,
) -> Path:
    """Write four SIMULATED domains below `out`, each `train` healthy maps and `test` good + `test` fault maps.

    Layout: `<domain>/{train/good,test/good,test/fault}/000000.tiff` (31 x 95 float32, not clipped),
    `<domain>/test/masks/000000.png` (0 or 255), `<domain>/metadata.csv` (path, group, severity and, where there are
    `recordings` of each split and state, recording), SIMULATED.json. `difficulty` is `published` or `hard`; only the
    maps in test/fault differ. The same arguments give the same bytes.
    The folder appears whole or not at all. Returns `out`. Raises BadInput for an unknown difficulty, if `out` is a
    file, is not empty or cannot be written, if a count is below 1 or the seed below 0.
    """
    out = expanded(out).absolute()
    check_difficulty(difficulty)
    least = {"train": 1, "test": 1, "seed": 0, "recordings": 0}
    for name, value in zip(least, (train, test, seed, recordings), strict=True):
        if value < least[name]:
            raise BadInput(f"--{name} {value} is too small: give {least[name]} or more")
    try:
        with new_folder(out) as part:
            _write(part, train, test, seed, gain_confound, difficulty, recordings)
    except OSError as error:
        raise BadInput(f"cannot write {out} ({error.strerror}): give --out a folder you can write to") from error
    return out


def demo(train: int = 128, test: int = 64) -> Path:
    """The small SIMULATED set behind `data_root=demo`: made once, in the user's cache folder, then only found.

    `HDMAP_CACHE` names another cache folder. Safe when several runs start at once: one makes it, the others wait.
    One that is damaged is made again. Raises BadInput if the cache cannot be written.
    """
    root = cache_dir() / f"demo-simulated-g{GENERATOR}-train{train}-test{test}"
    return kept_folder(root, lambda part: _write(part, train, test, 0, True, DIFFICULTIES[0], 0))


def is_simulated(root: Path) -> bool:
    """Whether `root` was written by `simulate`: it holds the marker SIMULATED.json."""
    return (Path(root) / MARKER).is_file()


def _write(root: Path, train: int, test: int, seed: int, gain_confound: bool, difficulty: str, recordings: int) -> None:
    for domain in DOMAINS:
        _write_domain(root / domain, domain, (train, test, test), seed, gain_confound, difficulty, recordings)
    facts = {"simulated": True, "seed": seed, "train": train, "test": test, "gain_confound": gain_confound}
    facts |= {"recordings": recordings} if recordings else {}
    versions = {"difficulty": difficulty, "generator": GENERATOR, "hdmap_mlflow": __version__}
    (root / MARKER).write_text(to_json(facts | versions) + "\n", encoding="utf-8")


def _write_domain(
    folder: Path,
    domain: str,
    counts: tuple[int, int, int],
    seed: int,
    gain_confound: bool,
    difficulty: str,
    recordings: int,
) -> None:
    """The three splits, the masks and metadata.csv of one domain. A split's maps do not depend on the other counts."""
    import cv2

    header = tiff_header(ROWS, COLUMNS)
    (folder / "test" / "masks").mkdir(parents=True)
    lines = ["path,group,severity" + ",recording" * bool(recordings)]
    for split, n in zip(SPLITS, counts, strict=True):
        (folder / split).mkdir(parents=True)
        key = (list(DOMAINS).index(domain), SPLITS.index(split))
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        index = 0
        for maps in _chunks(domain, split, n, rng, gain_confound, difficulty, recordings):
            rows = zip(maps.pixels, maps.masks, maps.groups, maps.severity, maps.recording, strict=True)
            for pixels, mask, group, severity, recording in rows:
                name = f"{split}/{index:06d}.tiff"
                (folder / name).write_bytes(header + pixels.astype("<f4", copy=False).tobytes())
                if severity > 0:
                    png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1]
                    (folder / "test" / "masks" / f"{index:06d}.png").write_bytes(png.tobytes())
                told = f",{split.replace('/', '-')}-{recording:03d}" if recordings else ""
                lines.append(f"{name},{group},{severity:.6g}{told}")
                index += 1
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
