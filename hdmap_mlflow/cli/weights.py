"""`hdmap weights`: checkpoints carried by hand to a machine without a model hub."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App

from hdmap_mlflow.cli.app import app
from hdmap_mlflow.cli.options import Folder, Out, Text, says

weights = App(name="weights", help="Checkpoints of backbones carried over by hand: model.weights=local finds them.")
app.command(weights)


@weights.command(name="list")
def list_() -> None:
    """Print what was imported, each with the SHA-256 of its file."""
    from hdmap_mlflow.models.weights import imported

    _show(imported())


@weights.command(name="import")
def import_(
    path: Annotated[Folder, says("A checkpoint (safetensors or a torch state_dict), or a folder that holds some.")],
    /,
    *,
    name: Annotated[Text, says("timm's name of the architecture.", "config.json's, or the file's")] = None,
) -> None:
    """Check a checkpoint against its architecture and put it where model.weights=local finds it."""
    from hdmap_mlflow.models.weights import add

    _show(add(path, name))


@weights.command
def fetch(
    names: Annotated[str, says("Comma list of timm's backbones, such as resnet18,wide_resnet50_2.")], /, *, out: Out
) -> None:
    """Fetch weights on a machine that reaches the hub, into a folder to carry to one that does not."""
    from hdmap_mlflow.models import weights as carried

    folders = carried.fetch([name.strip() for name in names.split(",") if name.strip()], out)
    print(f"{len(folders)} in {out}; carry it over and give `hdmap weights import {out}` there")


def _show(checkpoints: list) -> None:
    from hdmap_mlflow.console import show_table
    from hdmap_mlflow.models.weights import HASH

    rows = [[one.name, one.sha256[:HASH], one.file, f"{one.mb:,.1f}"] for one in checkpoints]
    if rows:
        show_table("imported weights", ("backbone", "SHA-256", "file", "MB"), rows, left=3)
    else:
        print("no weights were imported; give `hdmap weights import FILE`")
