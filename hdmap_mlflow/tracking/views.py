"""Saved views of an experiment in MLflow's UI: runs, means over seeds, adapted runs and studies, each as one link.

MLflow 3.15 and later keep a view as a tag of the experiment, which an older one ignores: the state of the page as
deflated JSON, in the form that the page itself writes when somebody shares it.
"""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlflow.tracking import MlflowClient

from hdmap_mlflow.errors import masked, one_line
from hdmap_mlflow.names import (
    AUROC,
    MEAN_AUROC,
    SOURCE_AUROC,
    VAL_AUROC,
    WORST_AUROC,
    Scope,
    Tag,
    metric_name,
    target_scope,
)
from hdmap_mlflow.tracking.client import connect, ui_command
from hdmap_mlflow.tracking.patience import FAILURES

RUNS = 200  # the newest, whose target domains get columns
TAG = "mlflow.sharedViewState."
PORT = 5000  # on which `hdmap ui` and `mlflow ui` serve
NAME = "attributes.`Run Name`"
FIT_SECONDS = metric_name(Scope.COST, "fit_seconds")
GAP = metric_name(Scope.TRANSFER, "gap")
IDENTITY = (Tag.MODEL, Tag.CONDITION, Tag.SOURCE, Tag.VALIDATION, Tag.DATA_DIGEST)  # what seeds are averaged in


class View(NamedTuple):
    """What a view shows: which runs, the columns before those of the domains, in which order, grouped by which tags."""

    title: str
    runs: str
    tags: tuple[str, ...]
    metrics: tuple[str, ...] = ()  # in place of those of the domains
    order: str = MEAN_AUROC
    groups: tuple[str, ...] = ()


FINISHED = f"tags.`{Tag.KIND}` = 'run' and attributes.status = 'FINISHED'"
VIEWS = {
    "hdmap-runs": View("hdmap: every run", FINISHED, (Tag.MODEL, Tag.SOURCE, Tag.DATA_DIGEST, Tag.PART_OF)),
    "hdmap-models": View("hdmap: mean over seeds", FINISHED, (), groups=IDENTITY),
    "hdmap-studies": View(
        "hdmap: studies and trials",
        f"tags.`{Tag.STUDY}` LIKE '%'",
        (Tag.STUDY, Tag.KIND, Tag.TRIAL, Tag.STATUS, Tag.BEST),
        (VAL_AUROC, FIT_SECONDS),
        VAL_AUROC,
    ),
}
COMPARISON, STUDIES, ADAPTED = "hdmap-models", "hdmap-studies", "hdmap-adapted"
MEAN_FPR = metric_name(Scope.TARGET_MEAN, "FPR_at_normal_q99")
OF_ADAPTED = re.compile(rf"({Scope.ADAPTED}/[^/]+/k(\d+))/{Scope.TARGET_MEAN}/.+")


def share(client: MlflowClient, experiment_id: str) -> None:
    """Bring the views of an experiment up to date.

    There is a column for every target domain of the newest runs and for those that the views had. Where some of the
    newest were adapted, there is a view of that, too, with columns for every chain of adapters and number of maps.
    """
    experiment = client.get_experiment(experiment_id)
    newest = client.search_runs([experiment_id], FINISHED, max_results=RUNS)
    names = {name for run in newest for name in run.data.metrics}
    prefix = target_scope("")
    domains = {name.removeprefix(prefix).partition("/")[0] for name in names if name.startswith(prefix)}
    domains |= set(json.loads(experiment.tags.get(Tag.DOMAINS, "[]")))
    now = int(time.time() * 1000)
    for key, view in (VIEWS | _adapted(names)).items():
        tag = f"{TAG}{key}"
        created = json.loads(experiment.tags[tag])["createdAt"] if tag in experiment.tags else now
        packed = base64.b64encode(zlib.compress(json.dumps(_state(view, sorted(domains))).encode())).decode()
        content = {"name": view.title, "createdAt": created, "updatedAt": now, "state": f"deflate;{packed}"}
        client.set_experiment_tag(experiment_id, tag, json.dumps(content))
    client.set_experiment_tag(experiment_id, Tag.DOMAINS, json.dumps(sorted(domains)))


