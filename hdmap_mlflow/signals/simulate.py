"""SIMULATED vibration of a planetary gearbox, with an encoder: for demos and tests, never for conclusions.

No measured signal enters it. What a sensor on the ring hears:

- every planet passes it, heard with the weight exp(2 (cos(angle to the sensor) - 1));
- the mesh, harmonics of amplitudes 1, .5 and .25, and deviations of single teeth of planets, ring and sun as they were
  made: another for each tooth, the same in every recording, for it is the same rig;
- a damaged tooth of planet 0 rings from the moment on at which it meets the ring and, fainter and half a planet turn
  later, the sun. Its phase is that of the contact: locked to the mesh, an order that is not whole averages to zero;
- noise. Speed ripples and ramps, load differs by recording, each sensor has a place and a resonance of its own.

A recording begins at some turn of the carrier that nobody wrote down, as a real one does: the damaged tooth is in
another row in each. `SIMULATED.json` says in which. Constants are chosen, not fitted to any gearbox.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import signal

from hdmap_mlflow import __version__
from hdmap_mlflow.data.simulate import MARKER
from hdmap_mlflow.errors import BadInput, nearest
from hdmap_mlflow.files import expanded, new_folder, to_json, why
from hdmap_mlflow.signals.gears import Planetary

SPEC = "SPEC.yaml"
GEARS = Planetary(kind="planetary", planet=31, ring=95, sun=31, planets=3)
RATE, SPEED = 8000, 4.0  # Hz: samples, and turns of the carrier; 21 samples a mesh
PULSES = 60  # of the encoder in a turn of the carrier
HARMONICS = (1.0, 0.5, 0.25)
DEVIATION = 0.1  # sd over teeth: pitch deviations of a few um (ISO 1328); a mesh of some ten um is assumed
BURST, DECAY = 2000, 0.002  # Hz and seconds, of a damaged tooth
AT_SUN = 0.5  # of its strength at the ring
RIPPLE, RIPPLE_SECONDS = 0.01, 3.7
RAMP, LOAD = 0.05, 0.1  # largest change of speed in a recording, and of load from one to another, as shares
STEP = 2.0**-12  # of the converter; it also hides by how much processors differ in a sine


@dataclass(frozen=True)
class Sensor:
    """Its place on the ring in turns, its gain, and a resonance (Hz) that lets so much more through."""

    place: float
    gain: float
    resonance: float
    more: float


SENSORS = {
    "sensor_1": Sensor(0.0, 1.0, 2100, 0.5),
    "sensor_2": Sensor(0.27, 0.7, 1300, 1.0),
    "sensor_3": Sensor(0.61, 0.5, 700, 1.5),
}


@dataclass(frozen=True)
class Encoder:
    """Its errors, in meshes: an `offset`, one `once_a_turn`, a `drift` over a recording; and a share of pulses lost."""

    offset: float = 0.0
    once_a_turn: float = 0.0
    drift: float = 0.0
    missing: float = 0.0


ENCODERS = {
    "sound": Encoder(),
    "offset": Encoder(offset=0.2),
    "once_a_turn": Encoder(once_a_turn=0.5),
    "drift": Encoder(drift=1.0),
    "missing": Encoder(missing=0.002),
}


@dataclass(frozen=True)
class Recording:
    """What a sensor's file holds: where it stands in the folder, and what is damaged by how much (0: nothing)."""

    name: str
    role: str
    severity: float
    seed: np.random.SeedSequence


