"""The AUROC that early stopping watches, batch by batch."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from reference.scores import auroc

from hdmap_mlflow.models.parts.auroc import AUROC

RNG = np.random.default_rng(0)
LABEL = RNG.permutation(np.repeat([0, 1], [11, 9]))
SCORE = (RNG.integers(0, 8, 20) * 10 + 20 + 5 * LABEL).astype(np.float32)


def fed(*parts, scores=SCORE, **settings):
    metric = AUROC(fields=["pred_score", "gt_label"], prefix="val_image_", **settings)
    for part in parts:
        given = torch.tensor(scores[part], requires_grad=True).reshape(-1, 1)
        images = torch.zeros(len(given), 3, 4, 4)
        metric.update(ImageBatch(image=images, pred_score=given, gt_label=torch.tensor(LABEL[part])))
    return metric


@pytest.mark.parametrize("parts", [[slice(0, 20)], [slice(0, 3), slice(3, 4), slice(4, 20)]])
def test_it_is_the_share_of_pairs_in_order_however_the_maps_are_batched(parts):
    metric = fed(*parts)
    found = metric.compute()
    assert found.dtype == torch.float32 and not found.requires_grad
    assert float(found) == pytest.approx(auroc(LABEL, SCORE), abs=1e-6)
    assert 0.5 < float(found) < 1 and metric.higher_is_better


def test_it_counts_what_other_processes_saw_and_forgets_all_at_a_reset():
    metric, other = fed(slice(0, 12)), fed(slice(12, 20))
    metric.merge_state(other)
    assert float(metric.compute()) == pytest.approx(auroc(LABEL, SCORE), abs=1e-6)
    metric.reset()
    metric.update(
        ImageBatch(image=torch.zeros(2, 3, 4, 4), pred_score=torch.tensor([2.0, 1]), gt_label=torch.tensor([0, 1]))
    )
    assert metric.compute() == 0


def test_processes_exchange_one_tensor_of_scores_and_one_of_labels_however_many_batches_they_saw():
    """A batch less in one process would leave the others waiting for it."""
    other, sent = [torch.tensor(SCORE[12:]), torch.tensor(LABEL[12:])], []

    def gather(tensor, group=None):
        sent.append(len(tensor))
        return [tensor, other[len(sent) - 1]]

    metric = fed(slice(0, 3), slice(3, 12), dist_sync_fn=gather, distributed_available_fn=lambda: True)
    assert float(metric.compute()) == pytest.approx(auroc(LABEL, SCORE), abs=1e-6)
    assert sent == [12, 12]


def test_scores_in_half_precision_are_compared_in_single():
    half = SCORE.astype(np.float16)
    assert float(fed(slice(0, 20), scores=half).compute()) == pytest.approx(auroc(LABEL, half), abs=1e-6)