def _adapted(names: Iterable[str]) -> dict[str, View]:
    """The view of adapted runs, beside them as they were: source, then every chain, the fewest maps first."""
    found = {(int(match[2]), match[1]) for name in names if (match := OF_ADAPTED.fullmatch(name))}
    scopes = ["", *(f"{scope}/" for _, scope in sorted(found))]
    columns = (SOURCE_AUROC, *(f"{scope}{name}" for scope in scopes for name in (MEAN_AUROC, MEAN_FPR)))
    return {ADAPTED: View("hdmap: with k healthy maps of the target", FINISHED, IDENTITY[:3], columns)} if found else {}


def link(server: str, experiment_id: str, view: str = COMPARISON) -> str:
    """The address of a view on a server; a store that is a database is served on this machine."""
    base = masked(server).rstrip("/") if server.startswith("http") else f"http://127.0.0.1:{PORT}"
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def run_pages(uri: str, experiment: str) -> str:
    """The address to which a run's id is added to see the run; empty where the store does not say."""
    try:
        known = connect(uri).get_experiment_by_name(experiment)
    except FAILURES:
        return ""
    return f"{link(uri, known.experiment_id).partition('?')[0]}/" if known else ""


def invitation(uri: str, run_id: str, view: str = COMPARISON) -> str:
    """The line that leads from the end of a command to its runs side by side; the command has done its work by then."""
    try:
        client = connect(uri)
        experiment_id = client.get_run(run_id).info.experiment_id
        share(client, experiment_id)
    except FAILURES as error:
        return f"to compare runs: {ui_command(uri)} (the store did not take the views: {one_line(error)})"
    address = link(uri, experiment_id, view)
    return f"to compare runs: {address}" + ("" if uri.startswith("http") else f" (served by: {ui_command(uri)})")


def _state(view: View, domains: list[str]) -> Mapping[str, object]:
    """The state of the runs page, in MLflow's own words."""
    aurocs = [SOURCE_AUROC, *(metric_name(target_scope(name), AUROC) for name in domains), MEAN_AUROC, WORST_AUROC]
    metrics = view.metrics or (*aurocs, GAP, FIT_SECONDS)
    columns = [*(f"tags.`{name}`" for name in view.tags), *(f"metrics.`{name}`" for name in metrics)]
    widths = {column: max(190, 7 * len(column) - 70) if column.startswith("metrics") else 110 for column in columns}
    groups = [{"mode": "tag", "groupByData": tag} for tag in view.groups]
    return {
        "searchFilter": view.runs,
        "orderByKey": f"metrics.`{view.order}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": [NAME, "runDateAndNestInfo", *columns, "duration"],
        "columnWidths": {NAME: 330 if groups else 260} | widths,
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupsExpanded": {},
        "groupBy": {"aggregateFunction": "average", "groupByKeys": groups} if groups else None,
        **(
            _bars("Trials" if view.order == VAL_AUROC else "Adapted", view.metrics) if view.metrics else _charts(aurocs)
        ),
    }


def _charts(aurocs: list[str]) -> Mapping[str, object]:
    """Source against target mean, and a bar chart for each domain."""
    axes = {"xaxis": {"key": SOURCE_AUROC, "type": "METRIC"}, "yaxis": {"key": MEAN_AUROC, "type": "METRIC"}}
    transfer, domains = (_bars(name, some) for name, some in (("Transfer", aurocs[-2:]), ("Domains", aurocs[:-2])))
    scatter = _chart("SCATTER", "hdmap-Transfer", "hdmap-scatter", axes)
    return {
        "compareRunSections": [*transfer["compareRunSections"], *domains["compareRunSections"]],
        "compareRunCharts": [scatter, *transfer["compareRunCharts"], *domains["compareRunCharts"]],
    }


def _bars(name: str, metrics: Iterable[str]) -> dict[str, list[object]]:
    """A section of charts with a bar chart for each metric."""
    section = f"hdmap-{name}"
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {
        "compareRunSections": [{"uuid": section, "name": name, **flags}],
        "compareRunCharts": [_chart("BAR", section, f"hdmap-{one}", {"metricKey": one}) for one in metrics],
    }


def _chart(kind: str, section: str, uuid: str, more: Mapping[str, object]) -> Mapping[str, object]:
    flags = {"deleted": False, "isGenerated": False, "runsCountToCompare": 50}
    return {"type": kind, "uuid": uuid, "metricSectionId": section, **flags, **more}
