"""The validation metric that early stopping, checkpoints and pruning watch."""

from __future__ import annotations

from typing import Any

from anomalib.metrics import AnomalibMetric
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class _RawAUROC(Metric):
    """Area under the ROC curve of scores of any range, in [0, 1].

    torchmetrics squeezes a batch whose scores leave [0, 1] through a sigmoid: distances above 17 all become 1, and
    batches end up on different scales. Here the scores are compared as they are.
    """

    higher_is_better = True
    full_state_update = False
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take a batch: scores of any shape, and as many labels, 0 or 1."""
        self.scores.append(preds.detach().flatten().float().cpu())
        self.labels.append(target.detach().flatten().cpu())

    def compute(self) -> Tensor:
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        return scores.new_tensor(roc_auc_score(labels.numpy(), scores.numpy()))


class AUROC(AnomalibMetric, _RawAUROC):  # type: ignore[misc] # the class's name is the metric's: val_image_AUROC
    """`_RawAUROC` on fields of an anomalib batch."""
