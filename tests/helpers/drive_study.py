"""A driver of a study as a program of its own, for the tests that kill it: `drive_study.py SEARCH JOBS`.

SEARCH is a pickled `tune.Search`, so that the driver need not import torch.
"""

import pickle
import sys
from pathlib import Path

from fakes import trial_command

from hdmap_mlflow import __main__
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.tuning import driver


def main(_words):
    search = pickle.loads(Path(sys.argv[1]).read_bytes())
    launch = Launch(jobs=int(sys.argv[2]), ray=False, stagger=0, child=trial_command(), resume="hdmap tune --again")
    driver.tune(search, launch)


__main__.app = main
if __name__ == "__main__":
    __main__.main()
