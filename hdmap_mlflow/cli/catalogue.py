"""The registry as tables: all models, or one with its conditions, settings and search space."""

from __future__ import annotations

from collections import defaultdict

from hdmap_mlflow.config import packaged_conditions
from hdmap_mlflow.console import show_table
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.registry import REGISTRY, find_model
from hdmap_mlflow.runs import setup


def show_models() -> None:
    """One row per model, and why some quickstarts have random weights; quick, because no model is imported."""
    rows, reasons = [], defaultdict(list)
    for model, entry in REGISTRY.items():
        if entry.random_why:
            reasons[entry.random_why].append(model)
        weights = "hub" if entry.needs.online else entry.weights.describe() if entry.weights else "none"
        names = list(packaged_conditions(model))
        conditions = ", ".join(names[:2]) + (f", {len(names) - 2} more" if len(names) > 2 else "")
        does = ["yes" if answer else "no" for answer in (entry.trains, entry.onnx)]
        rows.append([model, *does, weights, entry.needs.describe(), conditions, entry.paper])
    columns = ["model", "trains", "onnx", "weights", "needs", "conditions", "paper"]
    show_table("models", columns, rows, left=len(columns))
    print("\n".join(f"random weights in the quickstart of {', '.join(of)}: {why}" for why, of in reasons.items()))


def show_model(model: str) -> None:
    """Everything about one model: class, paper, needs, conditions, and each setting as published and as searched."""
    entry, conditions = find_model(model), packaged_conditions(model)
    why = entry.random_why and f"random weights in the quickstart: {entry.random_why}"
    print("\n".join(filter(None, [f"{model}: {entry.path}", entry.paper, f"needs: {entry.needs.describe()}", why])))
    show_table("conditions", ["name", "description"], [[c, conditions[c]["description"]] for c in conditions], left=2)
    flat = setup.configure(model, "baseline").flat()
    own = [key for key in flat if key.startswith("model.")]
    keys = own + [key for key in entry.space if key not in own]
    searched = {key: one.describe() for key, one in entry.space.items()}
    show_table(
        "settings",
        ["setting", "published", "searched"],
        [[key, flat[key], searched.get(key, "")] for key in keys],
        left=3,
    )


def show_registered(uri: str | None, name: str | None) -> None:
    """One row per registered version: what it knows, and the run that it is of."""
    from hdmap_mlflow import tracking

    rows = [row for row in tracking.model.registered(tracking.absolute_uri(uri)) if name in (None, row["name"])]
    if not rows:
        raise BadInput(
            f"{name or 'nothing'} is not registered; `hdmap promote RUN --name NAME` registers a run's model"
        )
    columns = ("name", "version", "alias", "model", "source", "validation", "data_digest", "run")
    show_table("registered models", columns, [[row[column] for column in columns] for row in rows], left=len(columns))
