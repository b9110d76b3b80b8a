"""How thresholds and scores travel, and the pixel metrics."""

import numpy as np
import pytest
from frames import frame
from sklearn.metrics import roc_auc_score

from hdmap_mlflow.evaluation import cards
from hdmap_mlflow.evaluation.figures import CURVE, adaptation_figure
from hdmap_mlflow.evaluation.metrics import thresholds
from hdmap_mlflow.evaluation.pixels import PixelHistogram
from hdmap_mlflow.evaluation.scoring import Scores

LABEL = np.repeat([0, 1], 100)


def drawn(seed, offset=0.0, gain=1.0, label=LABEL, **columns):
    rng = np.random.default_rng(seed)
    return frame(label, offset + gain * (rng.normal(size=len(label)) + 3 * label), **columns)


def test_a_transferred_threshold_raises_false_alarms_under_an_offset():
    val = drawn(0)
    card = cards.threshold_card({"same": drawn(1), "moved": drawn(2, offset=4)}, thresholds(val)["normal_q99"])
    same, moved = card["domains"]["same"], card["domains"]["moved"]
    assert same["FPR"] < 0.1 and moved["FPR"] > 0.8
    low, high = same["FPR_interval"]
    assert low <= same["FPR"] <= high


@pytest.mark.parametrize(("offset", "gain", "enough"), [(4, 1, "1"), (0, 4, "50")])
def test_unlabelled_normals_repair_an_offset_at_once_and_a_gain_with_more(offset, gain, enough):
    val, target = drawn(0), drawn(1, offset, gain)
    curve = cards.repair(val, target)
    assert list(curve) == ["0", "1", "5", "10", "50"]
    fitted = cards.threshold_card({"b": target}, thresholds(val)["normal_q99"])["domains"]["b"]
    assert curve["0"]["FPR"] == pytest.approx(fitted["FPR"]) and curve["0"]["TPR"] == pytest.approx(fitted["TPR"])
    assert curve[enough]["FPR"] < curve["0"]["FPR"] / 2
    assert curve["50"]["FPR"] < 0.06 and curve["50"]["TPR"] > 0.5


def test_the_repair_curve_ends_where_too_few_normals_are_left():
    assert list(cards.repair(drawn(0), drawn(1, label=np.repeat([0, 1], [12, 12])))) == ["0", "1", "5"]


def test_the_saturation_alarm_rings_when_scores_pile_up_at_the_clamp():
    val = drawn(0)
    quiet, loud = cards.saturation(val, drawn(1)), cards.saturation(val, drawn(2, offset=30))
    assert not quiet["alarm"] and quiet["clamped_AUROC"] == pytest.approx(quiet["image_AUROC"], abs=0.01)
    assert loud["alarm"] and loud["clamped_fraction"] == 1 and loud["clamped_AUROC"] == 0.5
    assert loud["image_AUROC"] > 0.9


def test_the_normalised_scores_are_those_of_anomalib():
    import torch
    from anomalib.post_processing import PostProcessor

    val, target = drawn(0), drawn(1, offset=1, gain=2)
    score = val["score"].to_numpy()
    cut = torch.tensor(thresholds(val)["F1"])
    theirs = PostProcessor._normalize(
        torch.tensor(target["score"].to_numpy()), torch.tensor(score.min()), torch.tensor(score.max()), cut
    )
    np.testing.assert_allclose(cards.normalised(val, target["score"].to_numpy()), theirs.numpy(), atol=1e-6)


def test_groups_are_measured_within_themselves():
    group = np.tile(["cold", "warm"], 100)
    table = drawn(0, group=group).assign(score=lambda t: t["score"] + 100 * (t["group"] == "warm"))
    found = cards.groups(table)
    assert set(found) == {"cold", "warm"}
    assert min(card["image_AUROC"] for card in found.values()) > roc_auc_score(table["label"], table["score"]) + 0.1
    assert cards.groups(drawn(0)) == {}


def test_a_domain_of_one_class_has_only_the_cards_it_can_have():
    source = Scores("a", drawn(0, split=np.tile(["val", "test"], 100)))
    built = cards.build(source, [Scores("b", drawn(1, label=np.zeros(20, int)))], {"b": {"feature_MMD": 0.2}})
    assert built["intervals"]["b"] == {"good": 20, "fault": 0}
    assert set(built["saturation"]) == {"a"} and set(built["repair"]) == {"a"}
    assert "TPR" not in built["thresholds"]["F1"]["domains"]["b"]
    assert built["shift"]["b"] == {"feature_MMD": 0.2}


# ---------------------------------------------------------------------------------------------- pixels
def pixel_maps(seed, n=6):
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 31, 95), bool)
    masks[1, 3:5, 10:60] = masks[2, 8:9, 0:20] = masks[2, 20:24, 30:40] = masks[3, 10:11, 50:53] = True
    values = rng.lognormal(0, 1, masks.shape) + masks * rng.uniform(0, 4, masks.shape)
    return values.astype(np.float32), masks


def test_pixel_metrics_are_those_of_scikit_learn_and_anomalib_in_any_batching():
    import torch
    from anomalib.metrics.aupro import _AUPRO

    values, masks = pixel_maps(0)
    histogram = PixelHistogram()
    for part in (slice(0, 1), slice(1, 6)):
        histogram.update(values[part], masks[part])
    found = histogram.metrics()
    assert found["pixel_AUROC"] == pytest.approx(roc_auc_score(masks.ravel(), values.ravel()), abs=2e-4)
    theirs = _AUPRO()
    theirs.update(torch.tensor(values), torch.tensor(masks).int())
    assert found["pixel_AUPRO"] == pytest.approx(float(theirs.compute()), abs=2e-3)


def test_pixel_bins_keep_the_order_of_any_float():
    from hdmap_mlflow.evaluation.pixels import _bins

    values = np.array([-1e30, -3.5, -1e-20, 0.0, 1e-20, 0.5, 0.501, 7, 1e30], np.float32)
    assert (np.diff(_bins(values)) > 0).all()


def test_pixel_metrics_without_a_fault_are_absent():
    histogram = PixelHistogram()
    histogram.update(pixel_maps(0)[0], np.zeros((6, 31, 95), bool))
    assert histogram.metrics() == {}


def test_the_curve_over_k_is_drawn_for_every_chain_that_the_card_has_and_ticks_every_k():
    figure = {"mean": 0.5, "sd": 0.1}
    points = {"target_mean": dict.fromkeys([name for _, name, *_ in CURVE], figure), "pooled": {"image_AUROC": figure}}
    curve = {"z": {"0": points, "16": points}, "robust_z": {"4": {"pooled": {"image_AUROC": {"mean": 0.7}}}}}
    axes = adaptation_figure("a run", curve, simulated=True).axes
    assert len(axes) == len(CURVE) and [text.get_text() for text in axes[0].get_xticklabels()] == ["0", "4", "16"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["z", "robust_z"]
    pooled = axes[3].containers
    assert [list(bars[0].get_ydata()) for bars in pooled] == [[0.5, 0.5], [0.7]]
    assert [line.get_ydata()[0] for line in axes[1].lines if line.get_linestyle() == ":"] == [0.01]
