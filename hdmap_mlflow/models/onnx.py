"""A fitted model as an ONNX file that takes maps as they are, and the check that it scores as the model does."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hdmap_mlflow.annotations import Document, Model
from hdmap_mlflow.errors import BadInput, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4  # of the spread (sd) of the sample's scores
MAPS, SCORE = "maps", "score"  # the names of the file's input, float32 (n, H, W), and output, float32 (n,)
BATCH = 32
# Two ways to write a model: by what a pair of maps went through, which is quick, whose blind spots the scores show;
# and by the model's code, which takes a minute and knows other operators.
WAYS: tuple[Document, ...] = (
    {"dynamo": False, "dynamic_axes": {MAPS: {0: "n"}, SCORE: {0: "n"}}, "opset_version": 18},
    {"dynamo": True, "dynamic_shapes": ({0: "n"},), "external_data": False},
)


def export(model: Model, sample: np.ndarray, path: Path) -> float:
    """Write a fitted model as an ONNX file, once onnxruntime gives its scores; returns the largest difference in sd.

    `sample` are maps of native size, float32 (n, H, W), n at least 2, on which both are compared: the file takes maps
    of that size. Raises BadInput, and leaves no file, where the model cannot be exported, where its scores differ by
    more than `TOLERANCE`.
    """
    import torch

    scorer = _scorer(model, *sample.shape[1:]).cpu().eval()
    maps = torch.from_numpy(np.ascontiguousarray(sample, np.float32))
    flaws = []
    for way in WAYS:
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(scorer, (maps[:2],), path, input_names=[MAPS], output_names=[SCORE], **way)
                scores = torch.cat([scorer(part) for part in maps.split(BATCH)]).numpy()
            again = np.concatenate([score(path, part.numpy()) for part in maps.split(BATCH)])
            if not scores.std() > 0:
                raise BadInput("all maps of the sample have one score, which tells nothing")
            difference = float(np.abs(again - scores).max() / scores.std())
            if difference <= TOLERANCE:
                return difference
            flaws.append(f"onnxruntime's scores differ by {difference:.2g} sd, at most {TOLERANCE:g} is allowed")
        except Exception as error:  # whatever the exporters and onnxruntime raise
            flaws.append(one_line(error, 120))
        path.unlink(missing_ok=True)
    raise BadInput("; ".join(dict.fromkeys(flaws)))


def score(path: Path, maps: np.ndarray) -> np.ndarray:
    """Raw scores (n,) of maps (n, H, W) by an ONNX file, on a CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([SCORE], {MAPS: maps})[0]


def check_packages() -> None:
    """Raise BadInput where what writes and runs ONNX files is not installed."""
    from importlib.util import find_spec

    if lost := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise BadInput(f"{' and '.join(lost)} are not installed; pip install 'hdmap_mlflow[onnx]'")


def _scorer(model: Model, height: int, width: int) -> nn.Module:
    """Maps (n, height, width) to raw scores (n,): resized and scaled as in a run, then the model's own forward pass.

    A resize is linear and separable, so two matrices do it: ONNX's own is not torch's.
    """
    import torch
    from torchvision.transforms.v2.functional import resize

    first, *rest = model.pre_processor.transform.transforms
    if getattr(model, "padded", False):
        raise BadInput("its maps are padded; train it with data.resize=stretch to export it")
    (rows, columns), how = first.size, {"interpolation": first.interpolation, "antialias": first.antialias}

    class Scorer(torch.nn.Module):
        down: Tensor
        across: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("down", resize(torch.eye(height)[None], [rows, height], **how)[0])
            self.register_buffer("across", resize(torch.eye(width)[None], [width, columns], **how)[0])
            self.model = model.model

        def forward(self, maps: Tensor) -> Tensor:
            images = (self.down @ maps[:, None] @ self.across).expand(-1, 3, -1, -1)
            for step in rest:
                images = step(images)
            return self.model(images).pred_score.reshape(-1).float()

    return Scorer()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter tells of its steps is nothing that a user can use."""
    level, out = logging.root.manager.disable, os.dup(1)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 1)  # torch's own code writes there
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
    finally:
        os.dup2(out, 1)
        os.close(out)
        logging.disable(level)
