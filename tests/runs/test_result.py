"""What a finished run says of itself."""

import dataclasses
from pathlib import Path

import pytest

from hdmap_mlflow.cli.show import show
from hdmap_mlflow.config import build_config
from hdmap_mlflow.runs.result import Result


def result(source, target=0.8, trivial=0.6, low=None):
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
        "id",
        "sqlite:///x.db",
        config,
        ["domain_A", "domain_B"],
        {"domain_A": 4, "domain_B": 8},
        metrics,
        False,
        {"intervals": {"domain_A": {"image_AUROC": [source - 0.01 if low is None else low, 0.99]}}},
    )


@pytest.mark.parametrize(("source", "empty"), [(0.9, False), (0.59, True), (0.45, True)])
def test_a_grade_of_a_model_that_learned_nothing_is_said_to_mean_nothing(source, empty):
    assert ("mean nothing" in result(source).markdown()) == empty


@pytest.mark.parametrize(
    ("low", "trivial", "said"),
    [
        (0.61, 0.6, None),
        (0.6, 0.6, "0.600 is not above image max (0.600)"),
        (0.415, 0.3, "0.415 is not above chance (0.500)"),
        (0.5, 0.4, "0.500 is not above chance (0.500)"),
        (0.501, 0.4, None),
    ],
)
def test_a_grade_needs_the_lower_bound_of_the_source_above_chance_and_the_trivial_scores(low, trivial, said):
    one = result(0.9, trivial=trivial, low=low)
    assert (one.grade is None) == bool(said)
    assert (said or "ratio 0.889 (good)") in one.verdict()
    if said:
        assert "ratio" not in one.verdict() and "skill" not in one.verdict() and said in "".join(one.remarks())


RANDOM = "random weights: this shows the flow, not the method"
SMALL = "quickstart has small settings, for a first look"
WAY = "published settings: `-P condition=baseline`"


@pytest.mark.parametrize(
    ("model", "condition", "weights", "simulated", "said"),
    [
        ("rad", "quickstart", "random", True, f"{RANDOM}; {WAY}"),
        ("rad", "quickstart", "random", False, f"{RANDOM}; {WAY}"),
        ("padim", "baseline", "random", False, RANDOM),
        ("my_models:Mine", "mine", "random", False, RANDOM),
        ("cutpaste", "baseline", "random", False, None),  # starts from scratch, as published
        ("cutpaste", "quickstart", "random", False, f"{SMALL}; {WAY}"),
        ("padim", "quickstart", "embedded", False, f"{SMALL}; {WAY}"),
        ("padim", "quickstart", "embedded", True, None),  # the demo data are small, too
        ("padim", "baseline", "hub", False, None),
        ("toothwise", "quickstart", "none", False, None),  # has the published settings
        ("my_models:Mine", "quickstart", "hub", False, None),
    ],
)
def test_a_run_says_what_its_weights_and_settings_are_worth(model, condition, weights, simulated, said):
    config = build_config(model, {"name": condition, "config": {"weights": weights}})
    one = dataclasses.replace(result(0.9), config=config, simulated=simulated)
    lines = [line for line in one.remarks() if line.startswith((RANDOM, SMALL))]
    assert lines == ([said] if said else []) and (not said or f"- {said}\n" in one.markdown())


def test_the_verdict_carries_the_guidelines_grade():
    assert "ratio 0.889 (good)" in result(0.9).verdict()


def test_the_table_has_a_row_a_domain_and_says_what_is_undefined():
    one = result(0.9)
    assert [row[:4] for row in one.rows()] == [
        ["domain_A", "source", "4", "0.900"],
        ["domain_B", "target", "8", "0.800"],
    ]
    assert one.rows()[1][4] == "-"


def test_the_table_shows_intervals_and_the_saturation_alarm():
    told = {
        "intervals": {"domain_A": {"image_AUROC": [0.8, 0.95]}, "domain_B": {"image_AUROC": [0.7, 0.9]}},
        "saturation": {"domain_B": {"alarm": True, "clamped_fraction": 0.5, "clamped_AUROC": 0.6}},
    }
    one = dataclasses.replace(result(0.9), cards=told)
    assert one.rows()[1][4] == "0.700-0.900"
    assert "Saturation on domain_B" in one.markdown() and "50%" in one.markdown()


