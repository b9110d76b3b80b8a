"""The maps on disk: find them, read them, check them, and digest their content.

<root>/<domain>/{train/good,test/good,test/fault}/*      of a suffix in `formats.READERS`
<root>/<domain>/test/masks/<stem of the fault map>.*      optional
<root>/<domain>/metadata.csv                              optional: path,group,severity
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hdmap_mlflow.data import packed as store
from hdmap_mlflow.data.formats import READERS, as_float, is_map, read_map, read_mask, read_stored
from hdmap_mlflow.errors import BadInput, nearest, one_line

ROLES = {"train/good": ("train", 0), "test/good": ("test", 0), "test/fault": ("test", 1)}


@dataclass(frozen=True)
class Domain:
    """One domain that was read and found whole.

    `table` has one row per map, ordered by content: `path` (relative to the domain, posix), `split` (train, test),
    `label` (0 good, 1 fault), `group`, `severity` (NaN where unknown), `mask` (relative path or ""), `height`,
    `width`, `dtype`, `minimum`, `mean`, `maximum`, `pixels` (their digest) and `digest` (of the pixels and of the
    mask). `packed` holds the maps, a map at its `row`, where they were packed.
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
        return np.stack([read_map(self.folder / path) for path in rows["path"]])

    def digest(self) -> str:
        """SHA-256 of what was read: pixels, masks, splits, labels, groups and severities; not names, not times."""
        columns = self.table[["split", "label", "group", "severity", "digest"]]
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
    path = Path(root).expanduser()
    if not path.is_dir():
        raise BadInput(f"data root {root} is not a folder; give -P data_root=FOLDER or data_root=demo")
    return path.resolve()


def find_domains(root: Path) -> list[str]:
    """Names of the domains below a root, sorted: the folders that hold a `train` or a `test` folder."""
    names = sorted(p.name for p in root.iterdir() if (p / "train").is_dir() or (p / "test").is_dir())
    if not names:
        raise BadInput(f"no domain below {root}; expected <root>/<domain>/{{{','.join(ROLES)}}}/*.tiff")
    return names


def choose_domains(root: Path, source: str, targets: str | Sequence[str]) -> list[str]:
    """The source and then the targets, checked against what is on disk; `auto` = all domains but the source."""
    known = find_domains(root)
    chosen = [source, *([name for name in known if name != source] if targets == "auto" else targets)]
    for name in chosen:
        if name not in known:
            raise BadInput(f"unknown domain '{name}' below {root}{nearest(name, known)}; known: {', '.join(known)}")
    if source in chosen[1:]:
        raise BadInput(f"source domain '{source}' is also among the targets; leave it out of target_domains")
    if len(set(chosen)) < len(chosen):
        raise BadInput("a domain stands twice in target_domains; name each once")
    return chosen


# --------------------------------------------------------------------------------------- one domain
def read_domain(root: Path, name: str, pack: bool = True) -> Domain:
    """Read and check every map of a domain, or what was packed of it when it was read and checked before.

    Raises BadInput with the first problem found and how many there are.
    """
    if not pack:
        return Domain(root, name, _whole(root, *inspect_domain(root, name)))
    folder = root / name
    path = store.entry(folder, [*_files(folder), *_masks(folder).values(), *folder.glob("metadata.csv")])
    with store.lock(path):
        found = store.load(path)
        if found is None:
            packer = store.Packer(path, len(_files(folder)))
            try:
                found = packer.finish(_whole(root, *inspect_domain(root, name, packer)))
            finally:
                packer.discard()
    return Domain(root, name, *found)


def _whole(root: Path, table: pd.DataFrame, problems: list[str]) -> pd.DataFrame:
    if problems:
        more = f" (and {len(problems) - 1} more: `hdmap check-data {root}` lists them)" if len(problems) > 1 else ""
        raise BadInput(problems[0] + more)
    return table


def read_domains(
    root: Path, names: Sequence[str], pack: bool = True, read: Callable[[Path, str, bool], Domain] = read_domain
) -> list[Domain]:
    """Read several domains, which must share one map size: a row is a planet tooth and a column a ring tooth."""
    domains = [read(root, name, pack) for name in names]
    for domain in domains[1:]:
        if domain.size != domains[0].size:
            (h, w), (other_h, other_w) = domains[0].size, domain.size
            raise BadInput(
                f"map sizes differ: {domains[0].name} is {h}x{w}, {domain.name} is {other_h}x{other_w}; "
                "leave one out of target_domains"
            )
    return domains


def _files(folder: Path) -> dict[Path, str]:
    """The maps of a domain and the role of each, in the order of the roles and of the names."""
    found: dict[Path, str] = {}
    for role in ROLES:
        found |= {p: role for p in sorted((folder / role).glob("*")) if is_map(p)}
    return found


def _masks(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted((folder / "test/masks").glob("*")) if is_map(p)}


