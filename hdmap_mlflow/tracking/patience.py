"""How long a store is waited for: a server that is disturbed comes back, and a run costs more than a few minutes."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from hdmap_mlflow.errors import BadInput

# Of MLflow's error codes, those that another try may not meet; a proxy's page of HTML has no code of its own.
PASSING = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "ABORTED"}
RACE = "INSERT INTO datasets"  # two runs that record the same data at once: the second finds it at the next try
NO_JSON = "Response body: '"
LASTING = ("disk is full", "No space left", "readonly database")  # said by SQLite and by the system
FAILURES = (MlflowException, RequestException, SQLAlchemyError)  # of a store, and of nothing in this program
WAIT = wait_exponential(max=15)  # seconds: 1, 2, 4 ...
TRIES = 3  # where what failed is neither the store's answer nor the way to it


def seconds() -> float:
    """`$HDMAP_PATIENCE`: for how long the store is waited for when a run is recorded, 180 s where it is not set."""
    given = os.environ.get("HDMAP_PATIENCE") or "180"
    with contextlib.suppress(ValueError):
        if 0 <= float(given) < math.inf:
            return float(given)
    raise BadInput(f"HDMAP_PATIENCE={given}: give seconds, 0 or more, or unset it")


def is_refusal(error: BaseException) -> bool:
    """Whether a store answered, and will answer so again."""
    code = error.error_code if isinstance(error, MlflowException) else "INTERNAL_ERROR"
    return code not in PASSING and NO_JSON not in str(error) and RACE not in str(error)


def is_away(error: BaseException) -> bool:
    """Whether a store did not answer, or something else, such as a proxy, answered for it."""
    if any(words in str(error) for words in LASTING) or is_refusal(error):
        return False
    return isinstance(error, (*FAILURES, ConnectionError, TimeoutError))


def tries(patience: float) -> Retrying:
    """Attempts until one succeeds: for `patience` seconds where the store is away, else at most three."""

    def over(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        late = (state.seconds_since_start or 0) + state.upcoming_sleep > patience
        return late if error and is_away(error) else state.attempt_number >= TRIES

    again = retry_if_exception(lambda error: isinstance(error, Exception) and not is_refusal(error))
    return Retrying(retry=again, stop=over, wait=WAIT, reraise=True)


@contextlib.contextmanager
def asked_once(timeout: int | None = None) -> Iterator[None]:
    """MLflow asks a server a second time, not for minutes; `timeout` in seconds holds where the user gives none."""
    asked = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1"}
    if timeout and "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ:
        asked["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout)
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
