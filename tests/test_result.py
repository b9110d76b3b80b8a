"""What a finished run says of itself."""

import dataclasses

import pytest

from hdmap_mlflow.config import build_config
from hdmap_mlflow.result import Result


def result(source, target=0.8, trivial=0.6):
    metrics = {
        "source/image_AUROC": source,
        "source/baseline_max_AUROC": trivial,
        "source/baseline_mean_AUROC": 0.4,
        "target/domain_B/image_AUROC": target,
        "target_mean/image_AUROC": target,
        "target_worst/image_AUROC": target,
        "transfer/ratio": target / source,
        "transfer/gap": source - target,
    }
    config = build_config("m", {"name": "c", "config": {}})
    return Result(
        "id", "sqlite:///x.db", config, ["domain_A", "domain_B"], {"domain_A": 4, "domain_B": 8}, metrics, False
    )


@pytest.mark.parametrize(("source", "empty"), [(0.9, False), (0.59, True), (0.45, True)])
def test_a_grade_of_a_model_that_learned_nothing_is_said_to_mean_nothing(source, empty):
    assert ("mean nothing" in result(source).markdown()) == empty


def test_the_verdict_carries_the_guidelines_grade():
    assert "ratio 0.889 (good)" in result(0.9).verdict()


def test_the_table_has_a_row_a_domain_and_says_what_is_undefined():
    one = result(0.9)
    assert [row[:4] for row in one.rows()] == [
        ["domain_A", "source", "4", "0.900"],
        ["domain_B", "target", "8", "0.800"],
    ]
    assert one.rows()[0][4] == "-"


def test_the_table_shows_intervals_and_the_saturation_alarm():
    told = {
        "intervals": {"domain_B": {"image_AUROC": [0.7, 0.9]}},
        "saturation": {"domain_B": {"alarm": True, "clamped_fraction": 0.5, "clamped_AUROC": 0.6}},
    }
    one = dataclasses.replace(result(0.9), cards=told)
    assert one.rows()[1][4] == "0.700-0.900"
    assert "Saturation on domain_B" in one.markdown() and "50%" in one.markdown()
