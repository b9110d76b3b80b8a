"""What a grid consists of: each run once, checked before anything starts, and what the store knows of it."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import tifffile
from fakes import cells
from maps import write_domain

from hdmap_mlflow import files
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.grid import plan
from hdmap_mlflow.process import process_name

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
        "patchcore/quickstart/domain_A/s0",
        "patchcore/quickstart/domain_A/s0 #2",
    ]


def test_what_runs_import_is_imported_from_the_moment_that_the_settings_can_be_read(maps, monkeypatch):
    order, check = [], plan._check
    monkeypatch.setattr(plan, "_check", lambda config: order.append("check") or check(config))
    flags = {"data_root": str(maps), "overrides": PATCHCORE, "seeds": "0,1", "sources": "domain_A"}
    plan.expand(plan.read_blocks(flags), composed=lambda: order.append("begin"))
    assert order == ["begin", "check", "check"]
    with pytest.raises(BadInput, match="unknown key"):
        plan.expand(plan.read_blocks(flags | {"overrides": "train.seeed=3"}), composed=lambda: order.append("late"))
    assert "late" not in order


def test_blocks_of_a_file_are_joined_and_a_run_of_two_blocks_is_there_once(maps):
    Path("grid.yaml").write_text("- {sources: [domain_A, domain_B]}\n- {sources: domain_B, seeds: [0, 1]}\n")
    blocks = plan.read_blocks({"data_root": str(maps), "overrides": PATCHCORE}, "grid.yaml")
    assert names(plan.expand(blocks)) == [
        f"patchcore/quickstart/{x}" for x in ("domain_A/s0", "domain_B/s0", "domain_B/s1")
    ]
    assert [b.sources for b in plan.read_blocks({"sources": "domain_C"}, "grid.yaml")] == ["domain_C"] * 2


def test_a_block_says_all_that_its_runs_have_in_common_and_what_differs(maps):
    block = plan.Block(
        models="padim, patchcore",
        conditions=["baseline", "quickstart"],
        sources="domain_B,domain_A",
        seeds="3, 4,",
        targets=["domain_A", "domain_B", "domain_C"],
        validation="synthetic",
        split_seed=7,
        data_root=str(maps),
        overrides="data.batch_size=4,tracking.output_dir=there,tracking.uri=sqlite:///own.db",
    )
    found = plan._configs(block)
    assert [config.name for config in found] == [
        f"{model}/{condition}/domain_{source}/s{seed}"
        for model in ("padim", "patchcore")
        for condition in ("baseline", "quickstart")
        for source in "BA"
        for seed in (3, 4)
    ]
    assert {config.data.target_domains for config in found} == {("domain_A", "domain_C"), ("domain_B", "domain_C")}
    shared = {(c.data.validation, c.data.split_seed, c.data.batch_size, c.data.root) for c in found}
    assert shared == {("synthetic", 7, 4, str(maps))}
    assert {c.tracking.output_dir for c in found} == {str(Path("there").absolute())}, "wherever a child is started"
    assert {c.tracking.uri for c in found} == {f"sqlite:///{Path('own.db').absolute()}"}
    assert found[0].model.settings["n_features"] == 100, "the registry's published default"


def test_all_means_every_model_condition_and_source(maps, tmp_path):
    from hdmap_mlflow.config import packaged_conditions
    from hdmap_mlflow.models.registry import REGISTRY

    where = {"data_root": str(maps)}
    every = plan._configs(plan.Block(models="all", sources="domain_A", **where))
    assert [config.model.name for config in every] == list(REGISTRY)
    packaged = plan._configs(plan.Block(conditions="all", sources="domain_A", **where))
    assert [config.condition for config in packaged] == list(packaged_conditions("patchcore"))
    file = tmp_path / "mine.json"
    file.write_text(json.dumps([{"name": name, "config": {"num_neighbors": 3}} for name in ("patchcore_x", "y")]))
    own = plan._configs(plan.Block(conditions="all", condition_file=str(file), **where))
    assert [config.name for config in own[:4]] == [f"patchcore/x/domain_{x}/s0" for x in "ABC"] + [
        "patchcore/y/domain_A/s0"
    ]
    assert own[0].model.settings == {"num_neighbors": 3} and own[0].data.target_domains == "auto"


def test_blocks_are_read_from_flags_and_a_file_and_a_given_flag_wins():
    assert plan.read_blocks({}) == [plan.Block()]
    assert plan.read_blocks({"models": "padim", "seeds": None}) == [plan.Block(models="padim")]
    Path("grid.yaml").write_text("models: [padim]\nseeds: [0, 1]\nsplit_seed: 3\n")
    assert plan.read_blocks({"seeds": "5"}, "grid.yaml") == [plan.Block(models=["padim"], seeds="5", split_seed=3)]
    assert [plan._names(given) for given in ("a, b,,", ["a", " b"], (1, 2), 3)] == [
        ["a", "b"],
        ["a", "b"],
        ["1", "2"],
        ["3"],
    ]
    default = plan.Block()
    assert (default.models, default.conditions, default.sources, default.targets) == (
        "patchcore",
        "quickstart",
        "all",
        "auto",
    )


def test_a_grid_is_of_one_store_and_one_experiment(maps):
    blocks = [
        plan.Block(data_root=str(maps), sources="domain_A", overrides=f"{PATCHCORE},tracking.experiment={name}")
        for name in "ab"
    ]
    assert len(plan.expand(blocks[:1])) == 1
    with pytest.raises(BadInput, match="several stores or experiments; give all one tracking.uri and experiment"):
        plan.expand(blocks)


def test_every_domain_is_read_once_and_every_run_has_its_own(maps, monkeypatch):
    from hdmap_mlflow.data import layout

    read, read_one, names = layout.read_domains, layout.read_domain, []
    monkeypatch.setattr(
        layout, "read_domain", lambda root, name, pack: names.append(name) or read_one(root, name, pack)
    )
    blocks = plan.read_blocks({"data_root": str(maps), "overrides": PATCHCORE, "targets": "domain_C"})
    found = plan.expand([*blocks, *plan.read_blocks({"data_root": str(maps), "overrides": PATCHCORE})])
    assert sorted(names) == ["domain_A", "domain_B", "domain_C"]
    whole = layout.digest(read(maps, ["domain_C", "domain_B", "domain_A"]))
    pair = layout.digest(read(maps, ["domain_A", "domain_C"]))
    alone = layout.digest(read(maps, ["domain_C"]))
    digests = [cell.tags["hdmap.data_digest"] for cell in found]
    assert (digests[0], digests[2], digests[3:]) == (pair, alone, [whole] * 3)
    assert {cell.tags["hdmap.simulated"] for cell in found} == {"false"}


def test_a_grid_packs_no_maps_where_a_run_would_not(maps):
    """A full disk advises `data.packed=false`; what is read, and so the fingerprint, stays the same."""
    cache = Path(os.environ["HDMAP_CACHE"])
    plain = expand(maps, sources="domain_A", overrides=f"{PATCHCORE},data.packed=false")
    assert not (cache / "maps").exists()
    blocks = [
        plan.Block(data_root=str(maps), sources=f"domain_{x}", overrides=f"{PATCHCORE},data.packed={packed}")
        for x, packed in (("A", "true"), ("B", "false"))
    ]
    packed, other = plan.expand(blocks)
    assert (cache / "maps").exists()
    assert {cell.tags["hdmap.data_digest"] for cell in (*plain, packed, other)} == {plain[0].tags["hdmap.data_digest"]}


def test_a_model_that_this_machine_cannot_run_is_skipped_with_its_reason(maps, monkeypatch, store):
    """Of `--models all`, one whose extra is not installed; it has no identity, and no run stands for it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "open_clip" else real(name, *more)
    )
    found = expand(maps, repeat=2, models="winclip,patchcore", sources="domain_A,domain_B")
    assert names(found) == [f"patchcore/quickstart/domain_{x}/s0{n}" for n in ("", " #2") for x in "AB"] + [
        f"winclip/quickstart/domain_{x}/s0" for x in "AB"
    ]
    known = plan.look_up(found, store)
    assert [cell.status for cell in known] == ["missing"] * 4 + ["skipped"] * 2
    assert known[-1].skipped == ("winclip needs a package that is not installed; pip install 'hdmap_mlflow[winclip]'")
    with pytest.raises(BadInput, match="^winclip needs a package that is not installed; pip install"):
        expand(maps, models="winclip")


