"""Budgets of training: what they buy, and the same identity for runs that have none."""

import pytest

from hdmap_mlflow.config import TrainConfig, build_config
from hdmap_mlflow.config.budget import Budget
from hdmap_mlflow.config.identity import identifying
from hdmap_mlflow.errors import BadInput


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [
        ("epochs=3", 3),
        ("steps=14", 2),
        ("steps=4", 1),
        ("maps=1000", 10),
        ("maps=1049", 10),
        ("maps=1051", 11),
        ("maps=50", 1),
        ("seconds=0.5", None),
    ],
)
def test_a_budget_buys_the_nearest_number_of_whole_epochs(budget, epochs):
    assert Budget.of(budget).epochs(maps=100, batches=7) == epochs


@pytest.mark.parametrize("budget", ["maps=49", "steps=3"])
def test_less_than_half_an_epoch_is_refused_with_what_an_epoch_has(budget):
    unit = budget.partition("=")[0]
    with pytest.raises(BadInput, match=f"an epoch, which has {100 if unit == 'maps' else 7} {unit}"):
        Budget.of(budget).epochs(maps=100, batches=7)


@pytest.mark.parametrize("text", ["", "3", "epochs", "epochs=", "epochs=0", "epochs=-1", "maps=1.5", "hours=1"])
@pytest.mark.parametrize("more", ["", "e"])
def test_what_is_no_budget_is_refused(text, more):
    with pytest.raises(BadInput, match="the budget"):
        Budget.of(text + more)


def test_a_budget_is_part_of_what_a_run_is_and_its_absence_is_not():
    plain = build_config("padim", {"name": "c", "config": {}})
    assert TrainConfig().budget is None and "train.budget" not in identifying(plain)
    spent = build_config("padim", {"name": "c", "config": {"train.budget": "maps=20000.0"}})
    assert identifying(spent)["train.budget"] == "maps=20000"