def inspect_domain(root: Path, name: str, packer: store.Packer | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The table of a domain (see `Domain`) and one line per problem; a packer gets the maps as they come."""
    from rich.progress import track

    folder = root / name
    problems: list[str] = []
    files = _files(folder)
    for role in ROLES:
        if role not in files.values() and role != "test/fault":
            problems.append(f"{folder / role} holds no map ({', '.join(READERS)}); add maps or leave the domain out")
    masks = _masks(folder)
    metadata = _read_metadata(folder, problems)
    rows = []
    for path, role in track(files.items(), f"reading {name}", len(files), transient=True, disable=len(files) < 5000):
        relative = path.relative_to(folder).as_posix()
        mask = masks.get(path.stem) if role == "test/fault" else None
        try:
            rows.append(_row(path, mask, packer) | {"path": relative, "role": role})
        except BadInput as problem:
            problems.append(str(problem))
            continue
        group, severity = metadata.pop(relative, ("", float("nan")))
        rows[-1] |= {"group": group, "severity": severity, "mask": mask.relative_to(folder).as_posix() if mask else ""}
    for path_name in list(metadata)[:5]:
        if not (is_map(folder / path_name) and (folder / path_name).exists()):
            problems.append(f"{folder / 'metadata.csv'} names {path_name}, which does not exist; correct the path")
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
    # Ordered by content, so that splits and shuffles do not depend on file names.
    table = table.sort_values(["split", "label", "digest"]).drop(columns="role")
    return table.reset_index(drop=True), problems


def _row(path: Path, mask: Path | None, packer: store.Packer | None) -> dict:
    stored = read_stored(path)
    pixels = as_float(stored, path)
    if not np.isfinite(pixels).all():
        raise BadInput(f"{path} holds NaN or infinite values; replace or remove it")
    if pixels.min() == pixels.max():
        raise BadInput(f"{path} is constant ({pixels.flat[0]:g} everywhere); replace or remove it")
    content = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    of_pixels = content.hexdigest()
    if mask is not None:
        marked = read_mask(mask)
        if marked.shape != pixels.shape:
            raise BadInput(f"{mask} is {marked.shape}, its map {pixels.shape}; a mask has its map's size")
        content.update(marked.tobytes())
    return {
        **({"row": packer.put(pixels)} if packer else {}),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "dtype": str(stored.dtype),
        "minimum": float(pixels.min()),
        "mean": float(pixels.mean(dtype=np.float64)),
        "maximum": float(pixels.max()),
        "pixels": of_pixels,
        "digest": content.hexdigest(),
    }


def _read_metadata(folder: Path, problems: list[str]) -> dict[str, tuple[str, float]]:
    path = folder / "metadata.csv"
    if not path.exists():
        return {}
    try:
        table = pd.read_csv(path, dtype={"path": str, "group": str})
    except (ValueError, OSError) as error:
        problems.append(f"{path} cannot be read ({one_line(error, 120)}); expected path,group,severity")
        return {}
    unknown = set(table.columns) - {"path", "group", "severity"}
    if "path" not in table or unknown:
        problems.append(f"{path} has columns {', '.join(map(str, table.columns))}; expected path,group,severity")
        return {}
    severity = pd.to_numeric(table.get("severity", pd.Series(np.nan, table.index)), errors="coerce")
    group = table.get("group", pd.Series("", table.index)).fillna("")
    return dict(zip(table["path"], zip(group, severity.astype(float), strict=True), strict=True))


# ---------------------------------------------------------------------------------------- check-data
def check(root: Path) -> tuple[pd.DataFrame, list[str]]:
    """One row per domain and split (counts, size, minimum, mean, maximum, groups), and every problem below a root."""
    rows, problems, sizes = [], [], {}
    for name in find_domains(root):
        table, found = inspect_domain(root, name)
        problems += found
        if not table.empty:
            sizes[name] = f"{table['height'].iloc[0]}x{table['width'].iloc[0]}"
        if not table.empty and not (table["label"] == 1).any():
            problems.append(f"{root / name / 'test/fault'} holds no map; AUROC is undefined for {name}")
        for role, (split, label) in ROLES.items():
            part = table[(table["split"] == split) & (table["label"] == label)] if not table.empty else table
            if part.empty:
                continue
            rows.append(
                {
                    "domain": name,
                    "split": role,
                    "maps": len(part),
                    "size": sizes[name],
                    "dtype": "/".join(sorted(part["dtype"].unique())),
                    "min": part["minimum"].min(),
                    "mean": part["mean"].mean(),
                    "max": part["maximum"].max(),
                    "masks": int((part["mask"] != "").sum()),
                    "groups": ", ".join(f"{g or '-'} {n}" for g, n in part["group"].value_counts().items()),
                }
            )
    return pd.DataFrame(rows), problems