def test_the_fingerprint_is_that_of_a_single_run_and_follows_the_data(maps, tmp_path):
    import shutil

    from hdmap_mlflow.data import dataset
    from hdmap_mlflow.runs import setup
    from hdmap_mlflow.runs.identity import identity_tags

    copy = shutil.copytree(maps, tmp_path / "copy")
    before = expand(copy, sources="domain_A")[0]
    flags = {"data.root": str(maps), "data.source_domain": "domain_A"}
    single = setup.configure("patchcore", flags=flags, overrides=PATCHCORE)
    assert dict(before.tags) == identity_tags(single, dataset.read(single))
    file = next((copy / "domain_B/test/good").iterdir())
    tifffile.imwrite(file, tifffile.imread(file) + 1)
    assert expand(copy, sources="domain_A")[0].fingerprint != before.fingerprint
    blocks = [plan.Block(data_root=str(root), sources="domain_A", overrides=PATCHCORE) for root in (maps, copy)]
    old, new = plan.expand(blocks)
    assert old.tags == before.tags and new.tags["hdmap.data_digest"] != old.tags["hdmap.data_digest"], "two roots"


def test_a_check_is_kept_until_the_models_code_changes(maps, monkeypatch):
    from hdmap_mlflow.models import builder

    first = expand(maps, sources="domain_A")[0]
    monkeypatch.setattr(builder, "check", lambda config: pytest.fail("checked again"))
    assert expand(maps, sources="domain_A")[0].tags == first.tags
    (kept,) = Path(os.environ["HDMAP_CACHE"]).glob("checked/*.json")
    known = json.loads(files.read_kept(kept) or "")
    base = next(file for file in known["sources"] if "anomalib" in file)  # the class that ours derives from
    known["sources"][base] = "of an older file"
    files.write_kept(kept, json.dumps(known))
    with pytest.raises(pytest.fail.Exception, match="checked again"):
        expand(maps, sources="domain_A")