def simulate_vibration(
    out: Path,
    train: int = 8,
    test: int = 6,
    maps: int = 3,
    averages: int = 2,
    severities: Sequence[float] = (0.3, 0.6),
    teeth: Sequence[int] = (7,),
    noise: float = 0.3,
    deviation: float = DEVIATION,
    encoder: str = "sound",
    seed: int = 0,
) -> Path:
    """Write SIMULATED records of three sensors and an encoder, and the SPEC.yaml with which `build-maps` takes them.

    `train` healthy recordings, and `test` of each state: healthy, and damaged by each of the `severities`, which are
    amplitudes in units of the mesh's. A recording is long enough for `maps` maps of so many `averages`. `teeth`: which
    of planet 0 are damaged. `deviation`: sd of what a healthy tooth adds to the mesh, over the teeth of a gear, in the
    same unit; 0: teeth are all alike. `encoder`: a key of `ENCODERS`. `<role>/[severity_<s>/]<number>.npz` holds the
    sensors (float32), `encoder` (int8) and `rate`. The same arguments give the same bytes. Returns `out`, which appears
    whole or not at all; raises BadInput.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("maps", maps, 1), ("averages", averages, 1)):
        if value < least:
            raise BadInput(f"--{name} {value} is too small: give {least} or more")
    if encoder not in ENCODERS:
        raise BadInput(f"unknown encoder '{encoder}'{nearest(encoder, ENCODERS)}; known: {', '.join(ENCODERS)}")
    if not severities or min(severities) <= 0 or len({f"{one:g}" for one in severities}) < len(severities):
        raise BadInput(f"--severities {_listed(severities)}: give amplitudes above 0, each once in six digits")
    if not teeth or min(teeth) < 0 or max(teeth) >= GEARS.planet or len(set(teeth)) < len(teeth):
        raise BadInput(f"--teeth {_listed(teeth)}: give teeth of a planet, 0 to {GEARS.planet - 1}, each once")
    if min(seed, noise, deviation) < 0:
        raise BadInput(f"--seed {seed} --noise {noise:g} --deviation {deviation:g}: none may be below 0")
    out, turns = expanded(out).absolute(), maps * averages * GEARS.period // GEARS.ring + 3
    try:
        with new_folder(out) as part:
            about = {}
            for one in _recordings(train, test, severities, seed):
                file = part / f"{one.name}.npz"
                file.parent.mkdir(parents=True, exist_ok=True)
                arrays, about[one.name] = record(one, turns, teeth, noise, ENCODERS[encoder], deviation)
                np.savez(file, allow_pickle=False, **arrays, rate=np.float64(RATE))
            (part / SPEC).write_text(_spec(averages, severities, deviation > 0), encoding="utf-8")
            facts = {"simulated": True, "what": "vibration", "hdmap_mlflow": __version__, "seed": seed, "noise": noise}
            facts |= {"deviation": deviation, "teeth": list(teeth), "encoder": asdict(ENCODERS[encoder])}
            facts["recordings"] = about
            (part / MARKER).write_text(to_json(facts) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {out} ({why(error)}): give --out a folder you can write to") from error
    return out


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def _folders(severities: Sequence[float]) -> Iterator[tuple[str, str, float]]:
    """Folder, role and severity of each state; the healthy ones first."""
    yield from ((role, role, 0.0) for role in ("train/good", "test/good"))
    yield from ((f"test/fault/severity_{one:g}", "test/fault", one) for one in severities)


def _recordings(train: int, test: int, severities: Sequence[float], seed: int) -> Iterator[Recording]:
    for state, (folder, role, severity) in enumerate(_folders(severities)):
        for number in range(test if state else train):
            own = np.random.SeedSequence(
                seed, spawn_key=(state, number)
            )  # more recordings leave the others as they are
            yield Recording(f"{folder}/{number:03d}", role, severity, own)


def _spec(averages: int, severities: Sequence[float], patterned: bool) -> str:
    phase = {"kind": "pulses", "channel": "encoder", "per_turn": PULSES}
    records = []
    for folder, role, severity in _folders(severities):
        one = {"files": f"{folder}/*.npz", "signals": {name: name for name in SENSORS}, "rate": "rate"}
        records.append(one | {"phase": dict(phase), "role": role} | ({"severity": severity} if severity else {}))
    content = {"gears": GEARS.model_dump(), "averages": averages}
    content |= {"align": "rows"} if patterned else {}  # teeth that are all alike have no pattern
    content["records"] = records
    head = "# SIMULATED vibration, by hdmap simulate-vibration:  hdmap build-maps SPEC.yaml --out maps\n"
    return head + yaml.safe_dump(content, sort_keys=False)


def record(
    one: Recording, turns: int, teeth: Sequence[int], noise: float, encoder: Encoder, deviation: float = DEVIATION
) -> tuple[dict[str, NDArray], dict[str, object]]:
    """The channels of a recording of so many turns of the carrier, and what is true of it."""
    rng = np.random.default_rng(one.seed)
    load, ramp = 1 + LOAD * rng.uniform(-1, 1), RAMP * rng.uniform(-1, 1)
    began = int(rng.integers(GEARS.period // GEARS.ring))
    time = np.arange(round(turns / SPEED * RATE)) / RATE
    theta = began - 0.5 / PULSES + carrier(time, ramp, float(rng.uniform()))
    channels = {
        name: _heard(theta, sensor, load, one.severity * load, teeth, noise, deviation, rng).astype(np.float32)
        for name, sensor in SENSORS.items()
    }
    rows = [(tooth - began * GEARS.ring) % GEARS.planet for tooth in teeth] if one.severity else []
    about = {"role": one.role, "severity": one.severity, "rows": rows, "load": round(load, 4), "ramp": round(ramp, 4)}
    return channels | {"encoder": pulses(theta, encoder, rng)}, about


def carrier(time: NDArray[np.float64], ramp: float = 0.0, phase: float = 0.0) -> NDArray[np.float64]:
    """Angle of the carrier in turns, at times in seconds from 0 on."""
    ripple = RIPPLE * RIPPLE_SECONDS / (2 * np.pi)
    wave = np.sin(2 * np.pi * (time / RIPPLE_SECONDS + phase)) - np.sin(2 * np.pi * phase)
    return SPEED * (time + ramp * (time**2 / time[-1] - time) / 2 + ripple * wave)


def pulses(theta: NDArray[np.float64], encoder: Encoder, rng: np.random.Generator) -> NDArray[np.int8]:
    """The encoder's channel: it rises past 0 at whole parts of a turn, but for its errors."""
    wobble = encoder.once_a_turn * np.sin(2 * np.pi * theta)
    off = encoder.offset + wobble + encoder.drift * np.linspace(0, 1, len(theta))
    angle = PULSES * (theta + off / GEARS.ring)
    level = np.rint(100 * np.clip(3 * np.sin(2 * np.pi * angle), -1, 1))
    numbers = np.floor(angle).astype(np.int64)
    numbers -= numbers[0]
    lost = rng.random(numbers[-1] + 1) < encoder.missing
    lost[:2] = False  # the first tells which tooth is which
    return np.where(lost[numbers], -100, level).astype(np.int8)


