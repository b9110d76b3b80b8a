"""Models of a user's own that cost next to nothing: `toys:Fitted`, which one pass fits, and `toys:Trained`."""

import ctypes

import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule
from torch import nn


class Distance(nn.Module):
    """Score: a high quantile of the distance from the mean training map; it sorts, so it is the same in any batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(31, 95))

    def forward(self, images):
        distance = (images[:, 0] - self.mean).abs()
        return InferenceBatch(pred_score=distance.flatten(1).quantile(0.98, dim=1), anomaly_map=distance[:, None])


class Turned(nn.Module):
    """Score: from a single pixel to a high quantile as the angle grows, so that validation tells the epochs apart."""

    def __init__(self):
        super().__init__()
        self.angle = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        pixels = images[:, 0].flatten(1)
        return InferenceBatch(pred_score=(0.2 - self.angle) * pixels[:, 0] + self.angle * pixels.quantile(0.98, dim=1))


class Toy(AnomalibModule):
    learning_type = LearningType.ONE_CLASS

    def validation_step(self, batch, *args, **kwargs):
        return batch.update(pred_score=self.model(batch.image).pred_score)


class Fitted(Toy):
    trainer_arguments = {"max_epochs": 1}

    def __init__(self, **components):
        super().__init__(**components)
        self.model = Distance()
        self.seen = []

    def training_step(self, batch, *args, **kwargs):
        self.seen.append(batch.image[:, 0])

    def on_train_epoch_end(self):
        self.model.mean.copy_(torch.cat(self.seen).mean(dim=0))

    def configure_optimizers(self):
        return None


class Trained(Toy):
    """The angle goes towards the mean of the batches, the latest counting most: their order matters."""

    trainer_arguments = {}

    def __init__(self, rate: float = 0.05, **components):
        super().__init__(**components)
        self.model = Turned()
        self.rate = rate

    def training_step(self, batch, *args, **kwargs):
        loss = (self.model.angle - batch.image.mean()) ** 2
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def on_validation_epoch_end(self):
        self.log("angle", self.model.angle)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class Deaf(Trained):
    """Training comes to C code that never ends, and so to no line of Python that a signal could interrupt."""

    def training_step(self, batch, *args, **kwargs):
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
