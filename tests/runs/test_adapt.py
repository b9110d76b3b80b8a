"""A finished run is adapted: on the scores that it keeps, on its model rebuilt, and to targets that are new."""

import shutil

import numpy as np
import pandas as pd
import pytest
from lab import SOURCE, TARGETS, execute, write
from small import over

from hdmap_mlflow.adaptation.adapter import Adapted, Adapter
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.data import dataset
from hdmap_mlflow.data.formats import read_map
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation import scoring
from hdmap_mlflow.runs import adapt, history, rescore

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("adapt")]  # the run is made once
FPR = "FPR_at_normal_q99"
PATCHCORE = "data.image_size=[32,96],model.weights=random,model.backbone=resnet18,model.layers=[layer1]"


class Louder:
    """A model whose scores are so many times as large."""

    def __init__(self, model, gain):
        self.model, self.gain, self.pre_processor = model, gain, model.pre_processor

    def to(self, device):
        return self

    def eval(self):
        return self

    def predict_step(self, batch, index):
        found = self.model.predict_step(batch, index)
        return found.update(pred_score=found.pred_score * self.gain)


def louder(model, source, device):
    """An adapter that makes a target's scores larger by the number of its maps: nothing that z would see."""

    def on(target):
        if target is None:
            return Adapted(model, np.empty(0))
        adapted = Louder(model, 1 + len(target.dataset))
        return Adapted(adapted, scoring.score(adapted, target, "", "", device, False).table["score"].to_numpy())

    return on


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return write(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def one(lab, tmp_path_factory):
    """A run with a target whose name sorts after the source's, and a domain of the root that it leaves out."""
    targets = {"data.target_domains": [TARGETS[0]]}
    folder = tmp_path_factory.mktemp("run")
    return execute(lab, folder, "toy_model:Toy", "toy", "source_holdout", "data.batch_size=8", **targets)


@pytest.fixture
def store(one):
    return one.finished.uri, one.finished.run_id


def metrics(store):
    return dict(history.read_run(*store).metrics)


@pytest.fixture
def without_maps(monkeypatch):
    def read(*_):
        raise AssertionError("the maps are read")

    monkeypatch.setattr(dataset, "read", read)


def test_adapters_of_scores_need_no_model_and_no_map_and_add_to_the_record(one, store, without_maps):
    before, cards = metrics(store), history.read_json(*store, "cards.json")
    card = adapt.adapt(*store, ("robust_z",), 4)
    after = metrics(store)
    added = {name for name in after if name not in before}
    assert before == {name: after[name] for name in before}, "no plain name changes its meaning"
    assert added and all(name.startswith("adapted/robust_z/k4/") for name in added)
    shown = card["curve"]["robust_z"]["4"][f"target/{TARGETS[0]}"][FPR]["mean"]
    assert after[f"adapted/robust_z/k4/target/{TARGETS[0]}/{FPR}"] == shown
    kept = history.read_json(*store, "cards.json")
    assert {**kept, "adaptation": None} == {**cards, "adaptation": None}
    assert (kept["adaptation"]["chain"], kept["adaptation"]["k"]) == ("z", 0), "the run's own stays"
    done = rescore.rescore(store[0], history.read_run(*store))
    assert (done.new, done.changed, done.adapted) == ([], [], True)
    assert history.read_json(*store, "cards.json") == kept


def test_an_adapter_of_the_model_is_scored_by_the_model_rebuilt(one, store, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "loud", Adapter("", "", "maps", louder))
    tables = history.read_run(*store).scores
    adapt.adapt(*store, ("z",), 4)
    adapt.adapt(*store, ("loud", "z"), 4, trust_model=True)
    record = history.read_run(*store)
    for name, value in record.metrics.items():
        if name.startswith("adapted/z/k4/"):
            assert record.metrics[name.replace("/z/", "/loud-z/")] == pytest.approx(value, abs=1e-9), name
    assert f"adapted/loud-z/k4/source/{FPR}" in record.metrics, "the model is another, so the source is shown, too"
    columns = [f"adapted/loud-z/k4/{number}" for number in range(3)]
    for domain, table in record.scores.items():
        pd.testing.assert_frame_equal(table[tables[domain].columns], tables[domain])
        assert set(columns[: 1 if domain == SOURCE else 3]) <= set(table)
    assert {"0", "1", "4"} <= set(record.cards["adaptation"]["curve"]["loud+z"])
    done = rescore.rescore(store[0], record)
    assert (done.new, done.changed) == ([], []), "and scored once more from its columns"
    assert "loud+z" in history.read_json(*store, "cards.json")["adaptation"]["curve"]


def test_new_targets_get_metrics_and_the_means_stay_those_of_the_runs_own(lab, store, tmp_path):
    shutil.copytree(lab / TARGETS[1], tmp_path / TARGETS[1])
    before, scores = metrics(store), history.read_run(*store).scores
    card = adapt.adapt(*store, ("z",), 2, data_root=str(tmp_path), trust_model=True)
    added = set(metrics(store)) - set(before)
    assert f"adapted/z/k2/target/{TARGETS[1]}/{FPR}" in added
    assert all(name.startswith(f"adapted/z/k2/target/{TARGETS[1]}/") for name in added)
    assert set(card["maps"]) == {TARGETS[1]}
    assert set(history.read_run(*store).scores) == set(scores), "they are no targets of the run"
    done = rescore.rescore(store[0], history.read_run(*store))
    assert (done.new, done.changed) == ([], [])


def test_new_targets_beside_the_runs_own_are_named(lab, store):
    card = adapt.adapt(*store, ("z",), 3, data_root=str(lab), targets=[TARGETS[1]], trust_model=True)
    assert set(card["maps"]) == {TARGETS[1]}
    for name, says in ((TARGETS[0], "is a domain of run"), ("domain_X", "unknown domain 'domain_X'")):
        with pytest.raises(BadInput, match=says):
            adapt.adapt(*store, ("z",), 3, data_root=str(lab), targets=[name], trust_model=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda maps: maps * 255, "domain_N has maps of another unit"),
        (lambda maps: maps[:, ::2], "map sizes differ: domain_A is .*, domain_N is"),
    ],
)
def test_maps_of_another_preparation_are_refused(lab, store, tmp_path, spoil, says):
    for role in ("train/good", "test/good", "test/fault"):
        (tmp_path / "domain_N" / role).mkdir(parents=True)
        for i, file in enumerate(sorted((lab / TARGETS[0] / role).iterdir())[:3]):
            np.save(tmp_path / "domain_N" / role / f"{i}.npy", spoil(read_map(file) * np.float32(1.01)))
    before = metrics(store)
    with pytest.raises(BadInput, match=says):
        adapt.adapt(*store, ("z",), 2, data_root=str(tmp_path), trust_model=True)
    assert metrics(store) == before


