"""The domains of a data root (see `folder`): choose them, read them, check them, and digest their content."""

from __future__ import annotations

import hashlib
import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.data import packed as store
from hdmap_mlflow.data.folder import ROLES, Listing, find_domains, look, printable
from hdmap_mlflow.data.formats import READERS, as_float, check_values, read_map, read_mask, read_stored
from hdmap_mlflow.data.formats import digest as content_digest
from hdmap_mlflow.data.metadata import About, read_metadata
from hdmap_mlflow.errors import BadInput, NoSpace, nearest
from hdmap_mlflow.names import domain_flaw, sources_of


@dataclass(frozen=True)
class Domain:
    """One domain that was read and found whole.

    `table` has one row per map, ordered by content: `path` (relative to the domain, posix), `split` (train, test),
    `label` (0 good, 1 fault), `group`, `severity` (NaN where unknown), `recording` and `mask` (its relative path; ""
    where there is none), `height`, `width`, `dtype`, `minimum`, `mean`, `maximum`, `pixels` (their digest) and `digest`
    (of the pixels and of the mask). `packed` holds the maps, a map at its `row`, where they were packed.
    """

    root: Path
    name: str
    table: pd.DataFrame
    packed: store.Packed | None = None

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a map in pixels."""
        return int(self.table["height"].iloc[0]), int(self.table["width"].iloc[0])

    def read(self, rows: pd.DataFrame) -> np.ndarray:
        """The maps (n, H, W) of some rows of the table."""
        if self.packed:
            return np.stack([self.packed[row] for row in rows["row"]])
        contents = zip(rows["path"], rows["pixels"], strict=True)
        return np.stack([read_map(self.folder / path, content) for path, content in contents])

    def digest(self) -> str:
        """SHA-256 of what was read: pixels, masks, splits, labels, groups, severities, recordings; not names or times.

        Names of recordings count as they stand, and only where there are some.
        """
        named = ["recording"] if (self.table["recording"] != "").any() else []
        columns = self.table[["split", "label", "group", "severity", "digest", *named]]
        rows = sorted("|".join(map(str, row)) for row in columns.itertuples(index=False))
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def digest(domains: Sequence[Domain]) -> str:
    """Content digest of a set of domains, whichever is the source, 16 hex digits."""
    return hashlib.sha256("".join(sorted(domain.digest() for domain in domains)).encode()).hexdigest()[:16]


def find_root(root: str) -> Path:
    """The folder of a data root; `demo` is the small simulated set, made on first use in the user's cache."""
    if root == "demo":
        from hdmap_mlflow.data.simulate import demo

        return demo()
    path = Path(os.path.expanduser(root))
    if not os.path.isdir(path):
        raise BadInput(f"data root {root:.200} is not a folder; give -P data_root=FOLDER or data_root=demo")
    path = path.resolve()
    if str(path) != printable(str(path)):
        raise BadInput(f"data root {printable(str(path))} has a name that is not UTF-8; rename it")
    return path


