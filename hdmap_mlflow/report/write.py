"""`hdmap report`: read an experiment, write the report's files, keep them in MLflow as a run of their own."""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hdmap_mlflow.console import harmless
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.report.adapted import views_of
from hdmap_mlflow.report.arrange import Grid, arrange, choose, is_oracle
from hdmap_mlflow.report.charts import charts
from hdmap_mlflow.report.citations import bibtex
from hdmap_mlflow.report.latex import latex
from hdmap_mlflow.report.page import html, markdown
from hdmap_mlflow.report.tables import Tables, long_table, tabulate
from hdmap_mlflow.runs import history
from hdmap_mlflow.runs.history import RunRecord

OPTIMISTIC = "source_test"  # validates on what it reports, so its choice is none
MAX_PICTURES = 6  # a heat map is about 70 kB; the page stays below a megabyte


def compare(uri: str, experiment: str, validation: str | None = None, data_digest: str | None = None) -> Tables:
    """The tables of an experiment's finished runs.

    `validation` and `data_digest` choose among runs of several protocols or data sets. Raises BadInput where there is
    nothing to compare, and where runs cannot be ranked together.
    """
    records, left_out = history.read_experiment(uri, experiment, kinds=("run",))  # a study's trials see no targets
    plain = [one for one in records if not is_oracle(one)]
    views, lost = views_of(choose(plain, validation, data_digest))
    grid = arrange([*plain, *views.pop(0, ())], validation, data_digest)  # without target maps: it is source only, too
    oracles = [one for one in records if is_oracle(one) and one.tag("data_digest") == grid.runs[0].tag("data_digest")]
    strategies, refused = _strategies(plain, grid)
    kept = {k: arrange(some) for k, some in views.items()}
    return tabulate(grid, [*left_out, *lost, *refused], oracles, kept, strategies)


def _strategies(records: Sequence[RunRecord], grid: Grid) -> tuple[dict[str, Grid], list[str]]:
    """The runs of other validation strategies on the same data, by name; and why those of a strategy are left out."""
    own, digest = grid.runs[0].tag("validation"), grid.runs[0].tag("data_digest")
    same = [one for one in records if one.tag("data_digest") == digest]
    out, lines = dict[str, Grid](), []
    for name in sorted({one.tag("validation") for one in same} - {own, OPTIMISTIC}):
        try:
            out[name] = arrange(same, name)
        except BadInput as problem:
            lines.append(f"agreement with {name}: {problem}")
    return out, lines


def write_report(
    uri: str, experiment: str, out: Path, validation: str | None = None, data_digest: str | None = None
) -> tuple[Path, Tables]:
    """Write `report.html`, `.md`, `.csv`, `.tex`, `.bib` to a folder and log them; returns the page's path, the tables.

    Raises BadInput as `compare` does, and for a folder that cannot be written.
    """
    from hdmap_mlflow import tracking

    tables = compare(uri, experiment, validation, data_digest)
    grid = tables.grid
    text = markdown(tables)
    made, address = datetime.now().strftime("%Y-%m-%d %H:%M"), tracking.run_pages(uri, experiment)
    files = {
        "report.html": html(tables, charts(tables), _pictures(uri, grid), made, address),
        "report.md": text,
        "report.tex": latex(tables),
        "report.bib": bibtex(tables) + "\n",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_text(content, encoding="utf-8")
        long_table(grid, tables.views).map(harmless).to_csv(out / "report.csv", index=False)
    except OSError as error:
        raise BadInput(f"cannot write the report to {out} ({error.strerror}); give --out another folder") from None
    tags = {
        Tag.KIND: "report",
        Tag.VALIDATION: tables.validation,
        Tag.DATA_DIGEST: tables.data_digest,
        Tag.SIMULATED: str(tables.simulated).lower(),
    }
    with tracking.start(uri, experiment, "report", tags) as record:
        record.note(text)
        for name in (*files, "report.csv"):
            record.artifact(out / name)
    return out / "report.html", tables


def _pictures(uri: str, grid: Grid) -> dict[str, str]:
    """Caption -> base64 PNG: a fault map of a target, the same for each entry that has a picture of it."""
    from hdmap_mlflow import tracking

    kept: dict[str, dict[str, Path]] = {}  # label -> map -> its picture, the most anomalous first
    entries = {entry.label: entry for entry in (grid.complete or grid.entries)[:MAX_PICTURES]}
    for label, entry in entries.items():
        run = entry.runs[grid.common[0]] if grid.common else entry.first
        with contextlib.suppress(BadInput):  # made without pictures
            folder = tracking.artifacts(uri, run.run_id, Artifact.HEATMAPS)
            paths = [path for domain in run.targets for path in sorted((folder / domain).glob("fault/*.png"))]
            paths.sort(key=lambda path: "most_1_" not in path.name)
            kept[label] = {_shown(path): path for path in reversed(paths)}
    count = Counter(name for own in kept.values() for name in own)
    out = {}
    for label, own in kept.items():
        if not own:
            continue
        name = max(own, key=lambda one: (count[one], "most_1_" in own[one].name, one))
        run = entries[label].first
        words = f"{label}, trained on {run.source}, {name}" + (", simulated" if run.tag("simulated") == "true" else "")
        out[words + ("" if count[name] > 1 or len(kept) == 1 else "; no other model has a picture of this map")] = (
            base64.b64encode(own[name].read_bytes()).decode()
        )
    return out


def _shown(path: Path) -> str:
    """The map that a picture `<domain>/<label>/<kind>_<rank>_<map>.png` shows."""
    return f"{path.parts[-3]}/{path.parts[-2]}/{path.stem.split('_', 2)[-1]}"
