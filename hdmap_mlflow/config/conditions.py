"""The condition files: named settings of a model, packaged or the user's own."""

from __future__ import annotations

from pathlib import Path

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.config.documents import read_json
from hdmap_mlflow.errors import BadInput, nearest, one_line, quoted
from hdmap_mlflow.files import expanded

DEFAULT_MODEL, DEFAULT_CONDITION = "patchcore", "quickstart"  # of the main job
PACKAGED_CONDITIONS = Path(__file__).parent / "json"
NAME_LENGTH = 100  # bytes; a run's folder holds the source and a date, too
PARTS: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "description": (str, "a text"),
    "config": (dict, "a mapping of settings to values"),
    "search": (dict, "a mapping of settings to ranges"),
}


# ------------------------------------------------------------------------------------- condition files
def load_conditions(path: Path) -> dict[str, Document]:
    """Conditions of a file by name: `{name: {"name", "description", "config"}}`.

    Reads the guideline's form `{"condition_1": {...}}` and the older `{"experiment_conditions": [...]}`;
    `//` comments and trailing commas are accepted (JSON5). Raises BadInput for anything else.
    """
    path = expanded(path)
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"condition file {path} does not exist; give -P conditions=FILE.json") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"condition file {path} cannot be read: {one_line(error, 500)}") from None
    entries = content
    if isinstance(content, dict):
        entries = content.get("experiment_conditions", list(content.values()))
    form = 'expected {"condition_1": {"name": ..., "description": ..., "config": {...}}}'
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"condition file {path} holds no conditions; {form}")
    conditions: dict[str, Document] = {}
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("name", "") == "" or "config" not in entry:
            raise BadInput(f"condition file {path}: a condition lacks its name or its config; {form}")
        for key, (kind, what) in PARTS.items():
            if not isinstance(entry.get(key, kind()), kind):
                lacks = "a condition lacks its name or its config: " if key in ("name", "config") else ""
                raise BadInput(f"condition file {path}: {lacks}{key} {quoted(entry[key])} is not {what}; {form}")
        if problem := name_problem(entry["name"]):
            raise BadInput(f"condition file {path}: the name {quoted(entry['name'])} {problem}; rename it")
        unknown = set(entry) - set(PARTS)
        if unknown:
            raise BadInput(f"condition file {path}: unknown key '{unknown.pop()}' beside {', '.join(PARTS)}")
        if entry["name"] in conditions:
            raise BadInput(f"condition file {path}: two conditions are named '{entry['name']}'; rename one")
        conditions[entry["name"]] = entry
    return conditions


def name_problem(name: str) -> str | None:
    """Why a name cannot be part of a folder's and of a run's, or None."""
    if not name.strip(". "):
        return "is empty"
    if name[0] == "." or not name.isprintable() or set(name) & set("/\\"):
        return "begins with a dot, or holds a slash or a control character"
    return f"is longer than {NAME_LENGTH} characters" if len(name.encode()) > NAME_LENGTH else None


def packaged_conditions(model: str) -> dict[str, Document]:
    """The conditions that come with a model, by name without the model's prefix; none for a class of the user's own."""
    file = PACKAGED_CONDITIONS / f"{model}.json"
    found = load_conditions(file) if file.exists() else {}
    return {name.removeprefix(f"{model}_"): condition for name, condition in found.items()}


def find_condition(model: str, name: str, path: Path | None = None) -> Document:
    """One condition of a model's file; in the packaged files `quickstart` stands for `<model>_quickstart`."""
    file = path or PACKAGED_CONDITIONS / f"{model}.json"
    if path is None and not file.exists():
        raise BadInput(f"model '{model}' has no packaged conditions; give -P conditions=FILE.json")
    conditions = load_conditions(file)
    for candidate in (name, f"{model}_{name}"):
        if candidate in conditions:
            return conditions[candidate]
    known = [key.removeprefix(f"{model}_") for key in conditions]
    raise BadInput(f"unknown condition '{name}' in {file.name}{nearest(name, known)}; known: {', '.join(known)}")
