"""A run's model in MLflow: one LoggedModel, which holds the checkpoint, and its place in the registry."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput, Metric, Run
from mlflow.environment_variables import MLFLOW_TRACKING_URI
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from mlflow.tracking import MlflowClient

from hdmap_mlflow.annotations import Document
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import AUROC, PREFIX, Artifact, Scope, Tag, metric_name
from hdmap_mlflow.tracking import fetched
from hdmap_mlflow.tracking.client import get_run, reader

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PythonModelContext

SCOPES = (Scope.VAL, Scope.SOURCE, Scope.TARGET, Scope.TARGET_MEAN, Scope.TARGET_WORST, Scope.TRANSFER)
PART = "run"  # the folder in the model that is all that a run's model needs: `artifacts/run`
HOME = f"artifacts/{PART}"
REGISTERED = r"models:/([^/@]+)(?:@([\w.\-]+)|/(\d+))"
Scorer = Callable[[np.ndarray], "pd.DataFrame"]
TAGS = (Tag.MODEL, Tag.CONDITION, Tag.SOURCE, Tag.VALIDATION, Tag.DATA_DIGEST, Tag.FINGERPRINT, Tag.SIMULATED)


def write(folder: Path, script: Path, run: Path, example: np.ndarray, packages: Mapping[str, str]) -> None:
    """Write a new folder that MLflow loads as a model: code as text, no pickle.

    `script` calls `serve`; `run` is a folder that it is given; `example` is one map or more, float32 (n, H, W).
    """
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    maps = TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]))
    scored = Schema([ColSpec("double", "score"), ColSpec("boolean", "alarm")])
    with _quickly():
        pyfunc.save_model(
            folder,
            python_model=str(script),
            artifacts={PART: str(run)},
            signature=ModelSignature(Schema([maps]), scored),
            input_example=example,
            model_config={"trust_model": False},
            pip_requirements=[f"{name}=={version.partition('+')[0]}" for name, version in packages.items()],
        )


@contextlib.contextmanager
def _quickly() -> Iterator[None]:
    """MLflow tells nothing of the example that it looks at, and lists no files of packages.

    To compare versions by the packages' names, it would list those of everything that is installed, for a second.
    """
    from mlflow.utils import requirements_utils

    logger, names, files = logging.getLogger("mlflow.pyfunc"), vars(requirements_utils), "_MODULES_TO_PACKAGES"
    level, listed = logger.level, names.get(files)
    logger.setLevel(logging.WARNING)
    names[files] = listed or {}
    try:
        yield
    finally:
        names[files] = listed
        logger.setLevel(level)


def serve(open_model: Callable[[Path, bool], Scorer]) -> None:
    """What the script of a model calls: MLflow gets a model that opens the run's folder, and scores maps with it.

    A class that is not of the registry is imported only with `model_config={"trust_model": True}`.
    """
    from mlflow.models import set_model
    from mlflow.pyfunc import PythonModel

    with warnings.catch_warnings(action="ignore"):  # MLflow would have type hints, which know no arrays

        class Served(PythonModel):
            scorer: Scorer

            def load_context(self, context: PythonModelContext) -> None:
                trusted = (context.model_config or {}).get("trust_model") is True
                self.scorer = open_model(Path(context.artifacts[PART]), trusted)

            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
                return self.scorer(model_input)

    set_model(Served())


# ------------------------------------------------------------------------------------------------- as it is logged
def send(client: MlflowClient, run_id: str, folder: Path) -> None:
    """Log a folder that `write` wrote as the model of a run, with the run's metrics; twice is once."""
    run = client.get_run(run_id)
    model_id = model_of(run)
    if not model_id:
        tags = {name: run.data.tags[name] for name in TAGS if name in run.data.tags}
        name = re.sub(r"""[/:.%"']""", "-", run.data.tags.get(Tag.MODEL, "model"))  # what MLflow takes of a name
        params = {k: v for k, v in run.data.params.items() if k.startswith("model.")}
        model_id = client.create_logged_model(
            run.info.experiment_id, name, run_id, tags, params, "anomaly detection"
        ).model_id
        client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    _name_model(folder, model_id, run_id)
    client.log_model_artifacts(model_id, str(folder))
    client.set_tag(run_id, Tag.MODEL_DIGEST, _digest(folder))
    data = {given.dataset.name: given.dataset.digest for given in (run.inputs.dataset_inputs if run.inputs else [])}
    linked = [_linked(metric, run, model_id, data) for metric in run.data._metric_objs if _is_result(metric.key)]
    if linked:
        client.log_batch(run_id, linked)
    client.finalize_logged_model(model_id, "READY")


