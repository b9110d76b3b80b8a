"""The contract of a model: what keeps it passes; what breaks a promise is refused with the promise and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.pre_processing import PreProcessor
from torch import Tensor, nn
from toys import Distance, Fitted, Trained, Turned

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.contract import ContractBroken, check_model

SIZE = {"image_size": [31, 95]}


@pytest.mark.parametrize("model", [Fitted, "toys:Trained"])
def test_a_model_that_keeps_the_contract_passes_by_class_and_by_name(model: type | str) -> None:
    check_model(model, SIZE)


def test_a_registered_model_passes_with_its_quickstart() -> None:
    check_model("padim", {"model.n_features": 5})


def test_settings_are_checked_like_those_of_any_run() -> None:
    with pytest.raises(BadInput, match="did you mean 'rate'"):
        check_model(Trained, SIZE | {"rat": 0.1})
    with pytest.raises(BadInput, match="model.rate: input should be a valid number.*got 'high'"):
        check_model(Trained, SIZE | {"rate": "high"})


# ------------------------------------------------------------------------------------------- the types of its settings
class Untyped(Fitted):
    def __init__(self, level=0.5, **components):
        super().__init__(**components)


# ------------------------------------------------------------------------------------------------------ its components
class Closed(Fitted):
    """Takes no components."""

    def __init__(self):
        super().__init__()


class Swallowing(Fitted):
    """Takes components and lets go of them: anomalib's own stand in their place, the clamp among them."""

    def __init__(self, **components: Any):
        super().__init__()


class Scaling(Fitted):
    """Puts a pre-processor of its own in the place of the one it is given."""

    def __init__(self, **components: Any):
        super().__init__(**components | {"pre_processor": PreProcessor()})


# ---------------------------------------------------------------------------------------------------------- its scores
class Scoring(Fitted):
    """Scores as a function of the distances (n,) says."""

    def __init__(self, **components: Any):
        super().__init__(**components)
        self.model = Scored(type(self).score)

    @staticmethod
    def score(distance: Tensor) -> Any:
        return distance


class Scored(Distance):
    def __init__(self, score: Any) -> None:
        super().__init__()
        self.score = score

    def forward(self, images: Tensor) -> Any:
        scores = self.score(super().forward(images).pred_score)
        return InferenceBatch(pred_score=scores) if isinstance(scores, Tensor) else scores


def scoring(name: str, score: Any) -> type:
    """A model with such scores, where `check_model` finds it."""
    made = type(name, (Scoring,), {"score": staticmethod(score), "__module__": __name__})
    globals()[name] = made
    return made


RAW = [
    scoring("OneForAll", lambda distance: distance.mean()),
    scoring("TwoForEach", lambda distance: torch.stack([distance, distance], dim=1)),
    scoring("NotANumber", lambda distance: distance / 0 - distance / 0),
    scoring("Clamped", lambda distance: (5 * distance).clamp(0, 1)),
    scoring("AllTheSame", lambda distance: 0 * distance + 0.5),
    scoring("NoBatch", lambda distance: distance.tolist()),
]
OWN = [
    scoring("Centred", lambda distance: distance - distance.mean()),
    scoring("Ranked", lambda distance: distance / (distance.sum() + 1)),
    scoring("ByPlace", lambda distance: distance + torch.arange(len(distance))),
    scoring("ByChance", lambda distance: distance + torch.rand(len(distance))),
]


class Counting(Distance):
    """Learns from what it scores."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> InferenceBatch:
        self.seen += len(images)
        return InferenceBatch(pred_score=super().forward(images).pred_score + self.seen)


class Learning(Fitted):
    def __init__(self, **components: Any):
        super().__init__(**components)
        self.model = Counting()


# ----------------------------------------------------------------------------------------------------------- its state
class Loose(nn.Module):
    """Keeps the mean of the training maps as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(31, 95)

    forward = Distance.forward


class Forgetting(Fitted):
    def __init__(self, **components: Any):
        super().__init__(**components)
        self.model = Loose()


class Fleeting(Fitted):
    """Keeps it in a buffer that no checkpoint has."""

    def __init__(self, **components: Any):
        super().__init__(**components)
        self.model.register_buffer("mean", torch.zeros(31, 95), persistent=False)


class Growing(Fitted):
    """Keeps it in a buffer whose shape `__init__` does not know."""

    def __init__(self, **components: Any):
        super().__init__(**components)
        self.model.register_buffer("mean", torch.zeros(0))

    def on_train_epoch_end(self) -> None:
        self.model.mean = torch.cat(self.seen).mean(dim=0)


class Late(Forgetting):
    """Registers it once it is fitted."""

    def on_train_epoch_end(self) -> None:
        mean = torch.cat(self.seen).mean(dim=0)
        del self.model.mean
        self.model.register_buffer("mean", mean)


# -------------------------------------------------------------------------------------------------------- its training
class Unwatched(Trained):
    def validation_step(self, batch: Any, *args: Any, **kwargs: Any) -> None:
        return None


BROKEN: list[tuple[type, str, str]] = [
    (Untyped, "settings have types: level has none", "annotate every argument"),
    (Closed, "components reach the base class unchanged: .*unexpected keyword", r"super\(\).__init__\(\*\*components"),
    (Swallowing, "components reach the base class unchanged: pre_processor is PreProcessor", "not what was passed in"),
    (Scaling, "components reach the base class unchanged: pre_processor is PreProcessor", "not what was passed in"),
    *((model, "pred_score is raw, one number per map: ", "neither normalised nor clamped") for model in RAW),
    *((model, "a map's score is its own: a map that scored .* scores", "without chance") for model in (*OWN, Learning)),
    *(
        (model, "parameters and buffers hold what scoring needs: ", "register_buffer")
        for model in (Forgetting, Fleeting, Growing, Late)
    ),
    (Unwatched, "its training can be watched: its validation has no scores", "return the batch with pred_score"),
]


@pytest.mark.parametrize(("model", "promise", "remedy"), BROKEN, ids=[one[0].__name__ for one in BROKEN])
def test_a_model_that_breaks_a_promise_is_refused_with_the_promise_and_the_remedy(model, promise, remedy) -> None:
    with pytest.raises(ContractBroken, match=f"(?s){promise}.*{remedy}"):
        check_model(model, SIZE)


def test_a_model_of_another_training_is_checked_as_that_training_leaves_it(tmp_path) -> None:
    seen = []

    def fit(config: Any, model: Any, datamodule: Any, folder: Any) -> Any:
        seen.append((config.model.name, datamodule.source_domain, len(datamodule.train_maps)))
        torch.save({"state_dict": model.state_dict()}, tmp_path / "it.ckpt")
        return tmp_path / "it.ckpt"

    check_model("toys:Fitted", SIZE, fit)
    assert seen == [("toys:Fitted", "domain_A", 9)]
    torch.save({"state_dict": Turned().state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ContractBroken, match="does not take its checkpoint"):
        check_model("toys:Fitted", SIZE, lambda *given: fit(*given).with_name("other.ckpt"))


def test_a_class_that_was_written_anew_is_checked_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    check_model(Fitted, SIZE)
    anew = type("Fitted", (Untyped,), {"__module__": "toys"})
    monkeypatch.setattr("toys.Fitted", anew)
    with pytest.raises(ContractBroken, match="level has none"):
        check_model(anew, SIZE)