def _heard(
    theta: NDArray[np.float64],
    sensor: Sensor,
    load: float,
    severity: float,
    teeth: Sequence[int],
    noise: float,
    deviation: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """What one sensor makes of it, in units of the first mesh harmonic at a load of 1."""
    heard = np.zeros(len(theta))
    for planet in range(GEARS.planets):
        behind = theta - planet / GEARS.planets
        mesh = GEARS.ring * behind
        part = load * _meshing(mesh, planet, deviation)
        if severity and planet == 0:
            part += severity * _ringing(mesh, teeth)
        heard += np.exp(2 * (np.cos(2 * np.pi * (behind - sensor.place)) - 1)) * part
    b, a = signal.iirpeak(sensor.resonance, 3, fs=RATE)
    heard += sensor.more * signal.lfilter(b, a, heard)
    return np.rint(sensor.gain * (heard + noise * rng.standard_normal(len(theta))) / STEP) * STEP


def _meshing(mesh: NDArray[np.float64], planet: int, deviation: float) -> NDArray[np.float64]:
    """The mesh harmonics of one planet, and what its teeth, those of the ring and, fainter, those of the sun add.

    What a tooth adds begins and ends at nothing: without a step from one to the next. Carrier and sun turn the same
    way: a planet meets the sun's teeth (ring + sun) / planets later than the one before it.
    """
    number = np.floor(mesh).astype(np.int64)
    later = planet * (GEARS.ring + GEARS.sun) // GEARS.planets
    teeth = _pattern(GEARS.planet, planet)[number % GEARS.planet] + _pattern(GEARS.ring, 99)[number % GEARS.ring]
    teeth += AT_SUN * _pattern(GEARS.sun, 98)[(number + later) % GEARS.sun]
    turn = 2 * np.pi * (mesh - number)
    first = np.cos(turn)
    whole = sum(amplitude * np.cos(h * turn) for h, amplitude in enumerate(HARMONICS, 1))
    return whole + deviation * teeth * (1 - first)


def _pattern(teeth: int, part: int) -> NDArray[np.float64]:
    """How the teeth of a part of the rig deviate: it is the same rig whatever the seed."""
    return np.random.default_rng([teeth, part]).standard_normal(teeth)


def _ringing(mesh: NDArray[np.float64], teeth: Sequence[int]) -> NDArray[np.float64]:
    """Of damaged teeth, from the moments at which they meet ring and sun on."""
    out = np.zeros(len(mesh))
    for tooth in teeth:
        for where, strength in ((tooth, 1.0), (tooth + GEARS.planet / 2, AT_SUN)):
            turns = np.arange(np.ceil((mesh[0] - where) / GEARS.planet), (mesh[-1] - where) / GEARS.planet)
            moments = np.interp(where + turns * GEARS.planet, mesh, np.arange(len(mesh)))
            places = np.ceil(moments).astype(np.int64)[:, None] + np.arange(round(6 * DECAY * RATE))
            since = (places - moments[:, None]) / RATE
            burst = strength * np.exp(-since / DECAY) * np.sin(2 * np.pi * BURST * since)
            inside = places < len(mesh)
            np.add.at(out, places[inside], burst[inside])
    return out
