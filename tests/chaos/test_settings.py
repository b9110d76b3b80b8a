"""Settings that cannot be: refused before anything starts."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pachcore"], ["pachcore", "did you mean 'patchcore'"]),
        (["--condition", "quikstart"], ["quikstart", "did you mean 'quickstart'"]),
        (["--seed", "x"], ["train.seed", "x"]),
    ],
)
def test_a_run_is_refused(refused, maps, arguments, says):
    refused("train", *arguments, "--data-root", maps, says=says)
