"""A small planetary gearbox that turns before a sensor: 5 planet teeth, 13 ring teeth, and specs for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

RATE, ROWS, COLUMNS, PLANETS = 2000, 5, 13, 3
PERIOD = ROWS * COLUMNS  # meshes, 5 turns of the carrier
GEARS = {"kind": "planetary", "planet": ROWS, "ring": COLUMNS, "sun": 5, "planets": PLANETS}
PULSES = {"kind": "pulses", "channel": "encoder", "per_turn": 20}


def carrier(seconds: float = 24, speed: float = 1.0, ramp: float = 0.0, ripple: float = 0.01) -> np.ndarray:
    """Its angle in turns at every sample; `ramp` in turns/s^2, `ripple` a share of the speed, once in 3.7 s."""
    t = np.arange(round(seconds * RATE)) / RATE
    return speed * t + ramp * t**2 / 2 + ripple * speed * 3.7 / (2 * np.pi) * np.sin(2 * np.pi * t / 3.7)


def vibration(theta: np.ndarray, fault: float = 0.0, tooth: int = 2, noise: float = 0.1, seed: int = 0) -> np.ndarray:
    """Three planets that pass the sensor; a tooth of the first rings from each of its contacts on."""
    x = noise * np.random.default_rng(seed).standard_normal(len(theta))
    for planet in range(PLANETS):
        behind = theta - planet / PLANETS
        near, mesh = np.exp(2 * (np.cos(2 * np.pi * behind) - 1)), COLUMNS * behind
        x += near * sum(a * np.cos(2 * np.pi * h * mesh) for h, a in ((1, 1.0), (2, 0.5), (3, 0.25)))
        if planet == 0:
            since = (mesh % 1) * np.gradient(theta) ** -1 / RATE / COLUMNS  # seconds since contact
            hit = np.floor(mesh) % ROWS == tooth
            x += near * hit * fault * np.exp(-since / 0.02) * np.sin(2 * np.pi * 70 * since)
    return x


def encoder(theta: np.ndarray, per_turn: int = 20) -> np.ndarray:
    """Analogue pulses, whose rising edges pass 0 at whole parts of a turn."""
    return np.clip(8 * np.sin(2 * np.pi * per_turn * theta), -1, 1)


def write_record(path: Path, theta: np.ndarray | None = None, **of_vibration: float) -> Path:
    """A record as .npz: `sensor` and one that is half as loud, `encoder`, `angle` (degrees, wrapped) and `rate`."""
    theta = carrier() if theta is None else theta
    path.parent.mkdir(parents=True, exist_ok=True)
    x, phase = vibration(theta, **of_vibration), {"encoder": encoder(theta), "angle": theta * 360 % 360}
    np.savez(path, sensor=x, quiet=0.5 * x, **phase, rate=float(RATE))
    return path


def record(files: str = "good.npz", role: str = "train/good", **more: object) -> dict:
    return {"files": files, "signals": {"A": "sensor"}, "rate": "rate", "phase": PULSES, "role": role} | more


def spec(*records: dict, **more: object) -> dict:
    return {"gears": GEARS, "averages": 2, "records": list(records) or [record()]} | more


def write_spec(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
