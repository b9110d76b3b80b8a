"""A grid of fake runs as a program of its own, for the tests that kill it: `drive.py COUNT GPUS MEMORY_MB`."""

import sys

from fakes import cells, command

from hdmap_mlflow import __main__, grid, plan
from hdmap_mlflow.process import Share


def main():
    found = cells(int(sys.argv[1]))
    store = grid.open_store(found)
    share = Share(cpus=0.1, memory_mb=float(sys.argv[3]))
    launch = grid.Launch(share, devices=int(sys.argv[2]), child=command(), stagger=0, resume="hdmap grid --again")
    grid.carry_out(plan.look_up(found, store), store, launch)


__main__.app = main
__main__.main()
