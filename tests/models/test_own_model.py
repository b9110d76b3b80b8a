"""A model of the user's own, as CONTRIBUTING.md shows it: its class, a condition file, no change to this package."""

import re
import sys
from pathlib import Path

import pytest

from hdmap_mlflow.errors import BadInput, OutOfMemory
from hdmap_mlflow.models import signature
from hdmap_mlflow.models.contract import ContractBroken
from hdmap_mlflow.runs import flow, setup

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
SOURCE, CHECK = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[:2]
[CONDITION] = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
GREEDY = """

class Greedy(MyModel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)

    def training_step(self, batch, *args, **kwargs):
        raise MemoryError


class Forgetful(MyModel):
    def on_train_epoch_end(self):
        self.model.__dict__["normal"] = torch.cat(self.seen).mean()
        del self.model._buffers["normal"]
"""


pytestmark = [pytest.mark.slow, pytest.mark.mutants, pytest.mark.usefixtures("store")]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `my_models` beside the user, and a condition file for it."""
    (tmp_path / "my_models.py").write_text(SOURCE + GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    signature.forget()
    (tmp_path / "mine.json").write_text(CONDITION)
    return tmp_path / "mine.json"


def test_a_class_of_the_users_own_runs_like_any_model(own, maps):
    config = setup.configure("my_models:MyModel", "mine", str(own), {"data.root": str(maps)})
    assert config.model.settings == {"quantile": 0.9} and config.model.weights == "none"
    result = flow.execute(config, say=lambda _: None)
    assert result.metrics["source/image_AUROC"] > 0.9
    assert {"target/domain_B/image_AUROC", "target/domain_C/image_AUROC"} <= set(result.metrics)


def test_it_keeps_the_contract_by_the_two_lines_of_the_guide(own):
    exec(CHECK, {})
    with pytest.raises(ContractBroken, match="scoring needs.*register_buffer"):
        exec(CHECK.replace("MyModel", "Forgetful"), {})


def test_its_settings_are_checked_like_those_of_any_model(own):
    with pytest.raises(BadInput, match="did you mean 'quantile'"):
        setup.configure("my_models:MyModel", "mine", str(own), overrides="model.quantil=0.5")
    with pytest.raises(BadInput, match="model.quantile.*got 'high'"):
        setup.configure("my_models:MyModel", "mine", str(own), overrides="model.quantile=high")
    with pytest.raises(BadInput, match="no packaged conditions; give"):
        setup.configure("my_models:MyModel", "mine")
    with pytest.raises(BadInput, match="cannot be imported"):
        setup.configure("my_models:YourModel", "mine", str(own))


def test_running_out_of_memory_says_what_to_lower(own, maps):
    assert list(signature.parameters("my_models:Greedy")) == ["quantile"]  # what the class above takes
    config = setup.configure("my_models:Greedy", "mine", str(own), {"data.root": str(maps)})
    with pytest.raises(OutOfMemory, match="machine's memory at batch size 32, 31x95 px; lower data.batch_size"):
        flow.execute(config, say=lambda _: None)
