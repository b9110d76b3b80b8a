"""OpenVINO in the place of torch for frozen backbones on a CPU: the same features to rounding, sooner; or in bfloat16.

A backbone is converted once for its weights, layers and input size, and kept in the cache.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Literal

import torch
from anomalib.models.components import TimmFeatureExtractor
from torch import Tensor, nn

from hdmap_mlflow.config import RunConfig
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.files import cache_dir, kept_folder
from hdmap_mlflow.models.backbones import weights_digest

if TYPE_CHECKING:
    import openvino

# Of a layer's largest feature, by which a conversion may differ from torch; seen: 3e-6, and .007
# to .11 in bfloat16.
TOLERANCES = {"32-true": 1e-4, "bf16-true": 0.25}
BFLOAT16 = "train.frozen_precision=bf16-true"
HINTS = {"32-true": "f32", "bf16-true": "bf16"}  # OpenVINO's words
FILE = "backbone.xml"
_CORE_LOCK = threading.Lock()


def wanted(config: RunConfig, device: str) -> bool:
    """Whether a run's frozen backbones are OpenVINO's: on a CPU, where it is installed, unless `train.engine` is torch.

    `auto` leaves random weights to torch: no other run has them, so that each would convert its own. Raises BadInput
    where bfloat16 is asked for, which is OpenVINO's alone, and cannot be had.
    """
    there, half = find_spec("openvino") is not None, not optional(config)
    if half and not (there and device == "cpu"):
        lacks = f"is on {device}; give train.device=cpu" if there else "has none; pip install 'hdmap_mlflow[openvino]'"
        raise BadInput(f"{BFLOAT16} is for OpenVINO on a CPU, and this run {lacks}, or 32-true")
    random = config.model.weights == "random"
    asked = {"auto": half or not random, "openvino": True, "torch": False}[config.train.engine]
    return asked and device == "cpu" and there


def optional(config: RunConfig) -> bool:
    """Whether torch would give the same scores, so that it may go on where OpenVINO fails."""
    return config.train.frozen_precision == "32-true"


def attach(model: nn.Module, config: RunConfig) -> str:
    """Let OpenVINO compute the frozen backbones of a built model; returns what computes them, as it is recorded.

    No random number is drawn. Raises whatever OpenVINO raises of a network that it cannot convert, and RuntimeError
    where its features are not torch's; then torch goes on.
    """
    frozen = [part for part in model.modules() if isinstance(part, TimmFeatureExtractor)]
    frozen = [part for part in frozen if not part.requires_grad and not part._uses_intermediates]
    size, kept = config.data.image_size, config.model.weights != "random"
    precision = config.train.frozen_precision
    engines = [Engine(part, size, _kept(part, size) if kept else _converted(part, size), precision) for part in frozen]
    if not engines and not optional(config):
        raise BadInput(f"{BFLOAT16}: {config.model.name} has no frozen backbone that OpenVINO computes; give 32-true")
    for engine in engines:
        vars(engine.extractor)["forward"] = engine  # the state's names, and so checkpoints, stay what they are
    how = f"openvino {metadata.version('openvino')}" + ("" if optional(config) else ", bfloat16")
    return how if engines else "torch"


class Engine:
    """The forward pass of a frozen extractor: OpenVINO's for float32 images (B, 3, *size) on a CPU, torch's for others.

    So it is while a model is traced, under autocast, `at_rest`, and once its weights are no longer those converted.
    Raises BadInput where bfloat16 is asked for and the processor has none.
    """

    def __init__(
        self,
        extractor: TimmFeatureExtractor,
        size: Sequence[int],
        network: openvino.Model,
        precision: Literal["32-true", "bf16-true"] = "32-true",
    ) -> None:
        network.reshape([-1, 3, *size])
        hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if precision == "bf16-true" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BadInput(f"{BFLOAT16}: this processor does not compute in bfloat16; give 32-true")
        self.compiled = _core().compile_model(network, "CPU", hints)
        self.name = f"openvino-{HINTS[precision]}" if precision != "32-true" else "openvino"
        self.extractor, self.size, self.resting, self.lock = extractor, tuple(size), False, threading.Lock()
        self.digest, self.marks = weights_digest(extractor), self._marks()
        image = torch.arange(3.0 * size[0] * size[1]).sin().reshape(1, 3, *size)
        for layer, features in self._torch(image).items():
            apart = float((self(image)[layer] - features).abs().max() / features.abs().max())
            if not apart <= TOLERANCES[precision]:
                raise RuntimeError(f"its features differ from torch's by {apart:.2g} at {layer}")

    def __call__(self, images: Tensor) -> dict[str | int, Tensor]:
        """Features (B, C, H, W) of every layer, by its name."""
        if not self.takes(images):
            return self._torch(images)
        with self.lock:  # a served model answers several at once
            found = self.compiled(images.detach().contiguous().numpy())
        layers = range(len(self.extractor.layers))
        return {layer: torch.from_numpy(found[i]) for layer, i in zip(self.extractor.layers, layers, strict=True)}

    def takes(self, images: Tensor) -> bool:
        """Whether OpenVINO computes the features of these, here and now."""
        if self.resting or torch.is_autocast_enabled("cpu") or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return False
        plain = images.device.type == "cpu" and images.dtype == torch.float32 and images.shape[2:] == self.size
        return plain and self._unchanged()

    def __deepcopy__(self, memo: dict[int, object]) -> MethodType:
        """A copy's weights may become others: torch computes it."""
        return MethodType(type(self.extractor).forward, memo[id(self.extractor)])

    def _torch(self, images: Tensor) -> dict[str | int, Tensor]:
        return type(self.extractor).forward(self.extractor, images)

    def _unchanged(self) -> bool:
        """A checkpoint that is loaded has the frozen weights once more; what else writes to them ends the engine."""
        if (marks := self._marks()) != self.marks:
            self.marks, self.resting = marks, weights_digest(self.extractor) != self.digest
        return not self.resting

    def _marks(self) -> list[tuple[int, int]]:
        """Of every tensor of its state which one it is, and how often it was written to."""
        self.state = [*self.extractor.parameters(), *self.extractor.buffers()]  # held, so that no other gets its id
        return [(id(part), 0 if part.is_inference() else part._version) for part in self.state]