def choose_domains(root: Path, source: str, targets: str | Sequence[str]) -> list[str]:
    """The sources and then the targets, checked against what is on disk; `auto` = all domains but the sources."""
    known, sources = find_domains(root), sources_of(source)
    chosen = [*sources, *([name for name in known if name not in sources] if targets == "auto" else targets)]
    for name in chosen:
        if name not in known:
            names = printable(", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else ""))
            raise BadInput(f"unknown domain '{name}' below {root}{nearest(name, known)}; known: {names}")
    if both := [name for name in sources if name in chosen[len(sources) :]]:
        raise BadInput(f"source domain '{both[0]}' is also among the targets; leave it out of target_domains")
    if len(set(chosen)) < len(chosen):
        raise BadInput("a domain stands twice in target_domains; name each once")
    for flaw in _flaws(root, chosen):
        raise BadInput(f"{flaw} or leave it out of target_domains")
    return chosen


def _flaws(root: Path, names: Iterable[str]) -> list[str]:
    """One line per name that metrics or files cannot bear, or that is another's where case or accents do not count."""
    out, seen = [], dict[str, str]()
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        flaw = domain_flaw(name) or (f"differs from {other} in nothing that every disk tells apart" * (other != name))
        if flaw:
            out.append(f"domain {printable(str(root / name)):.300} {flaw}; rename the folder")
    return out


# --------------------------------------------------------------------------------------- one domain
def read_domain(root: Path, name: str, pack: bool = True) -> Domain:
    """Read and check every map of a domain, or what was packed of it when it was read and checked before.

    Raises BadInput with the first problem found and how many there are.
    """
    listing = look(root / name)
    if not pack or listing.problems:
        return Domain(root, name, _whole(root, *_inspect(root, listing)))
    path = store.entry(listing.folder, listing.files)
    with store.lock(path):
        found = store.load(path)
        if found is None:
            packer = store.Packer(path, len(listing.maps))
            try:
                found = packer.finish(_whole(root, *_inspect(root, listing, packer)))
            finally:
                packer.discard()
    return Domain(root, name, *found)


def _whole(root: Path, table: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    if problems:
        more = f" (and {len(problems) - 1} more: `hdmap check-data {root}` lists them)" if len(problems) > 1 else ""
        raise BadInput(problems[0] + more)
    return table


def read_domains(
    root: Path,
    names: Sequence[str],
    pack: bool = True,
    read: Callable[[Path, str, bool], Domain] = read_domain,
    sources: int = 1,
) -> list[Domain]:
    """Read several domains, which must share one map size: a row is a planet tooth and a column a ring tooth.

    The first are the `sources`.
    """
    domains = [read(root, name, pack) for name in names]
    for i, domain in enumerate(domains[1:], 1):
        if domain.size != domains[0].size:
            (h, w), (other_h, other_w) = domains[0].size, domain.size
            raise BadInput(
                f"map sizes differ: {domains[0].name} is {h}x{w}, {domain.name} is {other_h}x{other_w}; "
                f"leave one out of {_setting(i, sources)}"
            )
    _refuse_twins(domains, sources)
    return domains


def _setting(place: int, sources: int) -> str:
    """The setting that names a domain, by its place among those of a run."""
    return "source_domain" if place < sources else "target_domains"


def _refuse_twins(domains: Sequence[Domain], sources: int) -> None:
    """No map of a source, and none of another target, may be reported as a target's: it would count twice.

    Nor may a source have a map of another source.
    """
    seen: dict[str, str] = {}
    for i, domain in enumerate(domains):
        table = domain.table if i < sources else domain.table[domain.table["split"] == "test"]
        twins = table[table["pixels"].isin(seen)]
        for path, pixels in zip(twins["path"], twins["pixels"], strict=True):
            raise BadInput(
                f"{domain.folder / path} is the same map as {seen[pixels]} ({len(twins)} such in {domain.name}); "
                f"leave {domain.name} out of {_setting(i, sources)}, or keep each map in one domain"
            )
        seen |= {pixels: f"{domain.name}/{path}" for path, pixels in zip(table["path"], table["pixels"], strict=True)}


def inspect_domain(root: Path, name: str) -> tuple[pd.DataFrame, list[str]]:
    """The table of a domain (see `Domain`) and one line per problem that keeps it from being used."""
    return _inspect(root, look(root / name))


def _inspect(root: Path, listing: Listing, packer: store.Packer | None = None) -> tuple[pd.DataFrame, list[str]]:
    """See `inspect_domain`; a packer gets the maps as they come."""
    from rich.progress import track

    folder, files, problems = listing.folder, listing.maps, list(listing.problems)
    name = folder.relative_to(root).as_posix()
    for role in ROLES:
        if role not in files.values() and role != "test/fault":
            problems.append(f"{folder / role} holds no map ({', '.join(READERS)}); add maps or leave the domain out")
    paths = {path: path.relative_to(folder).as_posix() for path in files}
    metadata, wrong = read_metadata(listing.metadata, paths.values()) if listing.metadata else ({}, [])
    problems += wrong
    rows = []
    for path, role in track(files.items(), f"reading {name}", len(files), transient=True, disable=len(files) < 5000):
        mask = listing.masks.get(path.stem) if role == "test/fault" else None
        try:
            rows.append(_row(path, mask, packer) | {"path": paths[path], "role": role})
        except NoSpace:
            raise
        except BadInput as problem:
            problems.append(str(problem))
            continue
        rows[-1] |= {
            **metadata.get(paths[path], About())._asdict(),
            "mask": mask.relative_to(folder).as_posix() if mask else "",
        }
    table = pd.DataFrame(rows)
    if table.empty:
        return table, problems
    table["split"] = table["role"].map(lambda role: ROLES[role][0])
    table["label"] = table["role"].map(lambda role: ROLES[role][1])
    sizes = table.groupby(["height", "width"]).size().sort_values()
    if len(sizes) > 1:
        odd = table[(table["height"] == sizes.index[0][0]) & (table["width"] == sizes.index[0][1])].iloc[0]
        known = ", ".join(f"{n} of {h}x{w}" for (h, w), n in zip(sizes.index.tolist(), sizes, strict=True))
        problems.append(f"{folder / odd['path']}: map sizes differ in {name} ({known}); a domain has one size")
    for _, twins in table[table.duplicated("pixels", keep=False)].groupby("pixels"):
        if twins["role"].nunique() > 1:
            one, other = twins.drop_duplicates("role")["path"].iloc[:2]
            problems.append(f"{folder / one} is the same map as {other}; keep it in one place")
    for recording, part in table[table["recording"] != ""].groupby("recording"):
        if part["split"].nunique() > 1:
            problems.append(
                f"{listing.metadata}: recording {recording!r} has maps in train and in test, which would be no "
                "independent test; keep a recording on one side"
            )
    # Ordered by content, so that splits and shuffles do not depend on file names.
    table = table.sort_values(["split", "label", "digest"]).drop(columns="role")
    return table.reset_index(drop=True), problems


def _row(path: Path, mask: Path | None, packer: store.Packer | None) -> dict:
    stored = read_stored(path)
    pixels = as_float(stored, path)
    check_values(path, pixels)
    marked = None
    if mask is not None:
        marked = read_mask(mask)
        if marked.shape != pixels.shape:
            raise BadInput(f"{mask} is {marked.shape}, its map {pixels.shape}; a mask has its map's size")
    return {
        **({"row": packer.put(pixels)} if packer else {}),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "dtype": str(stored.dtype),
        "minimum": float(pixels.min()),
        "mean": float(pixels.mean(dtype=np.float64)),
        "maximum": float(pixels.max()),
        "pixels": content_digest(pixels),
        "digest": content_digest(pixels, marked),
    }


# ---------------------------------------------------------------------------------------- check-data
def check(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """One row per domain and split (counts, size, minimum, mean, maximum, groups), and every problem below a root."""
    names = find_domains(root)
    rows, problems, tables = [], _flaws(root, names), {}
    for name in names:
        listing = look(root / name)
        table, found = _inspect(root, listing)
        problems += found + listing.unread
        if table.empty:
            continue
        tables[name] = table
        if not (table["label"] == 1).any():
            problems.append(f"{root / name / 'test/fault'} holds no map; AUROC is undefined for {name}")
        for role, (split, label) in ROLES.items():
            part = table[(table["split"] == split) & (table["label"] == label)]
            if part.empty:
                continue
            rows.append(
                {
                    "domain": printable(name),
                    "split": role,
                    "maps": len(part),
                    "size": _size(table),
                    "dtype": "/".join(sorted(part["dtype"].unique())),
                    "min": part["minimum"].min(),
                    "mean": part["mean"].mean(),
                    "max": part["maximum"].max(),
                    "masks": int((part["mask"] != "").sum()),
                    "groups": _groups(part["group"]),
                }
            )
    return pd.DataFrame(rows), [printable(problem) for problem in problems + _across(root, tables)]


def _across(root: Path, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """One line where the domains differ in size, and one for every two that share maps."""
    sizes = {name: _size(table) for name, table in tables.items()}
    parts = [f"{size} in {', '.join(n for n in sizes if sizes[n] == size)}" for size in dict.fromkeys(sizes.values())]
    problems = [f"map sizes differ below {root}: {'; '.join(parts)}; a run takes one size"] if len(parts) > 1 else []
    places = {name: dict(zip(table["pixels"], table["path"], strict=True)) for name, table in tables.items()}
    for one, other in itertools.combinations(tables, 2):
        shared = sorted(places[one].keys() & places[other].keys())
        if shared:
            first, same = (root / name / places[name][shared[0]] for name in (other, one))
            problems.append(f"{first} is the same map as {same} ({len(shared)} such); keep each map in one domain")
    return problems


def _groups(names: pd.Series) -> str:
    """How many maps each group has, in words."""
    counts = names.value_counts()
    each = ", ".join(f"{count} of {name}" if name else f"{count} of no group" for name, count in counts.items())
    return each if (names != "").any() else "none"


def _size(table: pd.DataFrame) -> str:
    return f"{table['height'].iloc[0]}x{table['width'].iloc[0]}"
