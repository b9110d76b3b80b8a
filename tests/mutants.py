"""Mutation testing with mutmut: `python -m tests.mutants` tries every mutant of the modules that pyproject.toml names.

A mutant that no quick test notices is a survivor; docs/testing.md says what the survivors are.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

# Mutants are tried in forks of a process that has run the tests: its libraries must have no threads of their own,
# and a collection of all its garbage in every fork would take longer than most tests.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}
os.register_at_fork(before=gc.freeze, after_in_child=gc.disable)

from mutmut import configuration  # noqa: E402
from mutmut.__main__ import _run  # noqa: E402
from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: E402
from mutmut.stats import status_by_exit_code  # noqa: E402
from mutmut.utils.file_utils import walk_mutatable_files  # noqa: E402
from mutmut.utils.format_utils import get_mutant_name  # noqa: E402

NOTICED = {"killed", "timeout", "segfault", "caught by type check"}


def names(files: Iterable[Path]) -> list[str]:
    """The name of every mutant of some files, as mutmut gives them."""
    return [
        get_mutant_name(f, name) for f in files for name in mutate_file_contents(str(f), f.read_text()).mutant_names
    ]


def verdicts() -> dict[str, str]:
    """What became of every mutant that was tried: killed, survived, no tests, timeout ..."""
    found: dict[str, str] = {}
    for file in walk_mutatable_files():
        meta = Path("mutants") / f"{file}.meta"
        if meta.exists():
            codes = json.loads(meta.read_text())["exit_code_by_key"]
            found |= {name: status_by_exit_code[code] for name, code in codes.items() if code is not None}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", help="files to mutate (default: those of pyproject.toml)")
    parser.add_argument("--tests", nargs="+", help="test files to run against them (default: all quick tests)")
    parser.add_argument("--sample", type=int, help="try so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--again", action="store_true", help="try the former survivors only, after tests were added")
    parser.add_argument("--at-least", type=float, default=0, help="exit 1 if a smaller share is noticed")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at once")
    given = parser.parse_args()
    settings = configuration.config()
    if given.only:
        settings.only_mutate = given.only
    if given.tests:
        settings.pytest_add_cli_args_test_selection = [*given.tests, "-m", "not slow or mutants"]
    chosen: list[str] = []
    if not given.again:
        shutil.rmtree("mutants", ignore_errors=True)  # mutmut would keep what an earlier choice of files left unmutated
    if given.sample:
        chosen = random.Random(given.seed).sample(names(walk_mutatable_files()), given.sample)
    elif given.again:
        chosen = [name for name, verdict in verdicts().items() if verdict not in NOTICED]
    _run(chosen, given.jobs)
    tried = {name: verdict for name, verdict in verdicts().items() if not given.sample or name in chosen}
    survivors = sorted(name for name, verdict in tried.items() if verdict not in NOTICED)
    print(*(f"{tried[name]}: {name}" for name in survivors), sep="\n")
    share = 1 - len(survivors) / len(tried)
    print(f"{len(tried) - len(survivors)} of {len(tried)} mutants noticed ({share:.1%})")
    return int(share < given.at_least)


if __name__ == "__main__":
    sys.exit(main())
