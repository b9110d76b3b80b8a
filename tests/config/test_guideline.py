"""docs/guideline.md: its condition file loads as it stands, and both languages name every flag and file."""

import re
from pathlib import Path

import pytest

from hdmap_mlflow.config import load_conditions
from hdmap_mlflow.runs import setup

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "guideline.md", DOCS / "guideline.ko.md"]
BLOCKS = [re.search(r"```json\n(.*?)```", page.read_text(), re.DOTALL)[1] for page in PAGES]
NAMES = [
    "multi_domain_hdmap_{모델명}-training.py",
    "multi_domain_hdmap_{모델명}-exp_condition.json",
    "multi_domain_hdmap_{모델명}-run.sh",
    "auto_experiment_runner.sh",
    "--gpu-id",
    "--experiment-id",
    "--log-dir",
    "AVAILABLE_GPUS",
    "EXPERIMENT_CONDITIONS",
    "tensorboard_logs",
    "nvidia-smi",
    "pkill",
    "nohup",
    "output_exp_0_gpu0.log",
    "result_exp_00_{조건명}_gpu0.json",
    "MultiDomainHDMAPDataModule",
    "experiment_utils",
]


def test_the_condition_file_of_the_page_is_read_word_by_word(tmp_path):
    assert "// 학습이 필요한 모델의 경우" in BLOCKS[0], "the guideline's comments stand in it"
    assert BLOCKS[0] == BLOCKS[1]
    file = tmp_path / "multi_domain_hdmap_reverse_distillation-exp_condition.json"
    file.write_text(BLOCKS[0], encoding="utf-8")
    assert set(load_conditions(file)) == {"reverse_distillation_baseline", "reverse_distillation_optimized"}
    config = setup.configure("reverse_distillation", "reverse_distillation_baseline", str(file))
    assert config.data.source_domain == "domain_A" and config.data.batch_size == 32
    assert config.data.target_domains == ("domain_B", "domain_C", "domain_D") and config.data.image_size == (256, 256)
    assert (config.train.max_epochs, config.train.early_stopping_patience, config.train.optimizer) == (50, 10, "adamw")
    assert (config.train.learning_rate, config.train.weight_decay) == (0.001, 0.0001)
    assert config.model.settings["anomaly_map_mode"] == "multiply"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_became_of_it(page, name):
    assert name in page.read_text(encoding="utf-8")
