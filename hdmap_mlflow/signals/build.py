"""A spec and its records to a data root of HDMAP-style maps, whole or not at all; what was killed goes on."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdmap_mlflow import __version__, interrupt
from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config.spec import load_spec
from hdmap_mlflow.data.built import BUILT
from hdmap_mlflow.data.formats import read_map, tiff_header
from hdmap_mlflow.data.metadata import METADATA
from hdmap_mlflow.data.simulate import MARKER
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import cache_dir, kept_folder, new_folder, remove, to_json, why, write_whole
from hdmap_mlflow.signals.align import shifts
from hdmap_mlflow.signals.average import Sums, average
from hdmap_mlflow.signals.maps import make
from hdmap_mlflow.signals.plan import Recording, plan
from hdmap_mlflow.signals.spec import EXAMPLE, Spec

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SIGNALS = ".signals"  # of the first map of each recording and domain, for those who draw it
RAW = ".raw"  # maps and signals as they are, until those of all recordings can be aligned
DONE = ".done"  # what each recording gave, until all are there


def build_maps(spec_path: Path, source: Path, out: Path) -> dict[str, int]:
    """Write `<out>/<domain>/<role>/<recording>-<map>.tiff`, both numbered; returns how many maps each domain has.

    Maps are float32, in the unit of the record. `<domain>/metadata.csv` says of each map: recording, group, severity,
    `start_s` in its file, `speed_hz` and `ripple` of the reference shaft, `averages`, `closure` of its recording in
    meshes and `split_half`, the correlation of the differences of its odd and even periods; of aligned maps also
    `moved_rows` and `alignment`, the correlation with the healthy pattern. `BUILT.json` has the spec,
    versions, and the raw files with their SHA-256; `.signals/<domain>/<recording>.npz` of a recording's first map
    `average` and `difference` (period, samples), `halves` (2, rows, columns) and `mesh`, the number of its first mesh.
    A source that says SIMULATED gives maps that say it. BadInput: spec, files, what cannot be mapped, or `out`.
    """
    spec, out = load_spec(spec_path, Spec, EXAMPLE), out.resolve()
    recordings = plan(spec, source)
    key = _key(spec, recordings)
    try:
        with _alone(out, key), new_folder(out, key) as folder:
            with interrupt.explained(f"what is built is kept; to go on: {interrupt.command()}"):
                done = list(_all(recordings, spec, folder))
            _finish(done, spec, spec_path, source, folder)
    except OSError as error:
        raise BadInput(f"cannot write {out} ({why(error)}); name a folder on a disk with room") from error
    return dict(Counter(row["domain"] for one in done for row in one["maps"]))


def demo() -> Path:
    """The spec of a small SIMULATED rig: made on first use, in the user's cache. BadInput where that cannot be."""
    from hdmap_mlflow.signals.simulate import SPEC, simulate_vibration

    small = partial(simulate_vibration, train=2, test=2, maps=2, averages=1, severities=(0.6,))
    return kept_folder(cache_dir() / f"demo-vibration-{__version__}", small) / SPEC


def _key(spec: Spec, recordings: list[Recording]) -> str:
    """What an interrupted build must have in common with the one that goes on with it."""
    states = [(str(one.path), (state := one.path.stat()).st_size, state.st_mtime_ns) for one in recordings]
    return f"build-{hashlib.sha256(f'{__version__}{spec.model_dump_json()}{states}'.encode()).hexdigest()[:16]}"


@contextmanager
def _alone(out: Path, key: str) -> Iterator[None]:
    """One process builds a folder; what others left that will not go on with it is removed."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(f"another process builds {out}; wait for it, or give --out another folder") from None
    try:
        for part in out.parent.glob(f".{glob.escape(out.name)}.build-*.part"):
            if part.name != f".{out.name}.{key}.part":
                remove(part)
        yield
    finally:
        with suppress(OSError):  # Windows keeps what is open
            os.unlink(lock.lock_file)  # before it is free: nobody else's is removed
        lock.release()


def _all(recordings: list[Recording], spec: Spec, folder: Path) -> Iterator[Document]:
    """What each recording gave, under a bar; one that was done before an interrupt is not done again."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(recordings))
        for i, one in enumerate(recordings):
            bar.update(task, completed=i, description=f"{one.path.name} ({i + 1} of {len(recordings)})")
            kept = folder / DONE / f"{one.number:04d}.json"
            if not kept.is_file():
                write_whole(kept, to_json(_built(one, spec, folder, partial(_move, bar, task, i))))
            yield json.loads(kept.read_bytes())


