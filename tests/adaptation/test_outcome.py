"""What a chain brings: figures against a computation by hand, and what may influence them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import scores
from sklearn.metrics import roc_auc_score

from hdmap_mlflow.adaptation import outcome as outcomes
from hdmap_mlflow.adaptation.draw import draw
from hdmap_mlflow.adaptation.outcome import adapted, outcome
from hdmap_mlflow.adaptation.stage import Part, Stage, with_columns
from hdmap_mlflow.config import AdaptConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.metrics import image_metrics, thresholds
from hdmap_mlflow.evaluation.scoring import Scores

pytestmark = pytest.mark.slow

K = 4


def scored(domain, gain=1.0, reference=20):
    """A domain of positive scores: 40 reported maps, healthy ones that are drawn from, and of A 40 of validation."""
    parts = [scores(domain, 2.0, 1), scores(domain, 2.0, 2, "reference", 2 * reference).query("label == 0")]
    parts += [scores(domain, 2.0, 3, "val")] if domain == "A" else []
    table = pd.concat(parts, ignore_index=True).assign(recording="")
    return Scores(domain, table.assign(score=gain * np.exp(table["score"])))


SOURCE, TARGETS = scored("A"), [scored("B", 5.0), scored("C", 0.2)]


def settings(*chain, k=K, **more):
    return AdaptConfig.model_validate({"adapters": chain or ("z",), "k": k, **more})


def test_the_figures_of_z_are_those_of_a_computation_by_hand():
    found = outcome(SOURCE, TARGETS, settings())
    val = SOURCE.part("val")
    normal = np.log(val["score"][val["label"] == 0])
    cut = np.nextafter(np.quantile((normal - np.median(normal)) / normal.std(ddof=1), 0.99, method="inverted_cdf"), 9)
    rates, aurocs = [], []
    for number in range(3):
        reported, z = [SOURCE.part("test")], []
        own = np.log(SOURCE.part("test")["score"])
        z.append((own - np.median(normal)) / normal.std(ddof=1))
        for target in TARGETS:
            drawn = np.log(draw(target.table, target.domain, K, number, settings()).normals["score"])
            sd = np.sqrt((8 * normal.var(ddof=1) + 3 * drawn.var(ddof=1)) / 11)
            z.append((np.log(target.part("test")["score"]) - np.median(drawn)) / sd)
            reported.append(target.part("test"))
        rates.append([float((one[table["label"] == 0] >= cut).mean()) for one, table in zip(z, reported, strict=True)])
        aurocs.append(roc_auc_score(pd.concat(reported)["label"], np.concatenate(z)))
    fpr = "FPR_at_normal_q99"
    measured = {name.removeprefix("adapted/z/k4/"): value for name, value in found.metrics.items()}
    for i, domain in ((1, "B"), (2, "C")):
        assert measured[f"target/{domain}/{fpr}"] == pytest.approx(np.mean([one[i] for one in rates]), abs=1e-12)
        sd = np.std([one[i] for one in rates], ddof=1)
        assert measured[f"target/{domain}/{fpr}_sd"] == pytest.approx(sd, abs=1e-12)
    assert measured[f"target_mean/{fpr}"] == pytest.approx(np.mean(rates, axis=0)[1:].mean(), abs=1e-12)
    assert measured[f"target_worst/{fpr}"] == pytest.approx(np.mean([max(one[1:]) for one in rates]), abs=1e-12)
    assert measured["pooled/image_AUROC"] == pytest.approx(np.mean(aurocs), abs=1e-12)
    assert not [name for name in measured if name.startswith("source")], "the source is as it was"
    curve = found.card["curve"]["z"]["4"]["target/B"][fpr]
    assert (curve["mean"], curve["sd"]) == (measured[f"target/B/{fpr}"], measured[f"target/B/{fpr}_sd"])
    assert curve["interval"][0] <= curve["mean"] <= curve["interval"][1]


def test_the_auroc_of_a_domain_stays_and_that_of_all_as_one_is_repaired():
    found = outcome(SOURCE, TARGETS, settings()).card["curve"]["z"]
    for domain in "BC":
        before, after = (found[k][f"target/{domain}"]["image_AUROC"]["mean"] for k in ("0", "16"))
        assert abs(before - after) < 1e-12
    before, after = (found[k]["pooled"]["image_AUROC"]["mean"] for k in ("0", "16"))
    assert after > before + 0.1, "the gains of 5 and 1/5 are gone"


@pytest.mark.parametrize("chain", [("z",), ("robust_z",), ("conformal",), ("robust_z", "conformal")])
def test_adapters_without_a_map_are_the_identity(chain):
    stage, fitted = adapted(chain, 0, SOURCE, TARGETS, settings(*chain, k=0))
    (parts,) = stage.draws
    for target in TARGETS:
        pd.testing.assert_frame_equal(parts[target.domain].table, target.part("test"))
    assert fitted == thresholds(SOURCE.part("val"))
    assert outcome(SOURCE, TARGETS, settings(*chain, k=0)).metrics == {}


@pytest.mark.parametrize("chain", [("z",), ("robust_z",), ("conformal",)])
def test_labels_of_the_target_touch_nothing_before_the_metrics(chain):
    rng = np.random.default_rng(0)
    blind = [replace(one, table=one.table.assign(label=rng.permutation(one.table["label"]))) for one in TARGETS]
    one, fitted = adapted(chain, K, SOURCE, TARGETS, settings(*chain))
    other, same = adapted(chain, K, SOURCE, blind, settings(*chain))
    assert fitted == same
    for before, after in zip(one.draws, other.draws, strict=True):
        for domain in before:
            np.testing.assert_array_equal(before[domain].table["score"], after[domain].table["score"])
            assert before[domain].table["path"].tolist() == after[domain].table["path"].tolist()


@pytest.mark.parametrize(("chain", "offset"), [("z", 0.0), ("robust_z", 3.0)])
def test_a_gain_of_a_target_changes_no_decision_there(chain, offset):
    def moved(one):
        return replace(one, table=one.table.assign(score=7 * one.table["score"] + offset))

    one, other = (outcome(SOURCE, of, settings(chain)).metrics for of in (TARGETS, [*map(moved, TARGETS)]))
    assert one == pytest.approx(other, abs=1e-12)


def test_conformal_says_its_thresholds_itself():
    _, fitted = adapted(("conformal",), K, SOURCE, TARGETS, settings("conformal"))
    assert (fitted["normal_q99"], fitted["normal_q95"]) == (0.99, 0.95)
    found = outcome(SOURCE, TARGETS, settings("conformal")).metrics
    assert found["adapted/conformal/k4/target_worst/FPR_at_normal_q95"] == 0, "4 maps never alarm at 5 %"


def test_the_curve_has_what_the_smallest_target_has_maps_for_and_every_adapter_of_scores():
    found = outcome(SOURCE, [*TARGETS, scored("D", reference=5)], settings(k=0)).card
    assert {chain: list(of) for chain, of in found["curve"].items()} == {
        "z": ["0", "1", "4"],
        "robust_z": ["0", "4"],
        "conformal": ["0", "1", "4"],
    }
    assert found["maps"] == {"B": 20, "C": 20, "D": 5} and found["scale"] == "log" and not found["left_out"]
    assert "sd" not in found["curve"]["z"]["0"]["target/B"]["image_AUROC"]


def test_scores_that_are_not_all_positive_are_taken_as_they_are_and_the_card_says_so():
    table = TARGETS[0].table.copy()
    table.loc[3, "score"] = -1.0
    assert outcome(SOURCE, [replace(TARGETS[0], table=table)], settings()).card["scale"] == "score"


def test_a_run_without_reference_scores_has_no_adaptation():
    found = outcome(SOURCE, [replace(one, table=one.part("test")) for one in TARGETS], settings())
    assert found.card is None and not found.metrics


def test_what_cannot_be_used_on_the_scores_is_left_out_with_its_reason():
    flat = replace(TARGETS[0], table=TARGETS[0].table.assign(score=1.0))
    found = outcome(SOURCE, [flat], settings("robust_z"))
    assert not found.metrics and "robust_z on B" in found.card["left_out"]["robust_z 4"]
    assert "4" in found.card["curve"]["z"], "the source's spread is enough for z"


def test_maps_that_are_taken_out_of_the_reported_ones_need_no_reference_scores():
    targets = [replace(one, table=one.part("test").reset_index(drop=True)) for one in TARGETS]
    found = outcome(SOURCE, targets, settings(**{"from": "test"}))
    stage, _ = adapted(("z",), K, SOURCE, targets, settings(**{"from": "test"}))
    assert found.metrics["adapted/z/k4/target_mean/image_AUROC"] > 0.8
    assert {len(part.table) for parts in stage.draws for part in parts.values()} == {36}


def test_scores_of_an_adapted_model_are_measured_from_their_columns():
    plain, chain = SOURCE.table[SOURCE.table["split"] != "reference"], ("toy", "z")
    draws = [
        {
            one.domain: Part(np.ones(2), one.part("test").assign(score=lambda t, i=i: t["score"] ** 2 + i))
            for one in TARGETS
        }
        for i in range(2)
    ]
    stage = Stage.of("A", plain.assign(score=plain["score"] ** 2), draws, changed=True)
    kept = [with_columns(one, stage, chain, K) for one in (SOURCE, *TARGETS)]
    back = outcomes.of_columns(kept[0], kept[1:], chain, K)
    for before, after in zip(stage.draws, back.draws, strict=True):
        for domain in before:
            pd.testing.assert_frame_equal(before[domain].table, after[domain].table[before[domain].table.columns])
    fitted = thresholds(back.own.table[back.own.table["split"] == "val"])
    found = outcomes.figures(back, fitted, ["FPR_at_normal_q99"])
    by_hand = [image_metrics(parts["B"].table, fitted)["FPR_at_normal_q99"] for parts in draws]
    assert found["target/B"]["FPR_at_normal_q99"]["mean"] == pytest.approx(np.mean(by_hand))
    assert "source" in found


def test_a_run_of_a_version_with_other_adapters_is_refused_by_their_name():
    assert outcomes.made(["adapted/z/k4/pooled/image_AUROC", "adapted/gone-z/k4/pooled/image_AUROC"]) == {(("z",), 4)}
    with pytest.raises(BadInput, match="unknown adapter 'gone'"):
        outcome(SOURCE, TARGETS, settings("gone", "z"))
