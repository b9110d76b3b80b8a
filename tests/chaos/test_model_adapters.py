"""Adapters that a model cannot have, and scores of an anomaly map that it has not: refused before anything starts."""

import pytest

pytestmark = pytest.mark.slow

CASES = {
    "features of a model without": (
        ["toothwise", "--adapters", "merge,z", "--k", "4"],
        ["merge needs features", "toothwise has not", "it can have: z, robust_z, conformal, log_z"],
    ),
    "batch statistics of a model without": (
        ["toothwise", "--adapters", "adabn", "--k", "4"],
        ["adabn needs a network with BatchNorm", "toothwise has not", "log_z"],
    ),
    "fewer maps than are left when one is left out": (
        ["patchcore", "--adapters", "coral,z", "--k", "1"],
        ["coral needs adapt.k=2 or more, got 1"],
    ),
    "two adapters that change the model": (
        ["patchcore", "--adapters", "merge,coral", "--k", "4"],
        ["coral changes the model", "only the first"],
    ),
    "maps of the target for an adapter that takes none": (
        ["patchcore", "--adapters", "log_z", "--k", "4"],
        ["log_z takes no map of the target", "adapt.k=0"],
    ),
    "a row of a map that there is not": (
        ["dfkde", "--overrides", "score.image=row"],
        ["score.image=row reads an anomaly map", "dfkde has none", "published"],
    ),
    "a row of a map that a setting leaves out": (
        ["dfm", "--overrides", "score.image=max,model.score_type=nll"],
        ["score.image=max", "dfm has none with model.score_type=nll"],
    ),
    "a score that is none": (["patchcore", "--overrides", "score.image=rows"], ["score.image", "rows", "'row'"]),
    "a key of the section that is none": (["patchcore", "--overrides", "score.imge=row"], ["score.imge", "image"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(case: str, refused, maps):  # noqa: ANN001
    arguments, says = CASES[case]
    model, *rest = arguments
    refused("train", model, "--condition", "quickstart", "--data-root", str(maps), *rest, says=says)
