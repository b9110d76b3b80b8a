"""A grid of fake runs as a program of its own, for the tests that kill it: `drive.py COUNT GPUS MEMORY_MB`."""

import sys

from fakes import cells, command

from hdmap_mlflow import __main__
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.execution.task import Share
from hdmap_mlflow.grid import driver, plan


def main(_words):
    found = cells(int(sys.argv[1]))
    store = driver.open_store(found)
    share = Share(cpus=0.1, memory_mb=float(sys.argv[3]) or None)
    launch = Launch(share, devices=int(sys.argv[2]), child=command(), stagger=0, resume="hdmap grid --again")
    driver.carry_out(plan.look_up(found, store), store, launch)


__main__.app = main
if __name__ == "__main__":
    __main__.main()
