"""Models of two channels that adapters of features and of networks change, without any weights to load."""

from types import SimpleNamespace

import torch
from anomalib.data import ImageBatch, InferenceBatch
from torch import nn


class Loader(list):
    """Batches of maps (n, 3, H, W), four at a time, as adapters and `scoring.score` read them."""

    def __init__(self, maps):
        super().__init__(SimpleNamespace(image=part.clone(), gt_mask=None) for part in maps.split(4))
        self.dataset = maps


class Network(nn.Module):
    """A convolution and a BatchNorm layer; a map's score is the mean square of what comes out."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.BatchNorm2d(2))

    def forward(self, images):
        squared = self.layers(images).square().mean(dim=1)
        return InferenceBatch(pred_score=squared.mean(dim=(1, 2)), anomaly_map=squared[:, None])


class Model(nn.Module):
    """What `builder.build` gives, as far as adapters see: a pre-processor, `features` and `predict_step`."""

    def __init__(self, bank=None, gaussian=None):
        super().__init__()
        torch.manual_seed(0)
        self.model = Network()
        if bank is not None:
            self.model.register_buffer("memory_bank", bank)
        if gaussian is not None:
            self.model.gaussian = gaussian
        self.pre_processor = SimpleNamespace(transform=lambda images: images)

    def features(self, images):
        return self.model.layers(images)

    def predict_step(self, batch, _index=0):
        return self.model(batch.image)


def state(model):
    """Everything that an adapter could have changed."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def maps(count, gain=1.0, offset=0.0, seed=0):
    """Maps (count, 3, 12, 8), positive."""
    generator = torch.Generator().manual_seed(seed)
    return (gain * torch.rand(count, 1, 12, 8, generator=generator) + offset).repeat(1, 3, 1, 1)


def scores(model, images):
    """Raw scores (n,) as `scoring.score` takes them."""
    with torch.inference_mode():
        batch = ImageBatch(image=model.pre_processor.transform(images))
        return model.predict_step(batch, 0).pred_score.reshape(-1)
