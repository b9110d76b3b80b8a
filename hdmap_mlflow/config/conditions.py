"""The condition files: named settings of a model, packaged or the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hdmap_mlflow.errors import BadInput, nearest, one_line

DEFAULT_MODEL, DEFAULT_CONDITION = "patchcore", "quickstart"  # of the main job
PACKAGED_CONDITIONS = Path(__file__).parent / "json"


# ------------------------------------------------------------------------------------- condition files
def load_conditions(path: Path) -> dict[str, dict[str, Any]]:
    """Conditions of a file by name: `{name: {"name", "description", "config"}}`.

    Reads the guideline's form `{"condition_1": {...}}` and the older `{"experiment_conditions": [...]}`;
    `//` comments and trailing commas are accepted (JSON5). Raises BadInput for anything else.
    """
    try:
        content = _read_json(path.read_text(encoding="utf-8"))
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
    conditions: dict[str, dict[str, Any]] = {}
    for entry in entries:
        named = isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"]
        if not named or not isinstance(entry.get("config"), dict):
            raise BadInput(f"condition file {path}: a condition lacks its name or its config; {form}")
        unknown = set(entry) - {"name", "description", "config", "search"}
        if unknown:
            raise BadInput(f"condition file {path}: unknown key '{unknown.pop()}' beside name, description, config")
        if entry["name"] in conditions:
            raise BadInput(f"condition file {path}: two conditions are named '{entry['name']}'; rename one")
        conditions[entry["name"]] = entry
    return conditions


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # json5 reads all of JSON, too, but takes a thousand times as long
        import json5

        return json5.loads(text)


def packaged_conditions(model: str) -> dict[str, dict[str, Any]]:
    """The conditions that come with a model, by name without the model's prefix; none for a class of the user's own."""
    file = PACKAGED_CONDITIONS / f"{model}.json"
    found = load_conditions(file) if file.exists() else {}
    return {name.removeprefix(f"{model}_"): condition for name, condition in found.items()}


def find_condition(model: str, name: str, path: Path | None = None) -> dict[str, Any]:
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
