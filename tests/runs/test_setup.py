"""What is checked of a run between its maps and its start."""

import pytest
from maps import write_domain

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.data import dataset
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.runs.setup import LONG, check_maps, spend


@pytest.mark.parametrize(
    ("model", "maps", "says"),
    [
        ("padim", 1, "padim needs 2 training maps or more; domain_A has 1 to train on; add maps"),
        ("padim", 2, ""),
        ("dfm", 1, "dfm needs 2 training maps"),
        ("dfkde", 3, "dfkde needs 4 training maps or more with model.n_pca_components=3; domain_A has 3"),
        ("dfkde", 4, ""),
        ("patchcore", 1, ""),
    ],
)
@pytest.mark.parametrize("limited", [False, True], ids=["all", "max_train"])
def test_a_model_has_maps_enough_or_does_not_start(tmp_path, model, maps, says, limited):
    write_domain(tmp_path, "domain_A", 9 if limited else maps, 4, 4)
    given = {"root": str(tmp_path), "packed": False, "max_train": maps if limited else None}
    config = RunConfig(condition="c", data=given, model={"name": model, "settings": {"n_pca_components": 3}})
    data = dataset.read(config)
    if not says:
        check_maps(config, data)
        return
    with pytest.raises(BadInput, match=says):
        check_maps(config, data)


def test_a_source_that_cannot_be_divided_does_not_start(tmp_path):
    write_domain(tmp_path, "domain_A", 3, 1, 4)
    config = RunConfig(condition="c", data={"root": str(tmp_path), "packed": False}, model={"name": "patchcore"})
    with pytest.raises(BadInput, match="AUROC is undefined for source domain_A"):
        check_maps(config, dataset.read(config))


@pytest.mark.parametrize(
    ("model", "train", "epochs"),
    [
        ("reverse_distillation", {"budget": "maps=40"}, 4),
        ("reverse_distillation", {"budget": "steps=9"}, 3),
        ("reverse_distillation", {"budget": "maps=40", "limit_train_batches": 1}, 10),
        ("reverse_distillation", {"budget": "steps=9", "limit_train_batches": 7}, 3),
        ("reverse_distillation", {"budget": "seconds=5"}, LONG),
        ("reverse_distillation", {}, 1),
        ("patchcore", {"budget": "maps=40"}, 1),
    ],
)
def test_a_budget_is_spent_in_epochs_of_the_sources_maps_without_early_stopping(tmp_path, model, train, epochs):
    write_domain(tmp_path, "domain_A", 10, 4, 4)
    given = {"root": str(tmp_path), "packed": False, "batch_size": 4}
    config = RunConfig(condition="c", data=given, train=train, model={"name": model})
    spent = spend(config, dataset.read(config))
    assert spent.train.max_epochs == epochs
    assert spent.train.early_stopping_patience == (epochs if epochs > 1 else 10)
    assert spend(spent, dataset.read(config)) == spent


def test_a_setting_that_follows_from_the_epochs_follows_the_budget(tmp_path):
    write_domain(tmp_path, "domain_A", 10, 4, 4)
    data = {"root": str(tmp_path), "packed": False, "batch_size": 4}
    for epochs, after in ((1, 5), (3, 3)):  # the second was set by hand
        model = {"name": "general_ad", "settings": {"epochs": epochs}}
        config = RunConfig(condition="c", data=data, train={"budget": "epochs=5"}, model=model)
        assert spend(config, dataset.read(config)).model.settings["epochs"] == after
