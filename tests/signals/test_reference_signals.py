"""Maps against a naive reference: loops over the whole record, nothing in pieces."""

import numpy as np
import pytest
from gearbox import COLUMNS, PERIOD, RATE, ROWS, carrier, encoder, spec, vibration
from reference import signals as naive

from hdmap_mlflow.signals import angle, maps, resample
from hdmap_mlflow.signals import average as averaging
from hdmap_mlflow.signals.plan import Recording
from hdmap_mlflow.signals.spec import Spec

SAMPLES = 16


@pytest.fixture(scope="module", params=[(24, 1.0, 0.005, 4.0), (9, 3.0, 0.0, 6.5)], ids=["ramp", "upsampled"])
def made(tmp_path_factory, request):
    """A record, its maps by the package, read in pieces that are shorter than a period, and by the reference."""
    seconds, speed, ramp, kept = request.param
    theta = carrier(seconds, speed, ramp)
    x, pulses = vibration(theta, fault=0.8), encoder(theta)
    folder = tmp_path_factory.mktemp("record")
    np.savez(folder / "good.npz", sensor=x, encoder=pulses, rate=float(RATE))
    law = Spec.model_validate(spec(averages=2, samples=SAMPLES, orders=kept))
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(angle, "BLOCK", 5000)
        patch.setattr(resample, "BLOCK", 5000)
        one = Recording(0, folder / "good.npz", "good", law.records[0])
        averaging.average(one, law, folder, taken.append, lambda share: None)
    return law, taken, x, *naive.meshes(pulses, 20, COLUMNS)


def test_maps_are_those_of_the_loops(made):
    law, taken, x, moments, counts = made
    passed = np.interp(np.arange(0, counts[-1] + 1e-9, COLUMNS), counts, moments)
    frequencies = COLUMNS / np.diff(passed) * RATE
    assert len(taken) == 2
    for sums in taken:
        signal = naive.resampled(x, RATE, moments, counts, frequencies, SAMPLES, law.kept_orders, sums.mesh, 2, PERIOD)
        ours = maps.make(sums.mesh, sums.sums[..., 0], 2, (0, 0), law)
        assert np.abs(ours.average - signal.mean(axis=0)).max() < 1e-10
        reference = naive.mapped(signal, sums.mesh, ROWS, COLUMNS)
        assert np.abs(ours.pixels - reference).max() < 1e-7  # float32
        for half, part in zip(ours.halves, (signal[:1], signal[1:]), strict=True):
            assert np.abs(half - naive.mapped(part, sums.mesh, ROWS, COLUMNS)).max() < 1e-7
