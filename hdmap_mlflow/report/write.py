"""`hdmap report`: read an experiment, write the report's files, keep them in MLflow as a run of their own."""

from __future__ import annotations

import base64
from datetime import datetime
from pathlib import Path

from hdmap_mlflow.console import harmless
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Artifact, Tag
from hdmap_mlflow.report.arrange import Grid, arrange, is_oracle
from hdmap_mlflow.report.charts import charts
from hdmap_mlflow.report.sections import html, markdown
from hdmap_mlflow.report.tables import Tables, long_table, tabulate
from hdmap_mlflow.runs import history

MAX_PICTURES = 6  # a heat map is about 70 kB; the page stays below a megabyte


def compare(uri: str, experiment: str, validation: str | None = None, data_digest: str | None = None) -> Tables:
    """The tables of an experiment's finished runs.

    `validation` and `data_digest` choose among runs of several protocols or data sets. Raises BadInput where there is
    nothing to compare, and where runs cannot be ranked together.
    """
    records, left_out = history.read_experiment(uri, experiment, kinds=("run",))  # a study's trials see no targets
    grid = arrange([one for one in records if not is_oracle(one)], validation, data_digest)
    oracles = [one for one in records if is_oracle(one) and one.tag("data_digest") == grid.runs[0].tag("data_digest")]
    return tabulate(grid, left_out, oracles)


def write_report(
    uri: str, experiment: str, out: Path, validation: str | None = None, data_digest: str | None = None
) -> tuple[Path, Tables]:
    """Write `report.html`, `report.md` and `report.csv` to a folder and log them; returns the page's path, the tables.

    Raises BadInput as `compare` does, and for a folder that cannot be written.
    """
    from hdmap_mlflow import tracking

    tables = compare(uri, experiment, validation, data_digest)
    grid = tables.grid
    text = markdown(tables)
    page = html(tables, charts(tables), _pictures(uri, grid), datetime.now().strftime("%Y-%m-%d %H:%M"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.html").write_text(page, encoding="utf-8")
        (out / "report.md").write_text(text, encoding="utf-8")
        long_table(grid).map(harmless).to_csv(out / "report.csv", index=False)
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
        for name in ("report.html", "report.md", "report.csv"):
            record.artifact(out / name)
    return out / "report.html", tables


def _pictures(uri: str, grid: Grid) -> dict[str, str]:
    """Caption -> base64 PNG: for each entry the most anomalous fault map of its first target that has a picture."""
    from hdmap_mlflow import tracking

    out = {}
    for entry in grid.entries[:MAX_PICTURES]:
        run = entry.first
        try:
            folder = tracking.artifacts(uri, run.run_id, Artifact.HEATMAPS)
        except BadInput:  # made without pictures
            continue
        found = [path for domain in run.targets for path in sorted((folder / domain).glob("*/most_1_*.png"))]
        if found:
            told = f"{entry.label}, trained on {run.source}" + (", simulated" if run.tag("simulated") == "true" else "")
            out[told] = base64.b64encode(found[0].read_bytes()).decode()
    return out
