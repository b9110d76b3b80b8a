"""Flags of the guideline's scripts: refused with what says the same here."""

import pytest

pytestmark = pytest.mark.slow

GPU, NAMED, FOLDER = "CUDA_VISIBLE_DEVICES=N", "--condition NAME", "tracking.output_dir=FOLDER"
FLAGS = [
    (["train", "patchcore", "--gpu-id", "0"], ["--gpu-id", GPU]),
    (["train", "--gpu-id=15"], ["--gpu-id", GPU]),
    (["train", "--gpu_id", "0"], ["--gpu-id", GPU]),  # as `mlflow run -P gpu_id=0` gives it
    (["grid", "--gpu-id"], ["--gpu-id", GPU]),
    (["train", "--experiment-id", "0"], ["--experiment-id", NAMED]),
    (["tune", "padim", "--experiment_id=3"], ["--experiment-id", NAMED]),
    (["train", "--log-dir", "results/draem/20261127_120000"], ["--log-dir", FOLDER]),
    (["grid", "--log_dir=x"], ["--log-dir", FOLDER]),
    (["train", "--gpu-id", "0", "--experiment-id", "0", "--log-dir", "x"], ["--gpu-id", GPU]),
]


@pytest.mark.parametrize(("arguments", "says"), FLAGS, ids=lambda one: " ".join(one)[:60])
def test_a_flag_of_the_guideline_is_answered_with_ours(refused, arguments, says):
    line = refused(*arguments, says=[*says, "guideline"])
    assert "Did you mean" not in line


@pytest.mark.parametrize("flag", ["--gpu-ids", "--log", "--experiments-id"])
def test_any_other_flag_is_no_flag_of_the_guideline(refused, flag):
    assert "guideline" not in refused("train", flag, "0", says=[flag])