def test_healthy_maps_of_an_older_run_are_scored_where_its_data_is_given(lab, store, monkeypatch):
    whole = history.read_run(*store)
    old = {d: t[t["split"] != "reference"].reset_index(drop=True) for d, t in whole.scores.items()}
    monkeypatch.setattr(history, "read_scores", lambda *_: old)
    with pytest.raises(BadInput, match="keeps no reference scores.*--data-root"):
        adapt.adapt(*store, ("z",), 4)
    assert not rescore.rescore(store[0], history.read_run(*store)).adapted
    adapt.adapt(*store, ("z",), 4, data_root=str(lab), trust_model=True)
    monkeypatch.undo()
    again = history.read_run(*store).scores
    for domain, table in again.items():
        pd.testing.assert_frame_equal(
            table[["path", "split", "score"]], whole.scores[domain][["path", "split", "score"]]
        )


def test_a_run_that_is_trained_with_maps_says_so(lab, tmp_path, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "loud", Adapter("", "", "maps", louder))
    found = execute(
        lab,
        tmp_path,
        "toy_model:Toy",
        "toy",
        "source_holdout",
        "data.batch_size=8,adapt.adapters=loud+z,adapt.k=3,adapt.draws=2",
        **{"data.target_domains": [TARGETS[0]]},
    )
    assert found.found.data.tags["hdmap.protocol"] == "k_normals"
    assert f"adapted/loud-z/k3/target/{TARGETS[0]}/{FPR}_sd" in found.found.data.metrics
    assert [name for name in found.kept[TARGETS[0]] if name.startswith("adapted/loud-z/k3/")] == [
        f"adapted/loud-z/k3/{number}" for number in range(2)
    ]
    assert "loud+z with 3 healthy maps" in found.finished.markdown()


@pytest.mark.parametrize(("adapters", "draws"), [("merge+z", 4), ("coral+z", 2)])  # coral needs two maps
def test_labels_of_a_target_touch_no_score_of_an_adapted_model(lab, tmp_path, adapters, draws):
    scores = []
    for name in ("as they are", "flipped"):
        root, target = tmp_path / name / "maps", tmp_path / name / "maps" / TARGETS[-1]
        for domain in (SOURCE, TARGETS[-1]):
            shutil.copytree(lab / domain, root / domain)
        if name == "flipped":
            for old, new in (("good", "was_good"), ("fault", "good"), ("was_good", "fault")):
                (target / "test" / old).rename(target / "test" / new)
        settings = over(PATCHCORE, f"adapt.adapters={adapters},adapt.k=4,adapt.draws=2")
        targets = {"data.target_domains": [TARGETS[-1]]}
        found = execute(root, tmp_path / name, "patchcore", "quickstart", "source_holdout", settings, **targets)
        maps = found.kept[TARGETS[-1]].query("split == 'test'").set_index("image_mean").sort_index()
        scores.append(maps[[one for one in maps if one == "score" or one.startswith("adapted/")]])
    assert scores[0].shape == (15, 1 + draws), "the plain score, and two draws of each number of maps"
    pd.testing.assert_frame_equal(*scores)


def test_a_model_is_adapted_where_faults_are_drawn_on_its_validation_maps(lab, tmp_path):
    """A healthy map and the fault that is drawn on it have one path."""
    settings = over(PATCHCORE, "adapt.adapters=merge+z,adapt.k=4,adapt.draws=1")
    targets = {"data.target_domains": [TARGETS[-1]]}
    found = execute(lab, tmp_path, "patchcore", "quickstart", "synthetic", settings, **targets)
    val = found.kept[SOURCE].query("split == 'val'")
    assert val["path"].duplicated().any()
    scores = val["adapted/merge-z/k4/0"]
    assert scores.notna().all() and scores.groupby(val["label"]).median().diff()[1] > 0, "drawn faults score higher"