def _is_result(name: str) -> bool:
    scope, _, rest = name.partition("/")
    return scope in SCOPES and (scope == Scope.TRANSFER or "image_" in rest)


def _linked(metric: Metric, run: Run, model_id: str, data: Mapping[str, str]) -> Metric:
    """A metric of a run as one of its model and of the data set on which it was measured, if it was one."""
    scope, _, rest = metric.key.partition("/")
    domain = rest.rpartition("/")[0] or run.data.tags.get(Tag.SOURCE, "")
    known = domain in data and scope in (Scope.VAL, Scope.SOURCE, Scope.TARGET)
    of = (domain, data[domain]) if known else (None, None)
    return Metric(metric.key, metric.value, metric.timestamp, metric.step, model_id, of[0], of[1], run.info.run_id)


def _name_model(folder: Path, model_id: str, run_id: str) -> None:
    from mlflow.models import Model

    described = Model.load(str(folder))
    described.model_id, described.run_id = model_id, run_id
    described.save(str(folder / "MLmodel"))


def model_of(run: Run) -> str | None:
    """The id of a run's model, if it has one."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return outputs[0].model_id if outputs else None


def listed(client: MlflowClient, run_id: str, folder: str) -> dict[str, int | None]:
    """What a run's model has in a folder, as artifacts below `model/`."""
    model_id = model_of(client.get_run(run_id))
    below = folder.partition("/")[2] or None
    there = client.list_logged_model_artifacts(model_id, below) if model_id else []
    return {f"{Artifact.MODEL}/{one.path}": one.file_size for one in there}


def home(uri: str, run_id: str) -> Path | None:
    """The folder that a run's model was opened from, to be read only; None for a run without a model.

    Only data is read from there: neither code nor a pickle. Raises BadInput where a file of the model is not what was
    recorded.
    """
    run = get_run(uri, run_id)
    model_id, recorded = model_of(run), run.data.tags.get(Tag.MODEL_DIGEST)
    if not model_id:
        return None
    try:
        place = reader(uri).get_logged_model(model_id).artifact_location
        if not recorded:  # a run of before
            return fetched.local(place, HOME, uri)
        folder = fetched.local(place, "", uri)
        if _digest(folder) != recorded:
            raise BadInput(
                f"run {run_id}: its model is not what was recorded, for a file at {place} was changed, added or "
                "removed; nothing of it is loaded: put it back, or train it again"
            )
        return folder / HOME
    except (MlflowException, OSError):
        raise BadInput(f"run {run_id}: its model is damaged ({HOME} is missing); train it again") from None


