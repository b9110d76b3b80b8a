"""The raw MATLAB files to the folder layout, by a spec that says which file holds which split of which domain."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from hdmap_mlflow import __version__
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config import Count, DomainName, Seed
from hdmap_mlflow.config.spec import Part, load_spec
from hdmap_mlflow.data.formats import tiff_header
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.files import new_folder, reading, to_json

EXAMPLE_SPEC = Path(__file__).with_name("kriss_share_nipa2023.yaml")
RECORD = "IMPORTED.json"
BLOCK_BYTES = 32 * 2**20  # of float64 maps held at a time
# A split's key below a domain, its key below `samples`, its folder. Train comes first: it scales all three.
SPLITS = (("train", "train", "train/good"), ("good", "test_good", "test/good"), ("fault", "test_fault", "test/fault"))

Files = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(min_length=1)]
Read = Callable[[int, int], NDArray[np.float64]]


class Samples(Part):
    """How many maps a split draws, without replacement; all of them where absent."""

    train: Count | None = None
    test_good: Count | None = None
    test_fault: Count | None = None


class DomainFiles(Part):
    """The files of one domain, each split one path or a list that is joined, and the ends of its `minmax` scale."""

    train: Files
    good: Files
    fault: Files
    user_min: FiniteFloat | None = None
    user_max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _sound(self) -> DomainFiles:
        paths = [os.path.normpath(path) for path in (*self.train, *self.good, *self.fault)]
        if twice := [path for path in paths if paths.count(path) > 1]:  # a test would hold training maps
            raise ValueError(f"{twice[0]} is listed twice; a file belongs to one split")
        if self.user_min is not None and self.user_max is not None and self.user_max <= self.user_min:
            raise ValueError(f"user_max {self.user_max:g} must be above user_min {self.user_min:g}")
        return self


class Spec(Part):
    """What to import. `zscore`: (x - mean) / sd, `minmax`: (x - min) / (max - min), of the domain's train maps.

    `recordings` says which maps are of one recording: those of a file, or so many that follow one another in a split.
    """

    variable: str = "Xdata"
    scaling: Literal["original", "zscore", "minmax"] = "original"
    seed: Seed = 0
    samples: Samples = Samples()
    recordings: Literal["files"] | Count | None = None
    domains: dict[DomainName, DomainFiles] = Field(min_length=1)


@dataclass(frozen=True)
class MatFile:
    """One file by its header: `count` maps of `height` x `width`; `hdf5` says MATLAB 7.3, else 5."""

    path: Path
    variable: str
    height: int
    width: int
    count: int
    hdf5: bool


Plan = dict[str, tuple[list[MatFile], NDArray[np.int64]]]


def import_mat(spec_path: Path, source: Path, out: Path) -> dict[str, dict[str, int]]:
    """Write `<out>/<domain>/{train/good,test/good,test/fault}/000000.tiff`; returns maps written, domain -> split.

    In: `Xdata` of H x W x 1 x N (H x W where N = 1), MATLAB 5 or 7.3; `source` is what the spec's paths start from.
    Out: float32, one channel, never clipped; a map's number is its place in the raw split, so that a sample keeps what
    the place means (cold, warm). `metadata.csv` names the recordings, where the spec says what they are.
    Statistics are of *all* train maps, drawn or not, in float64, sd with ddof 0.
    MATLAB 7.3 streams in blocks, a second time if statistics are needed; a MATLAB 5 variable is loaded once.
    `out` appears whole, with its record IMPORTED.json, or not at all. BadInput: spec, file, values, counts or `out`.
    """
    spec = load_spec(spec_path, Spec, EXAMPLE_SPEC)
    if not source.is_dir():
        raise BadInput(f"source folder {source} does not exist; give the folder that the spec's paths start from")
    out = out.resolve()
    try:
        with new_folder(out) as partial:
            plans = {name: _plan(spec, name, source) for name in spec.domains}
            domains = _convert(spec, plans, partial)
            record = {
                "package_version": __version__,
                "spec_file": str(spec_path),
                "source": str(source.resolve()),
                "spec": spec.model_dump(mode="json"),
                "domains": domains,
            }
            (partial / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out} ({one_line(error)}); name a folder on a disk with room") from error
    return {name: domain["written"] for name, domain in domains.items()}


def _plan(spec: Spec, name: str, source: Path) -> Plan:
    """Files and sorted places to take of each split, from headers alone: a wrong spec fails in seconds."""
    plan: Plan = {}
    for key, samples_key, folder in SPLITS:
        paths = [source / path for path in getattr(spec.domains[name], key)]
        if missing := [path for path in paths if not path.is_file()]:
            raise BadInput(f"{name}.{key}: no file {missing[0]}; the spec's paths start from the folder {source}")
        files = [_header(path, spec.variable) for path in paths]
        whole = plan["train/good"][0][0] if plan else files[0]
        for file in files:
            if (file.height, file.width) != (whole.height, whole.width):
                raise BadInput(
                    f"{name}.{key}: maps of {file.path} are {file.height} x {file.width}, of {whole.path} "
                    f"{whole.height} x {whole.width}; a domain has one size"
                )
        present, wanted = sum(file.count for file in files), getattr(spec.samples, samples_key)
        if wanted is not None and wanted > present:
            raise BadInput(f"samples.{samples_key}: {wanted} asked of {name}, which has {present}; ask for fewer")
        # A stream a split: another domain in the spec does not redraw this one.
        rng = np.random.default_rng([spec.seed, crc32(f"{name}/{folder}".encode())])
        drawn = np.arange(present) if wanted is None else np.sort(rng.choice(present, wanted, replace=False))
        plan[folder] = files, drawn
    return plan


def _convert(spec: Spec, plans: dict[str, Plan], root: Path) -> dict[str, Document]:
    """Write every map below `root`; returns each domain's record: scaling, counts, files."""
    from rich.console import Console
    from rich.progress import Progress

    record: dict[str, Document] = {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for name, plan in plans.items():
            record[name] = {"scaling": {}, "written": {}, "files": {}}
            rows = ["path,recording"]
            for folder, (files, chosen) in plan.items():
                (root / name / folder).mkdir(parents=True)
                header = tiff_header(files[0].height, files[0].width)
                bar = progress.add_task(f"{name} {folder}", total=len(chosen))
                with ExitStack() as stack:  # open together, so that statistics and maps come from one load
                    readers = [(file, stack.enter_context(_reader(file))) for file in files]
                    scale = record[name]["scaling"] = record[name]["scaling"] or _scale(spec, name, readers)
                    for places, maps in _blocks(readers, chosen):
                        scaled = ((maps - scale["offset"]) / scale["span"]).astype("<f4")
                        for place, pixels in zip(places, scaled, strict=True):
                            path = f"{folder}/{place:06d}.tiff"
                            (root / name / path).write_bytes(header + pixels.tobytes())
                            rows.append(f"{path},{_recording(spec, folder, files, int(place))}")
                        progress.advance(bar, len(places))
                record[name]["written"][folder] = len(chosen)
                record[name]["files"][folder] = [
                    {
                        "path": str(f.path),
                        "bytes": f.path.stat().st_size,
                        "maps": f.count,
                        "height": f.height,
                        "width": f.width,
                        "matlab": "7.3" if f.hdf5 else "5",
                    }
                    for f in files
                ]
            if spec.recordings:
                (root / name / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return record


def _recording(spec: Spec, folder: str, files: list[MatFile], place: int) -> str:
    """The recording of the map in a place of a split: a number within the split, which names of files may not be."""
    if isinstance(spec.recordings, int):
        number = place // spec.recordings
    else:
        number = int(np.searchsorted(np.cumsum([file.count for file in files]), place, side="right"))
    return f"{folder.replace('/', '-')}-{number:03d}"


def _scale(spec: Spec, name: str, train: list[tuple[MatFile, Read]]) -> Document:
    """`offset` and `span` of (x - offset) / span, and the train statistics where they were needed."""
    low, high = spec.domains[name].user_min, spec.domains[name].user_max
    if spec.scaling == "original":
        return {"method": spec.scaling, "offset": 0.0, "span": 1.0}
    if spec.scaling == "minmax" and low is not None and high is not None:
        return {"method": spec.scaling, "offset": low, "span": high - low}
    of = _statistics(train)
    low, high = of["min"] if low is None else low, of["max"] if high is None else high
    offset, span = (of["mean"], of["sd"]) if spec.scaling == "zscore" else (low, high - low)
    if not span > 0:
        raise BadInput(
            f"{name}: {spec.scaling} would divide by {span:g}, train maps are {of['min']:g} to {of['max']:g}"
            "; correct user_min and user_max or use scaling: original"
        )
    return {"method": spec.scaling, "offset": offset, "span": span, "train": of}


def _statistics(train: list[tuple[MatFile, Read]]) -> dict[str, float]:
    """Mean, sd (ddof 0), minimum and maximum of every pixel in one pass: the pairwise update of Chan et al. (1983)."""
    n, mean, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for _, maps in _blocks(train, np.arange(sum(file.count for file, _ in train))):
        k, here = maps.size, float(maps.mean())
        squares += float(np.square(maps - here).sum()) + (here - mean) ** 2 * n * k / (n + k)
        mean, n = mean + (here - mean) * k / (n + k), n + k
        low, high = min(low, float(maps.min())), max(high, float(maps.max()))
    return {"mean": mean, "sd": math.sqrt(squares / n), "min": low, "max": high, "pixels": n}


# --------------------------------------------------------------------------------------- the MATLAB files
def _blocks(files: list[tuple[MatFile, Read]], chosen: NDArray[np.int64]) -> Iterator[tuple[NDArray, NDArray]]:
    """Places in the joined files, (n,), and their maps, (n, H, W) float64; BadInput names a map that is not finite."""
    start = 0
    for file, read in files:
        step = max(1, BLOCK_BYTES // (8 * file.height * file.width))
        for first in range(start, start + file.count, step):
            places = chosen[(chosen >= first) & (chosen < min(first + step, start + file.count))]
            if len(places):
                maps = read(places[0] - start, places[-1] + 1 - start)[places - places[0]]
                wrong = places[~(np.abs(maps) <= np.finfo(np.float32).max).all(axis=(1, 2))]
                if len(wrong):
                    raise BadInput(
                        f"{file.path}: map {wrong[0] - start} (the first is 0) of {file.variable} holds "
                        "NaN, infinity or a value beyond float32; repair or drop it in MATLAB"
                    )
                yield places, maps
        start += file.count


def _header(path: Path, variable: str) -> MatFile:
    """Format and shape, without the data. BadInput: no MATLAB file, no such variable, or not H x W x 1 x N numbers."""
    import h5py
    from scipy.io import whosmat

    with _reading(path):
        if hdf5 := h5py.is_hdf5(path):
            with h5py.File(path) as file:
                found = {name: _hdf5_kind(file[name]) for name in file if not name.startswith("#")}  # "#refs#"
        else:
            found = {name: (shape, kind) for name, shape, kind in whosmat(path, appendmat=False)}
    if variable not in found:
        raise BadInput(f"{path} has no variable '{variable}', it has: {', '.join(found) or 'none'}; set `variable`")
    shape, kind = found[variable]
    height, width, one, count = (*shape, 1, 1)[:4] if 2 <= len(shape) <= 4 else (0, 0, 0, 0)  # MATLAB drops last ones
    if one != 1 or 0 in (height, width, count) or not kind.startswith(("double", "single", "int", "uint")):
        raise BadInput(
            f"{path}: {variable} is {kind} of {' x '.join(map(str, shape))}, not numbers of H x W x 1 x N; "
            "reshape it in MATLAB"
        )
    return MatFile(path, variable, height, width, count, hdf5)


def _hdf5_kind(item: Any) -> tuple[tuple[int, ...], str]:
    """Shape and class as MATLAB has them: HDF5 holds the axes reversed, and an empty array as one axis, its shape."""
    kind, said = getattr(item, "dtype", np.dtype("V")).kind, item.attrs.get("MATLAB_class", b"")
    held = {"f": "double", "i": "int", "u": "uint"}.get(kind, "no plain array")
    # Letters and truth values are held as numbers, and said to be none beside.
    return getattr(item, "shape", ())[::-1], said.decode() if said in (b"char", b"logical") else held


@contextmanager
def _reader(file: MatFile) -> Iterator[Read]:
    """Open a file: yields read(first, end) -> maps, (end - first, H, W) float64; leaving frees its memory."""
    with ExitStack() as stack:
        with _reading(file.path):
            if file.hdf5:
                import h5py

                # A compressed chunk may span many maps; with a block's cache it is unpacked once.
                data = stack.enter_context(h5py.File(file.path, rdcc_nbytes=2 * BLOCK_BYTES))[file.variable]
            else:
                from scipy.io import loadmat

                data = loadmat(file.path, variable_names=[file.variable], appendmat=False)[file.variable]
                data = data.reshape(file.height, file.width, file.count).transpose(2, 1, 0)  # as HDF5 has it: a view
            if data.dtype.kind not in "fiu":
                raise BadInput(f"{file.path}: {file.variable} is {data.dtype}, not real numbers; take abs() in MATLAB")

        def read(first: int, end: int) -> NDArray[np.float64]:
            with _reading(file.path):
                block = data[first:end] if file.count > 1 else data[...]
                return np.asarray(block, np.float64).reshape(end - first, file.width, file.height).swapaxes(1, 2)

        yield read


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, " as MATLAB 5 or 7.3", "save it in MATLAB with -v7.3, which streams")
