"""A study that several drivers share: its trials and whose they are."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.process import is_gone, process_name
from hdmap_mlflow.tuning.space import Plain, Space
from hdmap_mlflow.tuning.storage import StudyStorage

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
}
BEAT_SECONDS = 20.0
TURN_SECONDS = 60  # a turn in a journal that lasts longer was its driver's last
GONE_SECONDS = 180.0  # a driver on another host that was silent for so long is gone


def check_sampler(name: str) -> None:
    """Raise BadInput for a sampler that is not known, or not installed."""
    if name not in SAMPLERS:
        raise BadInput(f"--sampler {name}{nearest(name, SAMPLERS)}; known: {', '.join(SAMPLERS)}")
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise BadInput("--sampler cmaes needs a package that is not installed; pip install cmaes")


@dataclass(frozen=True)
class Asked:
    """A trial to run: its number, its id in the storage, its settings, and whether it is the baseline."""

    number: int
    trial_id: int
    settings: dict[str, Plain]
    baseline: bool


class Study:
    """A study as one of its drivers sees it.

    `metrics` are the objectives' names in Optuna's plots and dashboard. `terms` are what all its trials must share; a
    study that exists with other terms is refused (BadInput, with the difference). `rescue` ends the MLflow run of a
    trial whose driver died, and gives its values where it had finished.
    """

    def __init__(
        self,
        place: StudyStorage,
        name: str,
        space: Space,
        terms: Mapping[str, str],
        directions: Sequence[Literal["minimize", "maximize"]],
        *,
        metrics: Sequence[str] = (),
        sampler: str = "tpe",
        seed: int = 0,
        rescue: Callable[[str], Sequence[float] | None] = lambda run_id: None,
    ) -> None:
        check_sampler(sampler)
        self.place, self.name, self.space, self.rescue = place, name, space, rescue
        self.driver = process_name()
        self._sampler, self._seed = SAMPLERS[sampler], seed
        self._storage, self._mine, self._beat = place.open(), dict[int, Trial](), 0.0
        with self._turn():
            self.optuna = optuna.create_study(
                storage=self._storage, study_name=name, directions=list(directions), load_if_exists=True
            )
            self._agree(dict(terms))
            if metrics and self.optuna.metric_names != list(metrics):
                self.optuna.set_metric_names(list(metrics))
        self.beat()

    def _agree(self, terms: dict[str, str]) -> None:
        """Begin a new study with its baseline, or compare an old one's terms."""
        before = self.optuna.user_attrs.get("terms")
        if before is None:  # new, or its driver died between two lines of this
            baseline = self.space.baseline()
            if not self.optuna.get_trials(deepcopy=False):
                known = baseline if self.space.holds(baseline) else {}
                self.optuna.enqueue_trial(known, user_attrs={"baseline": baseline})
            self.optuna.set_user_attr("terms", terms)
            return
        keys = [key for key in sorted(before.keys() | terms.keys()) if before.get(key) != terms.get(key)]
        if keys:
            shown = "; ".join(
                f"{key}: {before.get(key, 'none')} then, {terms.get(key, 'none')} now" for key in keys[:4]
            )
            more = f"; and {len(keys) - 4} more" if len(keys) > 4 else ""
            raise BadInput(
                f"study {self.name} was begun otherwise ({shown}{more}); give --study another name, or the old settings"
            )

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One driver at a time, on whatever host; a driver that dies gives its turn back."""
        if self.place.is_journal:
            # Those who wait watch when the file was last written: every turn renews it, a dead driver's does not.
            turn = Path(f"{self.place.file}.turn")
            turn.open("ab").close()
            lock = JournalFileSymlinkLock(str(turn), TURN_SECONDS)
            lock.acquire()
            try:
                turn.touch()
                yield
            finally:
                with contextlib.suppress(RuntimeError):  # it took so long that another driver has the turn
                    lock.release()
            return
        if self.place.file:
            with FileLock(f"{self.place.file}.turn.lock"):
                yield
            return
        key = zlib.crc32(self.name.encode())
        with self._storage.engine.connect() as connection:  # type: ignore[attr-defined]
            mysql = self.place.url.startswith("mysql")
            take = f"SELECT GET_LOCK('hdmap{key}', 600)" if mysql else f"SELECT pg_advisory_lock({key})"
            give = f"SELECT RELEASE_LOCK('hdmap{key}')" if mysql else f"SELECT pg_advisory_unlock({key})"
            connection.execute(sqlalchemy.text(take))
            try:
                yield
            finally:
                connection.execute(sqlalchemy.text(give))

    def ask(self, total: int) -> Asked | None:
        """The next trial, this driver's to run; None where the study has `total` trials, run or running.

        A trial whose driver is gone is freed first: its settings are the next to be asked for. Settings that completed
        before are not run again: such a trial has their values.
        """
        with self._turn():
            self._free()
            while (count := sum(map(counts, trials := self.optuna.get_trials(deepcopy=False)))) < total:
                asked = self._draw(count)
                same = next(
                    (
                        t
                        for t in trials
                        if t.state == TrialState.COMPLETE and t.user_attrs["settings"] == asked.settings
                    ),
                    None,
                )
                if same is None:
                    return asked
                trial = self._mine.pop(asked.number)
                trial.set_user_attr("reason", f"the settings of trial {same.number}")
                self.optuna.tell(trial, same.values)
            return None

    def _draw(self, count: int) -> Asked:
        # A sampler of its own for each trial: with one seed, a study that goes on would draw its first trials again.
        # Lost trials count for nothing: what is drawn is what would have been, had no driver died.
        self.optuna.sampler = self._sampler(self._seed * 100_003 + count)
        trial = self.optuna.ask()
        baseline = trial.user_attrs.get("baseline")
        drawn = self.space.draw(trial) if baseline is None or self.space.holds(baseline) else {}
        settings = drawn if baseline is None else baseline
        trial.set_user_attr("settings", settings)
        trial.set_user_attr("driver", self.driver)
        self._mine[trial.number] = trial
        return Asked(trial.number, trial._trial_id, settings, baseline is not None)

    def began(self, number: int, run_id: str) -> None:
        """Note a trial's MLflow run."""
        self._mine[number].set_user_attr("run_id", run_id)

    def finish(self, number: int, values: Sequence[float]) -> None:
        self._tell(number, TrialState.COMPLETE, values=values)

    def fail(self, number: int, reason: str) -> None:
        self._tell(number, TrialState.FAIL, reason)

    def prune(self, number: int, reason: str) -> None:
        self._tell(number, TrialState.PRUNED, reason)

    def give_back(self) -> None:
        """Free the trials that this driver has not ended: their settings are asked for again."""
        if not self._mine:
            return
        with self._turn():
            for number in list(self._mine):
                self._lose(self._frozen(number))
                del self._mine[number]

    def _tell(self, number: int, state: TrialState, reason: str = "", values: Sequence[float] | None = None) -> None:
        trial = self._mine.pop(number)
        with self._turn():
            if self._frozen(number).state.is_finished():
                logging.getLogger(__name__).warning("trial %s was taken over by another driver", number)
                return
            if reason:
                trial.set_user_attr("reason", reason)
            self.optuna.tell(number, values, state)

    def _frozen(self, number: int) -> FrozenTrial:
        return self.optuna.get_trials(deepcopy=False)[number]

    def _free(self) -> None:
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            driver = trial.user_attrs.get("driver")  # none: it died between two lines of `ask`
            if trial.number not in self._mine and (driver is None or self._is_gone(driver)):
                self._lose(trial)

    def _is_gone(self, driver: str) -> bool:
        if driver.partition(":")[0] == self.driver.partition(":")[0]:
            return is_gone(driver)
        return time.time() - self.optuna.user_attrs.get(f"beat {driver}", 0.0) > GONE_SECONDS

    def _lose(self, trial: FrozenTrial) -> None:
        """End a trial whose driver is gone: with its values if its run had finished, else as lost, to be run again."""
        if trial.state.is_finished():
            return
        run_id = trial.user_attrs.get("run_id")
        values = self.rescue(run_id) if run_id else None
        if values is not None:
            self.optuna.tell(trial.number, values)
            return
        self._storage.set_trial_user_attr(trial._trial_id, "lost", True)
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        baseline = {k: v for k, v in trial.user_attrs.items() if k == "baseline"}
        self.optuna.enqueue_trial(trial.params, user_attrs=baseline)

    def beat(self) -> None:
        """Say, at most every 20 s, that this driver lives."""
        if time.monotonic() > self._beat:
            self.optuna.set_user_attr(f"beat {self.driver}", time.time())
            self._beat = time.monotonic() + BEAT_SECONDS

    def others(self) -> int:
        """How many trials other living drivers run; those of dead ones are freed."""
        with self._turn():
            self._free()
        return sum(t.number not in self._mine for t in self.trials(TrialState.RUNNING))

    def once(self, name: str, make: Callable[[str], str]) -> str:
        """What drivers share, by name: `make` gets what is there, empty at first, and says what it is from now on."""
        with self._turn():
            value = make(self.optuna.user_attrs.get(name, ""))
            self.optuna.set_user_attr(name, value)
            return value

    def claim(self, work: str) -> bool:
        """Take on what only one driver of a study may do; False where another, living driver has it."""
        with self._turn():
            holder = self.optuna.user_attrs.get(work, "")
            if holder and holder != self.driver and not self._is_gone(holder):
                return False
            self.optuna.set_user_attr(work, self.driver)
            return True

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials that ran or run, of these states or of all; those lost with their driver are left out."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if counts(t) and (not states or t.state in states)]

    def best(self) -> FrozenTrial | None:
        """The completed trial of the best first objective; of several objectives, it is on the Pareto front."""
        return winner(self.optuna)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the study's: it ran or runs, and was not lost with its driver."""
    return trial.state != TrialState.WAITING and not trial.user_attrs.get("lost")


def winner(study: optuna.Study) -> FrozenTrial | None:
    """The completed trial of the best first objective, then of the others; of several alike the first."""
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    signs = [1 if one == optuna.study.StudyDirection.MAXIMIZE else -1 for one in study.directions]
    rank = {t.number: ([s * v for s, v in zip(signs, t.values, strict=True)], -t.number) for t in done}
    return max(done, key=lambda trial: rank[trial.number], default=None)
