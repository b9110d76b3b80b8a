"""What a grid consists of: each run once, checked before anything starts, and what the store knows of it."""

import json
import os
from pathlib import Path

import pytest
import tifffile
from fakes import cells

from hdmap_mlflow import plan
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.process import identity

PATCHCORE = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))


def expand(maps, repeat=1, **flags):
    flags = {"data_root": str(maps), "overrides": PATCHCORE, **flags}
    return plan.expand(plan.read_blocks(flags), repeat)


def names(found):
    return [cell.name for cell in found]


def test_the_grid_is_the_product_and_every_run_has_its_own_fingerprint(maps):
    found = expand(maps, seeds="0,1", targets="domain_B,domain_C")
    assert names(found) == [f"patchcore/quickstart/domain_{x}/s{s}" for x in "ABC" for s in (0, 1)]
    assert len({cell.fingerprint for cell in found}) == 6
    assert found[2].config.data.target_domains == ("domain_C",), "a source is no target of its own"
    assert names(expand(maps, 2, sources="domain_A")) == [
        "patchcore/quickstart/domain_A/s0", "patchcore/quickstart/domain_A/s0 #2"
    ]  # fmt: skip


def test_blocks_of_a_file_are_joined_and_a_run_of_two_blocks_is_there_once(maps):
    Path("grid.yaml").write_text("- {sources: [domain_A, domain_B]}\n- {sources: domain_B, seeds: [0, 1]}\n")
    blocks = plan.read_blocks({"data_root": str(maps), "overrides": PATCHCORE}, "grid.yaml")
    assert names(plan.expand(blocks)) == [f"patchcore/quickstart/{x}" for x in
                                          ("domain_A/s0", "domain_B/s0", "domain_B/s1")]  # fmt: skip
    assert [b.sources for b in plan.read_blocks({"sources": "domain_C"}, "grid.yaml")] == ["domain_C"] * 2


def test_the_fingerprint_is_that_of_a_single_run_and_follows_the_data(maps, tmp_path):
    import shutil

    from hdmap_mlflow import run

    copy = shutil.copytree(maps, tmp_path / "copy")
    before = expand(copy, sources="domain_A")[0]
    flags = {"data.root": str(maps), "data.source_domain": "domain_A"}
    single = run.configure("patchcore", flags=flags, overrides=PATCHCORE)
    assert dict(before.tags) == run.identity(single, run.read(single))
    file = next((copy / "domain_B/test/good").iterdir())
    tifffile.imwrite(file, tifffile.imread(file) + 1)
    assert expand(copy, sources="domain_A")[0].fingerprint != before.fingerprint


def test_a_check_is_kept_until_the_models_code_changes(maps, monkeypatch):
    from hdmap_mlflow.models import builder

    first = expand(maps, sources="domain_A")[0]
    monkeypatch.setattr(builder, "check", lambda config: pytest.fail("checked again"))
    assert expand(maps, sources="domain_A")[0].tags == first.tags
    (kept,) = Path(os.environ["HDMAP_CACHE"]).glob("checked/*.json")
    known = json.loads(kept.read_text())
    base = next(file for file in known["sources"] if "anomalib" in file)  # the class that ours derives from
    known["sources"][base] = "of an older file"
    kept.write_text(json.dumps(known))
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        expand(maps, sources="domain_A")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"models": "patchcore,pachcore"}, "did you mean 'patchcore'"),
        ({"conditions": "quickstart,quikstart"}, "did you mean 'quickstart'"),
        ({"sources": "domain_A,domain_X"}, "unknown domain 'domain_X'"),
        ({"seeds": "0,x"}, "train.seed"),
        ({"seeds": ","}, "the grid is empty"),
        ({"overrides": "model.num_neighbours=3"}, "did you mean 'num_neighbors'"),
        ({"data_root": "/no/such/root"}, "/no/such/root"),
        ({"split_seed": "x"}, "split_seed"),
    ],
)
def test_wrong_input_anywhere_in_the_grid_is_named_before_anything_starts(maps, flags, says):
    with pytest.raises(BadInput, match=says):
        expand(maps, **flags)


@pytest.mark.parametrize(
    ("text", "says"),
    [("model: patchcore", "did you mean 'models'"), ("3", "expected models"), ("[", "cannot be read")],
)
def test_a_grid_file_that_is_none_is_refused(text, says):
    Path("grid.yaml").write_text(text)
    with pytest.raises(BadInput, match=says):
        plan.read_blocks({}, "grid.yaml")
    with pytest.raises(BadInput, match="none.yaml"):
        plan.read_blocks({}, "none.yaml")


def test_what_the_store_knows_decides_what_is_missing(store):
    """Finished counts before failed; a run whose process died is closed; one of another host is left alone."""

    def made(cell, ended="", process="", **tags):
        run_id = store.create(cell.name, {**cell.tags, "hdmap.kind": "run", "hdmap.process": process, **tags}, None)
        if ended:
            store.close(run_id, ended, "because")
        return run_id

    found = cells(7)
    made(found[0], "failed"), made(found[0], "finished"), made(found[0], "failed")
    made(found[1], "failed")
    made(found[2], process=identity())
    dead = made(found[3], process=identity().rpartition(":")[0] + ":1")
    made(found[4], process="another-host:1:1")
    made(found[5], "finished", **{"hdmap.fingerprint": "of half the batch", "hdmap.planned": found[5].fingerprint})
    known = plan.look_up(found, store)
    assert [cell.status for cell in known] == [
        "finished", "failed", "running", "missing", "running", "finished", "missing"
    ]  # fmt: skip
    assert store.client.get_run(dead).info.status == "KILLED"
    twice = [plan.Cell(found[0].config, found[0].tags, i) for i in range(2)]
    made(found[0], "finished")
    assert [cell.status for cell in plan.look_up(twice, store)] == ["finished", "finished"]