NAMES = (
    "image_AUROC",
    "image_AP",
    "image_F1",
    "FPR_at_normal_q99",
    "TPR_at_normal_q99",
    "baseline_max_AUROC",
    "baseline_mean_AUROC",
)


def whole():
    """A run with every kind of domain: two targets, and one of a single class."""
    values = {
        "source": (0.96, 0.95, 0.9, 0.01, 0.8, 0.71, 0.72),
        "target/domain_B": (0.81, 0.8, 0.7, 0.2, 0.6, 0.9, 0.3),
        "target/domain_C": (0.61, 0.6, 0.5, 0.4, 0.55, 0.2, 0.4),
    }
    metrics = {f"{scope}/{name}": v for scope, row in values.items() for name, v in zip(NAMES, row, strict=True)}
    metrics |= {"target/domain_D/FPR_at_normal_q99": 0.25, "val/image_AUROC": 0.97, "val/threshold_F1": 1.5}
    metrics |= {"target_mean/image_AUROC": 0.71, "target_worst/image_AUROC": 0.61}
    metrics |= {"transfer/ratio": 0.7396, "transfer/gap": 0.25, "transfer/skill": 0.4565}
    cards = {
        "intervals": {
            d: {"image_AUROC": [low, 0.99], "image_AP": [0.0, 1.0]}
            for d, low in (("domain_A", 0.91), ("domain_B", 0.72))
        }
        | {"domain_D": {"good": 8}},
        "saturation": {
            "domain_B": {"alarm": True, "clamped_fraction": 0.375, "clamped_AUROC": 0.6125},
            "domain_C": {"alarm": False, "clamped_fraction": 0.0, "clamped_AUROC": 0.61},
        },
    }
    config = build_config("m", {"name": "c", "config": {}, "description": "as published"}, flags={"train.seed": 4})
    counts = {"domain_A": 4, "domain_B": 8, "domain_C": 9, "domain_D": 3}
    return Result("id", "sqlite:///x.db", config, list(counts), counts, metrics, True, cards)


def test_the_description_of_a_run_is_this_text():
    assert whole().markdown().splitlines() == [
        "**m/c/domain_A/s4** (source_holdout) as published",
        "",
        "| domain | role | maps | AUROC | 95 % interval | AP | F1 | FPR | TPR | image max | image mean | row ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| domain_A | source | 4 | 0.960 | 0.910-0.990 | 0.950 | 0.900 | 0.010 | 0.800 | 0.710 | 0.720 | - |",
        "| domain_B | target | 8 | 0.810 | 0.720-0.990 | 0.800 | 0.700 | 0.200 | 0.600 | 0.900 | 0.300 | - |",
        "| domain_C | target | 9 | 0.610 | - | 0.600 | 0.500 | 0.400 | 0.550 | 0.200 | 0.400 | - |",
        "| domain_D | target | 3 | - | - | - | - | 0.250 | - | - | - | - |",
        "",
        "target mean AUROC 0.710, worst 0.610; transfer ratio 0.740 (fair), gap +0.250, skill 0.457",
        "",
        "- The maps are simulated: these figures say nothing about a real gearbox.",
        "- AUROC is undefined for domain_D: only one class of maps is there.",
        "- Saturation on domain_B: clamped to [0, 1] as anomalib does, 38% of its scores are at a clamp and the AUROC "
        "would read 0.613.",
        "- F1, and the realised FPR and TPR (at the 99 % quantile of normals), are at thresholds of the source's "
        "validation maps; image max, image mean and row ratio are the AUROC of the trivial scores.",
        "- No row ratio is known of the source: two trivial scores are compared; hdmap verify adds it.",
        "- To compare this run with others on MLflow's compare page, choose `source/image_AUROC` for the x-axis and "
        "`target_mean/image_AUROC` for the y-axis; it opens on other ones.",
    ]


def test_the_bars_hold_what_has_an_interval_beside_the_better_trivial_score():
    rows, trivial = whole().bars()
    assert rows == [("domain_A", 0.96, [0.91, 0.99]), ("domain_B", 0.81, [0.72, 0.99])]
    assert trivial == {"domain_A": 0.72, "domain_B": 0.9}


