"""The dimension of a grid that trains nothing: each run is trained once and adapted in every way that is asked for."""

from dataclasses import replace

import pytest
from fakes import cells, command, notes

from hdmap_mlflow.errors import BadInput, Incomplete
from hdmap_mlflow.execution.launch import Launch
from hdmap_mlflow.grid import driver, plan
from hdmap_mlflow.grid.adaptations import Adaptation, combine
from hdmap_mlflow.runs import adapt as adapting

Z16 = Adaptation(("z",), 16)


@pytest.mark.parametrize(
    ("chains", "counts", "ways"),
    [
        (["source_only", "z"], ["0", "4", "16"], ["z, k=4", "z, k=16"]),
        (["source_only"], ["0", "16"], []),
        (["z", "z+conformal"], ["16"], ["z, k=16", "z+conformal, k=16"]),
        (["z", "z"], ["4", "4"], ["z, k=4"]),
    ],
)
def test_only_what_changes_something_is_done_and_once(chains, counts, ways):
    assert [str(one) for one in combine(chains, counts)] == ways


@pytest.mark.parametrize(
    ("chains", "counts", "message"),
    [
        (["zz"], ["4"], "unknown adapter 'zz'.*did you mean 'z'"),
        (["z"], ["0"], "--adapters z changes nothing with --k 0"),
        (["z"], ["-1"], "adapt.k"),
        (["z"], ["many"], "adapt.k"),
        (["robust_z"], ["1"], "robust_z needs adapt.k=2"),
    ],
)
def test_a_way_that_is_none_is_refused_in_one_line(chains, counts, message):
    with pytest.raises(BadInput, match=message) as problem:
        combine(chains, counts)
    assert "\n" not in str(problem.value)


def test_what_differs_in_adapters_or_k_alone_is_one_run(maps, monkeypatch, tmp_path):
    monkeypatch.setenv("HDMAP_CACHE", str(tmp_path / "cache"))
    small = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"
    flags = {"data_root": str(maps), "sources": "domain_A", "overrides": small}
    plain = plan.expand(plan.read_blocks(flags))
    adapted = plan.expand(plan.read_blocks(flags | {"adapters": "source_only,z", "k": "0,2,4"}))
    (tmp_path / "grid.yaml").write_text("- {adapters: z, k: 2}\n- {adapters: [robust_z, z], k: [2]}\n- {k: 4}\n")
    joined = plan.expand(plan.read_blocks(flags, str(tmp_path / "grid.yaml")))
    assert [one.fingerprint for one in plain] == [one.fingerprint for one in adapted] and len(plain) == 1
    assert [str(one) for one in adapted[0].adaptations] == ["z, k=2", "z, k=4"] and plain[0].adaptations == ()
    assert [str(one) for one in joined[0].adaptations] == ["z, k=2", "robust_z, k=2", "z, k=4"] and len(joined) == 1


@pytest.fixture
def adapt(store, monkeypatch):
    """What is asked of `runs.adapt`, in order; it writes the figure by which a grid sees what is done."""
    asked = []

    def fake(uri, run_id, chain, k):
        asked.append((run_id, chain, k))
        if k == 13:
            raise ValueError("no luck")
        store.client.log_metric(run_id, Adaptation(chain, k).metric("image_AUROC"), 0.75)

    monkeypatch.setattr(adapting, "adapt", fake)
    return asked


def launch(found, store):
    found = plan.look_up(found, store)
    driver.carry_out(found, store, Launch(child=command(), stagger=0, ray=False))


def with_ways(*ways):
    return [replace(cell, adaptations=ways) for cell in cells(2)]


@pytest.mark.slow
def test_a_run_is_trained_once_and_adapted_with_what_it_lacks(store, adapt, capsys):
    launch(with_ways(Z16), store)
    assert len(adapt) == len({run_id for run_id, *_ in adapt}) == 2 and "0.750" in capsys.readouterr().out
    launch(with_ways(Z16, Adaptation(("z",), 4)), store)
    assert [(chain, k) for _, chain, k in adapt] == [(("z",), 16)] * 2 + [(("z",), 4)] * 2
    assert [len(notes(seed)) for seed in (0, 1)] == [2, 2], "begun and ended once"


@pytest.mark.slow
def test_one_way_that_fails_costs_the_others_nothing_and_is_tried_again(store, adapt, capsys):
    with pytest.raises(Incomplete, match="2 of 4 adaptations failed"):
        launch(with_ways(Adaptation(("z",), 13), Z16), store)
    assert "no luck" in capsys.readouterr().out and [k for *_, k in adapt] == [13, 16, 13, 16]
    with pytest.raises(Incomplete, match="2 of 4 adaptations failed"):
        launch(with_ways(Adaptation(("z",), 13), Z16), store)
    assert [k for *_, k in adapt][4:] == [13, 13]
