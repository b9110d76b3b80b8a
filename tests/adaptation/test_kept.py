"""Features that neither k nor a draw changes: computed once for each map, and the scores are those of every pass."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import InferenceBatch
from backbones import Loader, Model, maps, state
from torch import nn

from hdmap_mlflow.adaptation import kept, outcome
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.evaluation.scoring import Scores
from hdmap_mlflow.names import adapted_scope

SPLITS = {
    "A": {"reference": 6, "val": 8, "test": 10},
    "B": {"reference": 5, "test": 9},
    "C": {"reference": 5, "test": 9},
}


class Module:
    """Maps of three domains, as `of_model` asks for them by path and label."""

    eval_batch_size = 4

    def __init__(self):
        self.images = {
            (domain, split, f"{split}/{i}.tiff"): one[None]
            for seed, (domain, splits) in enumerate(SPLITS.items())
            for split, count in splits.items()
            for i, one in enumerate(maps(count, gain=1 + seed, seed=10 * seed + len(split)))
        }
        self.read = []

    def named_dataloader(self, domain, names, split):
        self.read += [(domain, split, path) for path, _ in names]
        return Loader(torch.cat([self.images[domain, split, path] for path, _ in names]))


def _scores(domain):
    parts = [
        pd.DataFrame(
            {
                "path": [f"{split}/{i}.tiff" for i in range(count)],
                "label": np.arange(count) % 2 if split != "reference" else 0,
                "recording": "",
                "split": split,
                "score": np.arange(1.0, count + 1),
            }
        )
        for split, count in SPLITS[domain].items()
    ]
    return Scores(domain, pd.concat(parts, ignore_index=True))


def _adapted(name, module, model):
    adapt = AdaptConfig(adapters=(name,), k=4, draws=2)
    return outcome.score(model, module, _scores("A"), [_scores("B"), _scores("C")], adapt, "cpu")


def _model():
    with torch.inference_mode():
        rows = Model().eval().features(maps(4)).movedim(1, -1).flatten(0, -2)
    return Model(bank=rows.clone()).eval()


@pytest.mark.parametrize("name", [name for name, adapter in ADAPTERS.items() if adapter.needs == "features"])
def test_a_map_goes_through_the_network_once_for_all_k_and_draws(name: str, monkeypatch: pytest.MonkeyPatch):
    model, module = _model(), Module()
    before = state(model)
    source, targets = _adapted(name, module, model)
    assert len(module.read) == len(set(module.read)), "no map is read twice"
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())
    monkeypatch.setattr(kept, "ROOM", 0)
    unkept = Module()
    again, others = _adapted(name, unkept, model)
    assert len(unkept.read) > len(set(unkept.read)), "where there is no room a map is read each time"
    columns = [column for column in targets[0].table if column.startswith("adapted/")]
    assert columns[-1] == adapted_scope([name], 4, "1")
    for one, other in zip((source, *targets), (again, *others), strict=True):
        for column in [column for column in columns if column in one.table]:
            np.testing.assert_allclose(one.table[column], other.table[column], rtol=1e-4)  # rounding


def test_room_is_for_as_many_maps_as_fit(monkeypatch: pytest.MonkeyPatch):
    model, module = _model(), Module()
    size = model.features(maps(1)).nbytes
    monkeypatch.setattr(kept, "ROOM", 3 * size)
    loader = kept.Featured(kept.Kept(model, module, "cpu"), "B", _scores("B").part("test"))
    first, second = (torch.cat([part.features for part in loader]) for _ in range(2))
    assert torch.allclose(first, second, atol=1e-5)
    assert len(module.read) == 9 + 6, "three of nine are kept"


def test_scores_of_an_adapted_model_are_those_that_a_pass_through_the_network_gives():
    from hdmap_mlflow.adaptation.draw import draw

    model, module = _model(), Module()
    _, (target, _) = _adapted("merge", module, model)
    drawn = draw(_scores("B").table, "B", 4, 1, AdaptConfig(adapters=("merge",), k=4, draws=2))

    def loader(domain, rows, split):
        return Module().named_dataloader(domain, kept.named(rows), split)

    source = loader("A", _scores("A").part("reference"), "reference")
    adapted = ADAPTERS["merge"].fit(model, source, "cpu")(loader("B", drawn.normals, "reference")).model
    batches = loader("B", drawn.reported, "test")
    with torch.inference_mode():
        passed = torch.cat([adapted.predict_step(SimpleNamespace(image=one.image)).pred_score for one in batches])
    found = target.table[adapted_scope(["merge"], 4, "1")].dropna()
    np.testing.assert_allclose(found, passed, rtol=1e-4)  # rounding


class Passing(Model):
    """A model whose features pass a module, as PatchCore's and PaDiM's do."""

    def __init__(self):
        super().__init__()
        self.patch_features = nn.Identity()

    def features(self, images):
        return self.patch_features(self.model.layers(images))

    def predict_step(self, batch, _index=0):
        squared = self.features(batch.image).square().mean(dim=1)
        return InferenceBatch(pred_score=squared.mean(dim=(1, 2)), anomaly_map=squared[:, None])


class Reading(Loader):
    """A loader of maps that have a table."""

    def __init__(self, images, names):
        super().__init__(images)
        self.dataset = Maps(images, names)


class Maps:
    def __init__(self, images, names):
        self.images, self.table = images, pd.DataFrame({"path": names, "label": 0})

    def __getitem__(self, index):
        return SimpleNamespace(image=self.images[index])


def test_features_of_maps_that_are_scored_are_kept_and_none_of_those_after():
    model, module = Passing().eval(), Module()
    names = [f"test/{i}.tiff" for i in range(9)]
    loader = Reading(torch.cat([module.images["B", "test", path] for path in names]), names)
    keeping = kept.Kept(model, module, "cpu")
    with torch.inference_mode():
        with keeping.watching("B", loader):
            for batch in loader:
                model.predict_step(batch)
        model.predict_step(SimpleNamespace(image=maps(4)))
        asked = [(path, 0) for path in names[::-1]]
        found = keeping.read("B", "test", asked)
        assert not module.read, "all of them were kept"
        alone = torch.cat([model.features(module.images["B", "test", path]) for path, _ in asked])
    assert torch.allclose(found.features, alone, atol=1e-6)
    assert tuple(found.size) == (12, 8)
    assert len(keeping.maps) == 9


def test_the_maps_of_a_domain_keep_their_own_size():
    model, module = _model(), Module()
    module.images |= {key: one[..., :10, :] for key, one in module.images.items() if key[0] == "C"}
    keeping = kept.Kept(model, module, "cpu")
    names = {domain: [("test/0.tiff", 0), ("test/1.tiff", 1)] for domain in "BC"}
    for _ in range(2):  # computed, then kept
        assert [tuple(keeping.read(domain, "test", names[domain]).size) for domain in "BC"] == [(12, 8), (10, 8)]
