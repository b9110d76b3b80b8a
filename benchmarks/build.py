"""Seconds and peak memory of `hdmap build-maps` on a long record of one channel and an encoder.

python -m benchmarks.build --minutes 60 --pulses 60
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

RATE, SPEED = 25_600, 3.0  # samples, and turns of the carrier, a second
SPEC = """
gears: {{kind: planetary, planet: 31, ring: 95, sun: 31, planets: 3}}
averages: 4
records:
  - files: long.h5
    signals: {{sensor: acceleration}}
    rate: {rate}
    phase: {{kind: pulses, channel: encoder, per_turn: {pulses}}}
    role: train/good
"""


def write(path: Path, minutes: int, pulses: int) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        a, e = (file.create_dataset(name, (RATE * 60 * minutes,), "f4") for name in ("acceleration", "encoder"))
        for minute in range(minutes):
            theta = SPEED * (60 * minute + np.arange(60 * RATE) / RATE)
            part = slice(minute * 60 * RATE, (minute + 1) * 60 * RATE)
            near = np.exp(2 * (np.cos(2 * np.pi * theta) - 1))
            a[part] = near * np.cos(2 * np.pi * 95 * theta) + 0.3 * rng.standard_normal(len(theta))
            e[part] = np.clip(20 * np.sin(2 * np.pi * pulses * theta), -1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--pulses", type=int, default=60, help="in a turn of the carrier")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "long.h5"), given.minutes, given.pulses)
        Path(folder, "spec.yaml").write_text(SPEC.format(rate=RATE, pulses=given.pulses))
        command = [sys.executable, "-m", "hdmap_mlflow", "build-maps", f"{folder}/spec.yaml", "--out", f"{folder}/maps"]
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL)
        passed, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        maps = len(list(Path(folder, "maps/sensor/train/good").iterdir()))
    print(f"{given.minutes} minutes, {given.pulses} pulses a turn: {maps} maps in {passed:.1f} s")
    print(f"{used.ru_utime + used.ru_stime:.1f} s of processors, {used.ru_maxrss / 1024:.0f} MB at most")


if __name__ == "__main__":
    main()
