"""The dimension of a grid that trains nothing: with which adapters, and how many target maps, each run is adapted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from hdmap_mlflow import config as configuration
from hdmap_mlflow import interrupt
from hdmap_mlflow.adaptation import chain as chains
from hdmap_mlflow.config import AdaptConfig, RunConfig
from hdmap_mlflow.console import show_table
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.names import AUROC, SOURCE_ONLY, Scope, adapted_scope, metric_name

if TYPE_CHECKING:
    from hdmap_mlflow.tracking import Store

COLUMNS = ("run", "adapters", "k", "target AUROC", "FPR at 1 %", "status")


class Adaptation(NamedTuple):
    """A chain of adapters, and how many healthy maps each target gives it."""

    chain: chains.Chain
    k: int

    def __str__(self) -> str:
        return f"{chains.words(self.chain)}, k={self.k}"

    def of(self, config: RunConfig) -> RunConfig:
        """A run that would be trained with it."""
        return configuration.with_values(config, {"adapt.adapters": list(self.chain), "adapt.k": self.k})

    def metric(self, name: str) -> str:
        """The full name of a mean over targets in the record of a run that was adapted so."""
        return metric_name(adapted_scope(self.chain, self.k, Scope.TARGET_MEAN), name)


def combine(names: Iterable[str], counts: Iterable[str]) -> tuple[Adaptation, ...]:
    """What chains (`merge+z`, `source_only`) and numbers of maps ask for, beside the runs as they are trained.

    Without maps most chains change nothing, and some take no maps: such a combination asks for nothing. Raises BadInput
    for a chain or a number that is none, and for a chain that none of the numbers does for.
    """
    numbers, out = [_read(k=count).k for count in counts], []
    for name in names:
        chain = _read(adapters=name).adapters
        chains.check(chain, 0)
        fit = [k for k in numbers if chains.working(chain, k) and not (k and chains.protocol(chain, k) == SOURCE_ONLY)]
        for k in fit:
            chains.check(chain, k)
        if chain and not fit:
            raise BadInput(
                f"grid: --adapters {name} changes nothing with --k {', '.join(map(str, numbers))}; e.g. --k 0,16"
            )
        out += [Adaptation(chain, k) for k in fit]
    return tuple(dict.fromkeys(out))


def _read(**given: str) -> AdaptConfig:
    try:
        return AdaptConfig.model_validate(given)
    except ValidationError as error:
        raise BadInput(f"grid: {configuration.one_line(error)}") from None


def carry_out(runs: Mapping[str, tuple[str, Sequence[Adaptation]]], store: Store) -> str:
    """Adapt finished runs with what each is not yet adapted with, one after another in this process, and print a table.

    `runs` maps a run's id to its name and adaptations. One that fails costs the others nothing; returns how many did,
    in words, empty where all is well.
    """
    from hdmap_mlflow.runs.adapt import adapt

    rows, failed = [], 0
    for run_id, (name, wanted) in runs.items():
        for one in wanted:
            status, known = "before this launch", store.metrics(run_id) or {}
            if one.metric(AUROC) not in known:
                print(f"adapting {name}: {one}", flush=True)
                try:
                    with interrupt.recognised():
                        adapt(store.uri, run_id, one.chain, one.k)
                    status = "adapted"
                except Exception as error:  # whatever a model makes of it
                    status, failed = f"failed: {one_line(error)}", failed + 1
                known = store.metrics(run_id) or {}
            found = (known.get(one.metric(AUROC)), known.get(one.metric("FPR_at_normal_q99")))
            figures = ["-" if value is None else f"{value:.3f}" for value in found]
            rows.append([name, chains.words(one.chain), str(one.k), *figures, status])
    if rows:
        show_table("adapted", COLUMNS, rows, left=2)
    return f"{failed} of {len(rows)} adaptations failed, see above; the same command tries them again" * bool(failed)