def test_the_terminal_shows_what_the_description_says(capsys):
    one = whole()
    show(one)
    title, *said = capsys.readouterr().out.splitlines()
    assert title.strip() == "m/c/domain_A/s4"
    assert [line.split() for line in said if "domain_" in line][:4] == [" ".join(row).split() for row in one.rows()]
    assert said[-6:] == [one.verdict(), *(f"- {line}" for line in one.remarks())]
    with_left = [line for line in said if line.strip().startswith("domain_A")]
    assert with_left[0].split("source")[0].strip() == "domain_A"


def test_the_result_record_holds_every_metric_once_under_its_scope():
    one = whole()
    training = dataclasses.make_dataclass("Training", ["completion", "last_epoch"])("fitted", 3)
    assert one.record(training, Path("out/best.pt"), Path("out")) == {
        "condition": {"name": "c", "description": "as published", "config": one.config.flat()},
        "experiment_name": "m/c/domain_A/s4",
        "source_results": {"domain": "domain_A", **{name: one.metrics[f"source/{name}"] for name in NAMES}},
        "target_results": {
            "domain_B": {name: one.metrics[f"target/domain_B/{name}"] for name in NAMES},
            "domain_C": {name: one.metrics[f"target/domain_C/{name}"] for name in NAMES},
            "domain_D": {"FPR_at_normal_q99": 0.25},
        },
        "avg_target_auroc": 0.71,
        "transfer": {"ratio": 0.7396, "gap": 0.25, "skill": 0.4565},
        "cards": one.cards,
        "validation": {"strategy": "source_holdout", "image_AUROC": 0.97, "threshold_F1": 1.5},
        "training_info": {"completion": "fitted", "last_epoch": 3},
        "best_checkpoint": "out/best.pt",
        "experiment_path": "out",
        "run_id": "id",
        "simulated": True,
        "status": "success",
    }


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("target_mean/image_AUROC", "transfer: undefined, no target has both good and fault maps"),
        ("transfer/ratio", "transfer: undefined, no target has both good and fault maps"),
        ("transfer/skill", "gap +0.250, skill undefined"),
    ],
)
def test_what_is_undefined_of_the_transfer_is_said(without, said):
    one = whole()
    left = {name: value for name, value in one.metrics.items() if name != without}
    assert dataclasses.replace(one, metrics=left).verdict().endswith(said)


@pytest.mark.parametrize(
    ("own", "trivial", "empty"),
    [(0.5, None, True), (0.51, None, False), (0.7, 0.7, True), (0.7, 0.69, False), (None, 0.9, False)],
)
@pytest.mark.parametrize("best", ["max", "mean", "row"])
def test_a_source_figure_must_lie_above_chance_and_every_trivial_score(own, trivial, empty, best):
    low = {f"baseline_{name}_AUROC": 0.1 for name in ("max", "mean", "row")}
    left = {"image_AUROC": own} | low | {f"baseline_{best}_AUROC": trivial}
    metrics = {f"source/{name}": value for name, value in left.items() if value is not None}
    made = {"intervals": {"domain_A": {"image_AUROC": [own, 0.99]} if own else {}}}
    told = dataclasses.replace(whole(), metrics=metrics, simulated=False, cards=made).remarks()
    assert any("mean nothing" in line for line in told) == empty
    assert told[0].startswith("AUROC is undefined") and "domain_B, domain_C, domain_D:" in told[0] and all(told)


def test_source_figures_on_the_maps_that_chose_are_said_to_be_optimistic():
    config = build_config("m", {"name": "c", "config": {"validation": "source_test"}})
    told = dataclasses.replace(whole(), config=config).remarks()
    assert any("source_test" in line and "optimistic" in line for line in told)


@pytest.mark.parametrize("has", [True, False])
def test_a_run_of_before_says_that_it_has_two_trivial_scores(has):
    one = whole()
    more = {"source/baseline_row_AUROC": 0.98} if has else {}
    found = dataclasses.replace(one, metrics={**one.metrics, **more})
    assert any("two trivial scores" in line for line in found.remarks()) != has
    assert found.bars()[1]["domain_A"] == (0.98 if has else 0.72)