@pytest.mark.parametrize("harm", [lambda b: b"", lambda b: b"{}", lambda b: b"[]", lambda b: b[:-20]])
def test_a_kept_check_that_is_damaged_is_made_again(maps, harm):
    first = expand(maps, sources="domain_A")[0]
    (kept,) = Path(os.environ["HDMAP_CACHE"]).glob("checked/*.json")
    whole = kept.read_bytes()
    for damaged in (harm(whole), whole.replace(b'"num_neighbors": 9', b'"num_neighbors": 8')):
        assert damaged != whole
        kept.write_bytes(damaged)
        assert expand(maps, sources="domain_A")[0].config == first.config and kept.read_bytes() == whole


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
    [
        ("model: patchcore", "grid file grid.yaml: unknown key 'model' .did you mean 'models'.*known: models, cond"),
        ("3", "grid.yaml: expected models, conditions"),
        ("[", "grid.yaml cannot be read"),
        ("[{models: padim}, 3]", "expected models"),
        ("1: x", "unknown key '1'; known"),
        ("split_seed: x", "grid grid.yaml: block.split_seed: input should be a valid integer.*got 'x'"),
    ],
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
    made(found[2], process=process_name())
    dead = made(found[3], process=process_name().rpartition(":")[0] + ":1")
    made(found[4], process="another-host:1:1")
    made(found[5], "finished", **{"hdmap.fingerprint": "of half the batch", "hdmap.planned": found[5].fingerprint})
    known = plan.look_up(found, store)
    assert [cell.status for cell in known] == [
        "finished",
        "failed",
        "running",
        "missing",
        "running",
        "finished",
        "missing",
    ]
    assert store.client.get_run(dead).info.status == "KILLED"
    twice = [plan.Cell(found[0].config, found[0].tags, i) for i in range(2)]
    made(found[0], "finished")
    assert [cell.status for cell in plan.look_up(twice, store)] == ["finished", "finished"]


