"""Grids and searches over adapters that cannot be: refused before anything is trained."""

import json

import pytest

pytestmark = pytest.mark.slow

SMALL = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
GRID = [
    (["--adapters", "zz", "--k", "4"], ["zz", "did you mean 'z'"]),
    (["--adapters", "z"], ["--adapters z", "--k"]),
    (["--adapters", "z", "--k", "0"], ["--adapters z", "--k"]),
    (["--k", "-1"], ["adapt.k", "-1"]),
    (["--k", "1.5"], ["adapt.k", "1.5"]),
    (["--k", "4,many"], ["adapt.k", "many"]),
    (["--k", ","], ["--k"]),
    (["--adapters", "z+z", "--k", "4"], ["z", "twice"]),
    (["--adapters", "robust_z", "--k", "1"], ["robust_z", "adapt.k=2"]),
    (["--k", "4,99"], ["adapt.k=99", "domain_", "lower adapt.k"]),
    (["--k", "999"], ["k=999", "adapt.pool"]),
    (
        ["--models", "patchcore,toothwise", "--adapters", "z,merge+z", "--k", "0,4", "--overrides", ""],
        ["merge needs features", "toothwise has not", "it can have: z, robust_z"],
    ),
    (
        ["--models", "toothwise", "--overrides", "adapt.adapters=coral,adapt.k=4"],
        ["coral needs features", "toothwise has not"],
    ),
]


@pytest.mark.parametrize(("arguments", "says"), GRID, ids=lambda one: " ".join(one)[:60])
def test_a_grid_over_adapters_is_refused(refused, maps, arguments, says):
    small = [] if "--overrides" in arguments else ["--overrides", SMALL]
    given = ("--data-root", maps, "--sources", "domain_A", "--no-ray", *small, *arguments)
    refused("grid", *given, says=says, leaves=("cache/maps", "cache/checked"))  # maps are read to be counted


@pytest.mark.parametrize("name", ["adapt.k", "adapt.seed", "adapt.from"])
def test_a_search_of_what_validation_cannot_see_is_refused(refused, maps, tmp_path, name):
    law = {"type": "int", "low": 1, "high": 4}
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"c": {"name": "patchcore_own", "config": {}, "search": {name: law}}}))
    given = ("--condition", "own", "--condition-file", file, "--overrides", SMALL, "--data-root", maps)
    refused("tune", "patchcore", *given, says=[name])