def _digest(folder: Path) -> str:
    """SHA-256 of a model's files with their names; without what MLflow adds when it registers or loads a model."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != REGISTERED_MODEL_META_FILE_NAME and path.parent.name != "__pycache__":
            with open(path, "rb") as content:
                found.update(f"{name}\n{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


# ------------------------------------------------------------------------------------------------- the registry
def run_of(uri: str, name: str) -> str:
    """The run of `models:/NAME@ALIAS` or `models:/NAME/VERSION`; any other text is a run's id already.

    Raises BadInput for a name, an alias or a version that is not registered.
    """
    if not name.startswith("models:/"):
        return name
    match = re.fullmatch(REGISTERED, name)
    if not match:
        raise BadInput(f"{name:.120} is no registered model; give models:/NAME@ALIAS or models:/NAME/VERSION")
    client = reader(uri)
    try:
        found = (client.get_model_version_by_alias if match[2] else client.get_model_version)(
            match[1], match[2] or match[3]
        )
    except MlflowException:
        raise BadInput(f"{name:.120} is not registered; `hdmap models --registered` lists what is") from None
    if not found.run_id:
        raise BadInput(f"{name:.120} is of no run; register one with `hdmap promote`")
    return str(found.run_id)


def register(uri: str, run_id: str, name: str, alias: str, tags: Mapping[str, str], anyway: bool) -> int:
    """Register a run's model as the next version of a name, or take the version that it is; returns the version.

    Raises BadInput for a run without a model, for a name whose versions know other data, and for a store that refuses.
    """
    client, run = reader(uri), get_run(uri, run_id)
    model_id = model_of(run)
    if not model_id:
        raise BadInput(f"run {run_id[:8]} has no model in MLflow (tracking.model=none, or of before); train it again")
    try:
        past = client.search_model_versions(f"name='{name}'")
        others = {one.tags.get(Tag.DATA_DIGEST) for one in past} - {tags[Tag.DATA_DIGEST], None}
        if others and not anyway:
            raise BadInput(
                f"{name} is of other data (digest {min(map(str, others))}, this run {tags[Tag.DATA_DIGEST]}); "
                "give another --name, or --anyway"
            )
        mine = next((one for one in past if one.run_id == run_id), None)
        if not past and not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name, {}, "Anomaly detection on health data maps of a gearbox.")
        if not mine:
            with _default_store(uri):
                mine = client.create_model_version(
                    name, f"models:/{model_id}", run_id, dict(tags), description=_about(run), model_id=model_id
                )
        client.set_registered_model_alias(name, alias, mine.version)
    except MlflowException as error:
        from hdmap_mlflow.errors import masked, one_line

        raise BadInput(f"{masked(uri)} does not register {name} ({one_line(error)}); change --name or --uri") from None
    return int(mine.version)


def _about(run: Run) -> str:
    """A version's description: a plain line, as the table of versions renders no Markdown, then what the run says."""
    metrics, (model, source) = run.data.metrics, (run.data.tags.get(tag, "") for tag in (Tag.MODEL, Tag.SOURCE))
    scopes = {Scope.SOURCE: "on the source", Scope.TARGET_MEAN: "on targets"}
    known = {metric_name(scope, AUROC): where for scope, where in scopes.items()}
    said = [f"AUROC {metrics[name]:.3f} {where}" for name, where in known.items() if name in metrics]
    return "\n\n".join(
        [", ".join([f"{model} of {source}", *said]), run.data.tags.get("mlflow.note.content", "")]
    ).strip()


@contextlib.contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """A store as MLflow's default one: that is the one which a registry in a database looks a model up in."""
    before = {MLFLOW_TRACKING_URI.name: own} if (own := MLFLOW_TRACKING_URI.get()) else {}
    try:
        mlflow.set_tracking_uri(uri)
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # takes it out of the environment, too
        os.environ |= before


def registered(uri: str) -> Sequence[Document]:
    """What is registered, one row per version, the newest of a name first."""
    client, rows = reader(uri), []
    for model in client.search_registered_models():
        aliases = {int(version): alias for alias, version in model.aliases.items()}
        for one in client.search_model_versions(f"name='{model.name}'"):
            rows.append(
                {
                    "name": model.name,
                    "version": int(one.version),
                    "alias": aliases.get(int(one.version), ""),
                    "run": one.run_id,
                    **{name.removeprefix(PREFIX): one.tags.get(name, "") for name in TAGS},
                }
            )
    return sorted(rows, key=lambda row: (row["name"], -row["version"]))