def test_only_runs_of_the_same_data_and_kind_count_and_the_best_of_each_come_first(store):
    """Of one fingerprint: those that finished, then those that run, then the failed, then the killed."""
    (cell,) = cells(1)

    def made(ended, **tags):
        run_id = store.create(cell.name, {**cell.tags, "hdmap.kind": "run", **tags}, None)
        if ended:
            store.close(run_id, ended, "because")
        return run_id

    made("finished", **{"hdmap.data_digest": "other"}), made("finished", **{"hdmap.kind": "trial"})
    made("finished", **{"hdmap.fingerprint": "other"})
    ids = {ended or "running": made(ended) for ended in ("finished", "", "failed", "killed")}
    repeats = [plan.Cell(cell.config, cell.tags, i) for i in range(5)]
    found = plan.look_up(repeats, store)
    assert [c.past and c.past.run_id for c in found] == [
        ids["finished"],
        ids["running"],
        ids["failed"],
        ids["killed"],
        None,
    ]
    assert [c.status for c in found] == ["finished", "running", "failed", "missing", "missing"]
    assert [(c.config, c.tags, c.repeat) for c in found] == [(cell.config, cell.tags, i) for i in range(5)]


def test_a_run_of_a_dead_process_is_closed_with_the_reason_and_is_missing(store):
    (cell,) = cells(1)
    dead = process_name().rpartition(":")[0] + ":1"
    run_id = store.create(cell.name, {**cell.tags, "hdmap.kind": "run", "hdmap.process": dead}, None)
    assert plan.look_up([cell], store)[0].past is None
    closed = store.client.get_run(run_id)
    assert (closed.info.status, closed.data.tags["hdmap.reason"]) == ("KILLED", "its process is gone")


def test_a_cells_name_counts_its_repeats():
    (cell,) = cells(1)
    assert [plan.Cell(cell.config, cell.tags, i).name for i in (0, 1, 2)] == [
        "patchcore/quick/domain_A/s0",
        "patchcore/quick/domain_A/s0 #2",
        "patchcore/quick/domain_A/s0 #3",
    ]
    assert cell.status == "missing" and cell.fingerprint == "0" * 16


def test_the_estimate_is_the_median_time_and_the_largest_memory_of_the_last_five_that_finished(store):
    tags = {"hdmap.model": "patchcore", "hdmap.condition": "quick"}
    for i, (seconds, peak) in enumerate([(500, 9000), (1, 10), (2, 70), (30, 20), (4, 30), (5, 40)]):
        run = store.client.create_run(store.experiment_id, start_time=1000 * (i + 1), tags=tags).info.run_id
        store.client.log_metric(run, "cost/fit_peak_MB", peak)
        store.client.set_terminated(run, "FINISHED", 1000 * (i + 1 + seconds))
    run = store.client.create_run(store.experiment_id, tags=tags | {"hdmap.model": "padim"}).info.run_id
    store.client.log_metric(run, "cost/fit_peak_MB", 9000)
    store.client.set_terminated(run, "FINISHED")
    store.create("it runs", tags, None)
    store.close(store.create("it failed", tags, None), "failed")
    store.close(store.create("another condition", tags | {"hdmap.condition": "slow"}, None), "finished")
    assert plan.estimate(cells(3), store) == {("patchcore", "quick"): (4.0, 70.0)}
    assert plan.estimate([], store) == {}
    empty = [plan.Cell(c.config.model_copy(update={"condition": "new"}), c.tags, 0) for c in cells(1)]
    assert plan.estimate(empty, store) == {}


def test_sources_may_be_several_and_leave_one_out_is_of_each_domain_all_others(maps):
    found = expand(maps, sources="leave-one-out")
    assert [cell.config.data.source_domain for cell in found] == [
        "domain_B,domain_C",
        "domain_A,domain_C",
        "domain_A,domain_B",
    ]
    assert [cell.name for cell in expand(maps, sources="all,leave-one-out,domain_B+domain_A")][3:] == names(found)
    [cell] = expand(maps, sources="domain_B+domain_A", targets="domain_A,domain_C")
    assert cell.name == "patchcore/quickstart/domain_A,domain_B/s0"
    assert cell.config.data.target_domains == ("domain_C",), "a source is no target of its own"


def test_leave_one_out_of_two_domains_is_refused(tmp_path):
    for name in ("A", "B"):
        write_domain(tmp_path / "two", name)
    with pytest.raises(BadInput, match="leave-one-out needs three domains, here are A, B"):
        expand(tmp_path / "two", sources="leave-one-out")
