"""The run of kind `watch` that a finished run has once its model is put to use: one, whatever the number of starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import Scope, metric_name
from hdmap_mlflow.tracking.client import connect, get_run
from hdmap_mlflow.tracking.record import Record, start
from hdmap_mlflow.tracking.store import Store

MAPS = metric_name(Scope.WATCH, "maps")  # its steps are rows of the log


class Watched:
    """The watch of a run, in the experiment of that run, or in another where the store has no such run."""

    def __init__(self, uri: str, run_id: str, otherwise: str | None = None) -> None:
        """Raises BadInput for a run that is not there, but for `otherwise`, and for one that a living process watches.

        `otherwise` is the experiment of a run that is in another store.
        """
        self.uri = uri
        try:
            home = get_run(uri, run_id).info.experiment_id
            self.experiment = connect(uri).get_experiment(home).name
        except BadInput:
            if not otherwise:
                raise
            self.experiment = otherwise
        store = Store(uri, self.experiment)
        past = store.runs(kind="watch", watched=run_id)
        if live := [one for one in past if one.status == "running" and not one.is_gone]:
            raise BadInput(f"run {run_id[:8]} is watched already, by process {live[0].process}; end that one first")
        self.run_id = past[0].run_id if past else None
        steps = [one.step for one in store.client.get_metric_history(self.run_id, MAPS)] if self.run_id else []
        self.last_step = max(steps, default=0)

    def start(self, name: str, tags: Mapping[str, str]) -> AbstractContextManager[Record]:
        """The run, new or gone on with; see `record.start`."""
        return start(self.uri, self.experiment, f"watch/{name}", tags, resume=self.run_id)
