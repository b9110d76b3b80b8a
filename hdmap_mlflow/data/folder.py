"""The files of a domain: its maps, their masks and what is told of them, and whatever else lies beside and is not read.

<root>/<domain>/{train/good,test/good,test/fault}/*      of a suffix in `formats.READERS`
<root>/<domain>/test/masks/<stem of the fault map>.*      optional
<root>/<domain>/metadata.csv                              optional: path,group,severity,recording
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hdmap_mlflow.data.formats import READERS, is_map
from hdmap_mlflow.errors import BadInput

ROLES = {"train/good": ("train", 0), "test/good": ("test", 0), "test/fault": ("test", 1)}
PARTS = {"train": ("good",), "test": ("good", "fault", "masks")}


@dataclass
class Listing:
    """What lies in a domain's folder.

    `maps` has the role of every map, in the order of the roles and of the names; `masks` the mask of a stem of
    `test/fault`. `problems` are lines on what keeps the domain from being used, `unread` on what no run reads.
    """

    folder: Path
    maps: dict[Path, str] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    metadata: Path | None = None
    problems: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """Everything that is read."""
        return [*self.maps, *self.masks.values(), *([self.metadata] if self.metadata else [])]


def find_domains(root: Path) -> list[str]:
    """Names of the domains below a root, sorted: the folders that hold a `train` or a `test` folder.

    Hidden folders, `__MACOSX` and the like, and folders of checkpoints are none.
    """
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise BadInput(f"data root {root} cannot be read ({error.strerror}); change its permissions") from None
    passed = [name for name in names if not name.startswith((".", "__")) and not name.endswith("checkpoints")]
    domains = [name for name in passed if any(os.path.isdir(root / name / part) for part in PARTS)]
    if not domains:
        up = f"; it is a domain itself, perhaps: give {root.parent}" if set(PARTS) & set(passed) else ""
        raise BadInput(f"no domain below {root}; expected <root>/<domain>/{{{','.join(ROLES)}}}/*.tiff{up}")
    return domains


def look(folder: Path) -> Listing:
    """List a domain's folder, without opening a file of it."""
    found = Listing(folder)
    for role in ROLES:
        found.maps |= dict.fromkeys(_maps(folder / role, found), role)
    stems = Counter(path.stem for path, role in found.maps.items() if role == "test/fault")
    for path in _maps(folder / "test/masks", found):
        if not stems[path.stem]:
            found.unread.append(f"{path} is the mask of no map in test/fault; give it the name of its map or remove it")
        elif stems[path.stem] > 1:
            found.problems.append(f"{path} may be the mask of {stems[path.stem]} maps; give each map a name of its own")
        elif path.stem in found.masks:
            other = found.masks[path.stem].name
            found.problems.append(f"{path} and {other} are masks of the same map; keep the right one")
        found.masks.setdefault(path.stem, path)
    found.masks = {stem: path for stem, path in found.masks.items() if stems[stem]}
    if os.path.lexists(folder / "metadata.csv"):
        found.metadata = next(iter(_regular([folder / "metadata.csv"], found.problems)), None)
    _look_beside(found)
    return found


def _maps(folder: Path, found: Listing) -> Iterable[Path]:
    """The maps or masks of a folder by their names; others and what is wrong are told to the listing."""
    entries = _entries(folder, found.problems)
    others = [path.name for path in entries if not is_map(path)]
    if others:
        found.unread.append(
            f"{folder} holds {_some(others)}, which no run reads; maps are {', '.join(READERS)}: convert or remove it"
        )
    return _regular([path for path in entries if is_map(path)], found.problems)


def _look_beside(found: Listing) -> None:
    """Folders and files that are nobody's, in the domain's folder and in its `train` and `test`."""
    for part, expected in PARTS.items():
        others = [path.name for path in _entries(found.folder / part, []) if path.name not in expected]
        if others:
            found.unread.append(
                f"{found.folder / part} holds {_some(others)}, which no run reads; it may hold {', '.join(expected)}"
            )
    entries = [path for path in _entries(found.folder, found.problems) if path.name not in (*PARTS, "metadata.csv")]
    others = [path.name for path in entries if is_map(path) or path.suffix.lower() == ".csv" or path.is_dir()]
    if others:
        found.unread.append(
            f"{found.folder} holds {_some(others)}, which no run reads; it may hold {', '.join(PARTS)}, metadata.csv"
        )


def _entries(folder: Path, problems: list[str]) -> list[Path]:
    """What a folder holds, by name, but for hidden files; nothing where there is none."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{folder} cannot be read ({error.strerror}); make it a folder that you may read")
        return []
    spoilt = [name for name in names if name != printable(name)]
    problems += [f"{folder / printable(name)} has a name that is not UTF-8; rename it" for name in spoilt]
    return [folder / name for name in names if name == printable(name)]


def _regular(paths: Iterable[Path], problems: list[str]) -> Iterable[Path]:
    """The files among the paths: one that waits for a writer, or a link to nothing, would stop a run half-way."""
    for path in paths:
        try:
            reason = "" if stat.S_ISREG(path.stat().st_mode) else "it is no file"
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            problems.append(f"{path} cannot be read ({reason}); replace or remove it")
        else:
            yield path


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def printable(name: str) -> str:
    """A name for a console and a record: bytes that are not UTF-8 as `\\udcff`."""
    return name.encode(errors="backslashreplace").decode()
