"""Adapters that cannot be had: one line that names the culprit and the way out, before anything is trained."""

import pytest
from small import RANDOM_PATCHCORE, over

pytestmark = pytest.mark.slow
SMALL = over(RANDOM_PATCHCORE, "data.packed=false")
TRAIN = {
    "no adapter": (["--adapters", "merg", "--k", "4"], ["unknown adapter 'merg'", "known: z"]),
    "no maps for it": (["--adapters", "z"], ["--adapters z", "--k 16"]),
    "an adapter twice": (["--adapters", "z,z", "--k", "4"], ["z stands twice"]),
    "too few maps for the adapter": (["--adapters", "robust_z", "--k", "1"], ["robust_z needs adapt.k=2"]),
    "more maps than there are": (
        ["--k", "100"],
        ["adapt.k=100 is more than domain_B has", "healthy maps in train/good"],
    ),
    "more maps than the pool": (["--k", "200"], ["k=200", "pool=128", "raise adapt.pool"]),
    "more of the reported maps than there are": (
        ["--k", "100", "--overrides", f"{SMALL},adapt.from=test"],
        ["adapt.k=100", "healthy maps in test/good", "must stay reported"],
    ),
    "k that is no number": (["--k", "many"], ["adapt.k", "many"]),
    "k below nothing": (["--k=-1"], ["adapt.k", "-1"]),
    "no draws": (["--k", "4", "--overrides", f"{SMALL},adapt.draws=0"], ["adapt.draws"]),
    "another place": (["--overrides", f"{SMALL},adapt.from=val"], ["adapt.from", "val"]),
    "another word": (["--overrides", f"{SMALL},adapt.kk=4"], ["adapt.kk", "did you mean 'k'"]),
}


@pytest.mark.parametrize("name", TRAIN)
def test_a_run_that_cannot_be_adapted_as_asked_does_not_start(refused, maps, name):
    flags, says = TRAIN[name]
    small = [] if "--overrides" in flags else ["--overrides", SMALL]
    refused("train", "patchcore", "--data-root", maps, *small, *flags, says=says)
