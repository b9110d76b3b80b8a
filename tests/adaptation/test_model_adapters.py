"""Adapters that change the model: what they compute, checked by naive references, and what they leave alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from backbones import Loader, Model, maps, scores, state

from hdmap_mlflow.adaptation.gaussians import Gaussians
from hdmap_mlflow.adaptation.maps import Maps
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.own.padim import RIDGE, Moments

OF_MODELS = [name for name, adapter in ADAPTERS.items() if not adapter.of_scores]
K_NORMALS = [name for name in OF_MODELS if ADAPTERS[name].protocol == "k_normals"]


def _features(images):
    with torch.inference_mode():
        return Model().eval().features(images)


def _maps(images):
    return Maps(_features(images), images.shape[-2:])


def _patchcore(images):
    return Model(bank=_features(images).movedim(1, -1).flatten(0, -2)[::3].clone()).eval()


def _padim(images):
    moments = Moments(of := _features(images).clone().flatten(2))
    moments.add(of)
    covariance = moments.covariance()
    covariance.diagonal(dim1=1, dim2=2).add_(RIDGE)
    gaussian = torch.nn.Module()
    gaussian.mean, gaussian.inv_covariance = moments.mean(), torch.linalg.inv(covariance)
    return Model(gaussian=gaussian).eval()


MODELS = {"patchcore": _patchcore, "padim": _padim}
SOURCE, TARGET, TEST = maps(10), maps(5, 2.0, 0.3, seed=1), maps(7, 2.0, 0.3, seed=2)


def _fit(name, model, source=SOURCE, target=TARGET):
    return ADAPTERS[name].fit(model, Loader(source), "cpu")(None if target is None else Loader(target))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", K_NORMALS)
def test_an_adapter_changes_scores_and_leaves_the_model_as_it_is(name: str, kind: str):
    model = MODELS[kind](SOURCE)
    before, plain = state(model), scores(model, TEST)
    adapted = _fit(name, model)
    found = scores(adapted.model, TEST)
    assert not torch.allclose(found, plain)
    assert adapted.own.shape == (5,) and np.isfinite(adapted.own).all() and found.isfinite().all()
    assert torch.equal(scores(model, TEST), plain)
    assert all(torch.equal(value, before[key]) for key, value in state(model).items())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("name", ["k_bank", "adabn"])
def test_without_a_map_of_the_target_these_are_the_model_itself(name: str, kind: str):
    model = MODELS[kind](SOURCE)
    assert _fit(name, model, target=None).model is model


def _distances(features, rows):
    """Of every patch to its nearest row, one by one: (n, h, w)."""
    n, _, height, width = features.shape
    out = torch.empty(n, height, width)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                out[i, y, x] = min(float((features[i, :, y, x] - row).norm()) for row in rows)
    return out


def _top(patches):
    """Mean of the largest 10 % of each map's patches, one at least."""
    count = max(1, round(0.1 * patches[0].numel()))
    return torch.stack([one.flatten().sort().values[-count:].mean() for one in patches])


def test_merge_without_a_map_of_the_target_is_the_plain_memory_with_the_mean_of_the_top_tenth():
    model = _patchcore(SOURCE)
    found = scores(_fit("merge", model, target=None).model, TEST)
    assert torch.allclose(found, _top(_distances(_features(TEST), model.model.memory_bank)), atol=1e-3)


def _dense(features, rows):
    """Wilkinghoff's score with K = 1 of every patch, by loops over all rows."""
    radius = [min(float((row - other).norm()) for j, other in enumerate(rows) if j != i) for i, row in enumerate(rows)]
    return torch.stack(
        [
            torch.stack([min((patch - row).norm() / r for row, r in zip(rows, radius, strict=True)) for patch in one])
            for one in features.movedim(1, -1).flatten(1, 2)
        ]
    )


@pytest.fixture
def all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hdmap_mlflow.adaptation.neighbours.SHARE", 1)


@pytest.mark.usefixtures("all_rows")
def test_merge_measures_in_units_of_the_distance_from_the_nearest_row_to_its_own_nearest():
    model = _patchcore(SOURCE[:3])
    features = _features(TARGET)
    rows = torch.cat([model.model.memory_bank, features.movedim(1, -1).flatten(0, -2)])
    adapted = _fit("merge", model)
    assert torch.allclose(scores(adapted.model, TEST[:2]), _top(_dense(_features(TEST[:2]), rows)), rtol=1e-3)


@pytest.mark.usefixtures("all_rows")
def test_the_k_maps_are_scored_by_a_memory_without_their_own_patches():
    model = _patchcore(SOURCE[:3])
    adapted = _fit("merge", model)
    for i in range(2):
        others = TARGET[[j for j in range(5) if j != i]]
        without = scores(_fit("merge", model, target=others).model, TARGET[i : i + 1])
        assert adapted.own[i] == pytest.approx(float(without), rel=1e-3)