def engine_of(extractor: nn.Module) -> Engine | None:
    """The engine that was attached to an extractor."""
    engine = vars(extractor).get("forward")
    return engine if isinstance(engine, Engine) else None


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within it torch computes a model's backbones, layer by layer.

    For whoever looks at the layers or changes them; and for training, which makes other results of other last digits.
    """
    engines = [engine for part in model.modules() if (engine := engine_of(part))]
    before = [engine.resting for engine in engines]
    try:
        for engine in engines:
            engine.resting = True
        yield
    finally:
        for engine, was in zip(engines, before, strict=True):
            engine.resting = was


def _core() -> openvino.Core:
    """OpenVINO's, one for the process, which never lets it go.

    A core gives the thread that makes it a stack for signal handlers, which Python's then run on. Of two, the first
    that goes takes its stack along and the second leaves the thread with that: the next Ctrl-C would be a fault.
    """
    with _CORE_LOCK:
        return _one_core()


@functools.cache
def _one_core() -> openvino.Core:
    import openvino

    return openvino.Core()


def _kept(extractor: TimmFeatureExtractor, size: Sequence[int]) -> openvino.Model:
    """The converted backbone from the cache, where it is written first if it is not there."""
    import openvino

    version, layers = metadata.version("openvino"), "+".join(map(str, extractor.layers))
    name = f"{weights_digest(extractor)}-{size[0]}x{size[1]}-{layers}-{version}"

    def write(folder: Path) -> None:
        openvino.save_model(_converted(extractor, size), folder / FILE, compress_to_fp16=False)

    return _core().read_model(kept_folder(cache_dir() / "engines" / name, write) / FILE)


def _converted(extractor: TimmFeatureExtractor, size: Sequence[int]) -> openvino.Model:
    """Straight from the traced module: `openvino.convert_model` traces it twice, and reports to its makers."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.extractor = extractor

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.extractor(images).values())

    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of sizes that a trace takes for constant
        traced = torch.jit.trace(Listed().eval(), torch.zeros(1, 3, *size), check_trace=False, strict=False)
        decoder = TorchScriptPythonDecoder(torch.jit.freeze(traced), skip_freeze=True)
        frontend = FrontEndManager().load_by_framework("pytorch")
        return frontend.convert(frontend.load(decoder))
