"""`hdmap` = `python -m hdmap_mlflow`: signals and exit codes around the command line."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
import traceback
import warnings

from cyclopts import CycloptsError

from hdmap_mlflow import interrupt
from hdmap_mlflow.cli import commands, finished, weights  # noqa: F401 - they add the commands
from hdmap_mlflow.cli.app import app
from hdmap_mlflow.cli.guideline import explained
from hdmap_mlflow.console import show_any_name
from hdmap_mlflow.errors import BadInput, Incomplete, one_line
from hdmap_mlflow.files import why

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
HELP = {"--help", "-h", "--version"}  # which end a command before it has done anything
MOST = 500  # characters of a line about a problem
# torch, anomalib and MLflow are two million objects that stay: Python would look for garbage among them again and again
# while they are imported, for a fifth of the processor time of a short run.
NEW_OBJECTS = 50_000  # after which it looks


def main() -> None:
    """Run a subcommand. Exit codes: 0 done, 1 failed, 2 wrong input (one line on standard error), 130 interrupted."""
    with interrupt.listening(), interrupt.explained(f"to run it again: {interrupt.command()}"):
        _main()


def _main() -> None:
    gc.set_threshold(NEW_OBJECTS)
    atexit.register(gc.freeze)  # nor when it ends: that took 3 s of a run of 20
    sys.path.append(os.getcwd())  # where a model of the user's own may lie
    warnings.filterwarnings("ignore", category=FutureWarning)  # of the libraries, at import
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a log file is no place for a progress bar
    show_any_name()
    try:
        words = sys.argv[1:]
        if spoilt := [word for word in words if not word.isascii() and word != word.encode(errors="replace").decode()]:
            raise BadInput(f"{spoilt[0]} is not UTF-8, which no store and no file of ours can hold; rename it")
        if os.environ.get("MLFLOW_RUN_ID") and not HELP.isdisjoint(words):
            raise BadInput(f"{min(HELP.intersection(words))} stands in place of a value; `mlflow run` shows none")
        with interrupt.recognised():
            code = app(words)
    except (BadInput, CycloptsError) as problem:
        sys.exit(_complain(explained(problem), 2))
    except Incomplete as problem:
        sys.exit(_complain(problem, 1))
    except KeyboardInterrupt:
        sys.exit(interrupt.CODE)
    except SystemExit as end:  # a model's: the commands return their codes
        *_, last = traceback.extract_tb(end.__traceback__)
        line = f"{last.filename}, line {last.lineno}, ended the command by sys.exit({end.code}); take that line out"
        sys.exit(_complain(Incomplete(line), 1))
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        place = f" ({error.filename})" if error.filename else ""
        sys.exit(_complain(Incomplete(f"{why(error)}{place}; free some space and give the command again"), 1))
    except Exception as error:
        if "mlflow" not in sys.modules:  # whatever failed, it was no store
            raise
        from hdmap_mlflow.tracking import FAILURES

        if not isinstance(error, FAILURES):
            raise
        sys.exit(_complain(Incomplete(f"the tracking store failed ({one_line(error)}); give the command again"), 1))
    sys.exit(code)


def _complain(problem: Exception, code: int) -> int:
    """Say in one line what is wrong, here and on the run that `mlflow run` may have started; returns the exit code."""
    line = " ".join(str(problem).split())
    if len(line) > MOST:  # the culprit stands at the front, the way out at the end
        line = f"{line[: MOST // 2]} ... {line[-MOST // 2 :]}"
    line = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
    print(f"hdmap: {line}", file=sys.stderr)
    if os.environ.get("MLFLOW_RUN_ID"):
        from hdmap_mlflow import tracking

        tracking.fail_project_run(line)
    return code


if __name__ == "__main__":
    main()