@pytest.mark.parametrize(("name", "k"), [("k_bank", 2), ("k_bank", 5), ("merge", 1), ("merge", 5)])
def test_gaussians_leave_a_map_out_as_if_they_had_never_seen_it(name: str, k: int):
    model = _padim(SOURCE)
    adapted = _fit(name, model, target=TARGET[:k])
    for i in range(k):
        others = _maps(TARGET[[j for j in range(k) if j != i]])
        if name == "merge":
            source = Gaussians.of_source(model, Loader(SOURCE), "cpu")
            memory = source.with_maps(others) if k > 1 else source
        else:
            memory = Gaussians.of_maps(others)
        patches = memory.patches(_maps(TARGET[i : i + 1]))
        without = _top(patches) if name == "merge" else patches.amax((1, 2))
        assert adapted.own[i] == pytest.approx(float(without), rel=2e-3)


def test_gaussians_of_the_source_and_the_k_maps_are_those_of_all_maps():
    both = _maps(torch.cat([SOURCE, TARGET]))
    all_of_them = Gaussians.of_maps(both).patches(_maps(TEST))
    merged = Gaussians.of_source(_padim(SOURCE), Loader(SOURCE), "cpu").with_maps(_maps(TARGET))
    assert torch.allclose(merged.patches(_maps(TEST)), all_of_them, rtol=1e-2)


def test_a_bank_that_holds_a_map_twice_still_scores_every_map():
    adapted = _fit("merge", _patchcore(SOURCE), target=TARGET[[0, 0, 1]])
    assert np.isfinite(adapted.own).all() and scores(adapted.model, TEST).isfinite().all()


def test_coral_moves_every_channel_to_the_mean_and_spread_of_the_source(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hdmap_mlflow.adaptation.features.PRIOR", 0)
    source, target, test = _features(SOURCE), _features(TARGET), _features(TEST[:3])

    def moments(maps):
        flat = maps.movedim(1, 0).flatten(1)
        return flat.mean(dim=1)[:, None, None], flat.std(dim=1, correction=0)[:, None, None]

    (mean, sd), (at, spread) = moments(source), moments(target)
    model = _patchcore(SOURCE[:3])
    expected = _top(_dense((test - at) / spread * sd + mean, model.model.memory_bank))
    adapted = _fit("coral", model)
    assert torch.allclose(scores(adapted.model, TEST[:3]), expected, rtol=2e-3)
    at, spread = moments(target[1:])  # the first of the k maps, by the moments of the others
    own = _top(_dense((target[:1] - at) / spread * sd + mean, model.model.memory_bank))
    assert adapted.own[0] == pytest.approx(float(own), rel=2e-3)


def test_adabn_hands_on_the_target_as_the_source_was_and_is_the_identity_on_the_source_itself():
    model = Model().eval()
    layer = model.model.layers[1]
    layer.running_mean.fill_(0.2)
    layer.running_var.fill_(0.5)
    same = _fit("adabn", model, target=SOURCE)
    assert torch.allclose(scores(same.model, TEST), scores(model, TEST), rtol=1e-4)
    model.model.layers[0].bias.data.zero_()  # so that louder maps have louder features, channel by channel
    louder = _fit("adabn", model, target=3 * SOURCE)
    assert torch.allclose(scores(louder.model, 3 * TEST), scores(model, TEST), rtol=1e-3)
    assert np.isfinite(louder.own).all()


def test_adabn_reads_no_features_that_a_cache_has_of_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch):
    from hdmap_mlflow.models.parts.features import Features

    seen = []
    model = Model().eval()
    cached = Features.__new__(Features)
    torch.nn.Module.__init__(cached)
    cached.store = store = SimpleNamespace()
    model.cached = cached
    original = model.predict_step
    model.predict_step = lambda batch, index=0: seen.append(cached.store) or original(batch, index)
    adapted = _fit("adabn", model)
    scores(adapted.model, TEST)
    assert seen and not any(seen)
    assert cached.store is store


def test_log_z_makes_scores_blind_to_the_gain_and_the_contrast_of_a_map():
    model = Model().eval()
    adapted = _fit("log_z", model, target=None).model
    test = TEST + 0.1
    assert torch.allclose(scores(adapted, 7 * test**1.5), scores(adapted, test), rtol=1e-3)
    assert not torch.allclose(scores(model, 7 * test**1.5), scores(model, test), rtol=1e-1)


def test_log_z_takes_what_is_not_above_zero_for_the_smallest_value_of_the_source():
    adapted = _fit("log_z", Model().eval(), target=None).model
    one, other = TEST.clone(), TEST.clone()
    one[:, :, 0], other[:, :, 0] = -1.0, float(SOURCE[SOURCE > 0].min())
    assert torch.allclose(scores(adapted, one), scores(adapted, other))


def test_maps_that_are_all_the_same_leave_no_memory_for_one_of_them():
    with pytest.raises(BadInput, match="alike"):
        _fit("k_bank", _patchcore(SOURCE), target=torch.zeros(2, 3, 64, 64))
