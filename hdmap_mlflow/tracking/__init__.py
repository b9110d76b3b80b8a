"""The record of runs in MLflow. The only room that talks to MLflow."""

from hdmap_mlflow.tracking import model
from hdmap_mlflow.tracking.client import (
    absolute_uri,
    artifacts,
    check_store,
    find_runs,
    get_run,
    open_store,
    project_run,
    report_command,
    twins,
)
from hdmap_mlflow.tracking.copies import artifact_bytes, discard, kept_copies, remove_below
from hdmap_mlflow.tracking.journal import FILE as RECORD
from hdmap_mlflow.tracking.journal import Kept, unrecorded
from hdmap_mlflow.tracking.patience import FAILURES
from hdmap_mlflow.tracking.record import LAST_WORD, NOTE, PARENT, Record, fail_project_run, reopen, send, start
from hdmap_mlflow.tracking.store import Past, Store
from hdmap_mlflow.tracking.views import STUDIES, invitation, run_pages
from hdmap_mlflow.tracking.watched import Watched
