"""Chains of adapters: what they are called, and what is none."""

import pytest

from hdmap_mlflow.adaptation import chain
from hdmap_mlflow.adaptation.adapter import Adapter
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.config import AdaptConfig, build_config, identifying
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.names import adapted_scope


@pytest.fixture(autouse=True)
def two_of_models(monkeypatch):
    monkeypatch.setitem(ADAPTERS, "bank", Adapter("", "", "features", lambda *_: None))
    monkeypatch.setitem(ADAPTERS, "level", Adapter("", "", "maps", lambda *_: None, "source_only"))


def config(overrides=""):
    return build_config("patchcore", {"name": "quick", "config": {}}, overrides=overrides)


@pytest.mark.parametrize(
    ("text", "names"), [("z", ("z",)), ("bank+z", ("bank", "z")), ("bank, z", ("bank", "z")), ("source_only", ())]
)
def test_a_text_is_a_chain_and_a_chain_a_text(text, names):
    assert chain.parse(text) == names == AdaptConfig(adapters=text).adapters
    assert chain.parse(chain.words(names)) == names


def test_a_chain_has_a_name_that_mlflow_takes():
    assert adapted_scope(("bank", "z"), 16, "target_mean") == "adapted/bank-z/k16/target_mean"


@pytest.mark.parametrize(
    ("names", "k", "protocol", "changes"),
    [
        (("z",), 0, "source_only", False),
        (("z",), 1, "k_normals", True),
        (("level",), 0, "source_only", True),
        (("level", "z"), 0, "source_only", True),
        (("level", "z"), 4, "k_normals", True),
        ((), 4, "source_only", False),
    ],
)
def test_the_protocol_is_that_of_the_maps_that_are_used(names, k, protocol, changes):
    assert chain.protocol(names, k) == protocol
    assert bool(chain.working(names, k)) == changes


@pytest.mark.parametrize(
    ("names", "k", "says"),
    [
        (("zz",), 1, "unknown adapter 'zz' .did you mean 'z'"),
        (("z", "bank"), 1, r"z\+bank: bank changes the model.*give bank\+z"),
        (("bank", "level", "z"), 1, r"only the first.*give level\+z"),
        (("z", "z"), 1, "z stands twice"),
        (("robust_z",), 1, "robust_z needs adapt.k=2 or more"),
        (("level",), 4, "level takes no map of the target"),
    ],
)
def test_what_is_no_chain_is_refused(names, k, says):
    with pytest.raises(BadInput, match=says):
        chain.check(names, k)


def test_a_model_that_cannot_have_an_adapter_hears_which_it_can_have():
    class Bank:
        def features(self, batch):
            return batch

    chain.check_model(("bank", "z"), Bank, "own:Bank")
    with pytest.raises(BadInput, match="bank needs features.*own:Other has not; it can have: .*z.*level"):
        chain.check_model(("bank", "z"), object, "own:Other")


def test_at_their_defaults_the_settings_leave_a_fingerprint_as_it_was():
    assert not [name for name in identifying(config()) if name.startswith("adapt.")]
    assert not [name for name in identifying(config("adapt.adapters=z,adapt.k=0")) if name.startswith("adapt.")]
    assert identifying(config("adapt.k=4,adapt.from=test")).items() >= {"adapt.k": "4", "adapt.from": "test"}.items()


def test_a_setting_of_a_model_that_is_called_k_stays_one():
    assert config("k=3").model.settings == {"k": 3}


def test_every_adapter_says_what_it_is():
    for name, adapter in ADAPTERS.items():
        assert name.replace("_", "").isalnum() and name.islower(), "it becomes part of a metric's name"
        assert name in ("bank", "level") or adapter.title and adapter.paper