def _move(bar: Progress, task: TaskID, before: int, share: float) -> None:
    bar.update(task, completed=before + share)


def _built(one: Recording, spec: Spec, folder: Path, passed: Callable[[float], None]) -> Document:
    """Write the maps of a recording; returns what metadata.csv and BUILT.json say of it."""
    domains, rows = list(one.record.signals), list[Document]()
    place = folder / RAW if spec.align == "rows" else folder
    header = tiff_header(spec.gears.rows, spec.gears.columns)

    def take(sums: Sums) -> None:
        for i, domain in enumerate(domains):
            made = make(sums.mesh, sums.sums[..., i], spec.averages, one.record.first, spec)
            path = f"{one.record.role}/{one.number:04d}-{sums.number:04d}.tiff"
            (place / domain / path).parent.mkdir(parents=True, exist_ok=True)
            (place / domain / path).write_bytes(header + made.pixels.astype("<f4").tobytes())
            rows.append({"domain": domain, "path": path, "group": one.record.group, "severity": one.record.severity})
            rows[-1] |= {"recording": one.name, "start_s": sums.start, "speed_hz": sums.speed, "ripple": sums.ripple}
            rows[-1] |= {"averages": spec.averages, "split_half": made.split_half}
            if sums.number == 0:
                file = place / SIGNALS / domain / f"{one.number:04d}.npz"
                file.parent.mkdir(parents=True, exist_ok=True)
                np.savez(file, mesh=sums.mesh, average=made.average, difference=made.difference, halves=made.halves)

    recorded = average(one, spec, folder, take, passed)
    with one.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"file": str(one.path), "bytes": one.path.stat().st_size, "sha256": digest, "recording": one.name}
    about |= {"number": one.number, "role": one.record.role, "domains": domains} | asdict(recorded)
    return {"about": about, "maps": [row | {"closure": recorded.closure} for row in rows]}


def _aligned(rows: pd.DataFrame, folder: Path, domain: str) -> pd.DataFrame:
    """Write the aligned maps and signals of a domain; the rows with `moved_rows` and `alignment`.

    What is aligned is a file of its own each: those of one recording may begin at different teeth.
    """
    files = rows["recording"] + " (maps " + rows["path"].str.extract(r"(\d+)-\d+\.tiff$")[0] + ")"
    raw, out = folder / RAW, folder / domain
    means = {
        str(name): np.mean([read_map(raw / domain / path) for path in paths], axis=0)
        for name, paths in rows["path"].groupby(files, sort=False)
    }
    found = shifts(means, set(files[rows["path"].str.startswith("train/good/")]), domain)
    for path, name in zip(rows["path"], files, strict=True):
        moved = np.roll(read_map(raw / domain / path), found[name].rows, axis=0)
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(tiff_header(*moved.shape) + moved.astype("<f4").tobytes())
    for first, path in rows["path"].groupby(files).first().items():
        kept = Path(SIGNALS) / domain / f"{Path(path).name.partition('-')[0]}.npz"
        with np.load(raw / kept) as signals:
            halves = signals["halves"]  # none, of a single period
            moved = np.roll(halves, found[str(first)].rows, axis=1) if halves.size else halves
            (folder / kept).parent.mkdir(parents=True, exist_ok=True)
            np.savez(folder / kept, **{**signals, "halves": moved})
    shift = [found[name] for name in files]
    return rows.assign(moved_rows=[one.rows for one in shift], alignment=[one.correlation for one in shift])


def _finish(done: list[Document], spec: Spec, spec_path: Path, source: Path, folder: Path) -> None:
    """Align the maps, and write what is known of them and of their making, once they are all there."""
    table = pd.DataFrame([row for one in done for row in one["maps"]])
    if spec.align == "rows":
        table = pd.concat([_aligned(rows, folder, str(domain)) for domain, rows in table.groupby("domain")])
        remove(folder / RAW)
    for domain, rows in table.groupby("domain"):
        rows.drop(columns="domain").to_csv(folder / str(domain) / METADATA, index=False, float_format="%.6g")
    facts = {
        "maps": "HDMAP-style: built from vibration, by a pixel law of our own",
        "versions": {"hdmap_mlflow": __version__} | {name: version(name) for name in ("numpy", "scipy")},
        "spec_file": str(spec_path),
        "source": str(source.resolve()),
        "spec": spec.model_dump(mode="json"),
        "recordings": [one["about"] for one in done],
    }
    (folder / BUILT).write_text(to_json(facts) + "\n", encoding="utf-8")
    if (source / MARKER).is_file():
        shutil.copyfile(source / MARKER, folder / MARKER)
    remove(folder / DONE)
