"""Checkpoints of backbones carried over by hand: read without unpickling, checked against timm, kept in the cache.

Each has a folder of its own in timm's form, `config.json` beside `model.safetensors`, below `weights/local` of the
cache; `model.weights=local` finds it there by the name of its architecture.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hdmap_mlflow.errors import BadInput, nearest, one_line
from hdmap_mlflow.files import cache_dir, expanded, new_folder

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # the first of them in a folder of timm's form is taken
SCALES = ("mean", "std")
HASH = 16  # hex digits of the SHA-256 that are shown and recorded


@dataclass(frozen=True)
class Checkpoint:
    """One imported checkpoint. `sha256` is of the file that was carried over, `mb` the size of what is kept."""

    name: str
    sha256: str
    file: str
    mb: float
    folder: Path


def imported() -> list[Checkpoint]:
    """Every checkpoint that `model.weights=local` finds, by name."""
    found = []
    for folder in sorted(path for path in _store().glob("[!.]*") if (path / "config.json").is_file()):
        config = read_config(folder)
        mb = (folder / "model.safetensors").stat().st_size / 1e6
        found.append(Checkpoint(folder.name, str(config.get("sha256")), str(config.get("file")), mb, folder))
    return found


def local(weights: str, backbone: str) -> Checkpoint:
    """The imported checkpoint of a backbone; `local:HASH` asks for a certain one, as a run records it.

    Raises BadInput where it was not imported, or another one was.
    """
    there = {one.name: one for one in imported()}
    if backbone not in there:
        have = f"imported are {', '.join(there)}" if there else "nothing was imported yet"
        raise BadInput(
            f"model.weights=local: there are no weights of '{backbone}', {have}; "
            f"give `hdmap weights import FILE --name {backbone}`"
        )
    expected = weights.removeprefix("local").removeprefix(":")
    if not there[backbone].sha256.startswith(expected):
        raise BadInput(
            f"model.weights={weights}: the imported weights of '{backbone}' are {there[backbone].sha256[:HASH]}; "
            f"remove {there[backbone].folder} and import the others"
        )
    return there[backbone]


def add(path: Path, name: str | None = None) -> list[Checkpoint]:
    """Import a checkpoint, or all of a folder; returns what was imported, or had been before from the same file.

    A file is safetensors or a torch `state_dict` in timm's or torchvision's naming; a folder holds such files, or
    folders in timm's form. `name` is timm's name of the architecture (a tag may follow, `resnet18.tv_in1k`); without
    it that of config.json, or what the file's name begins with. All are imported or none. Raises BadInput for a file
    that is cut short, holds anything but tensors, or does not fit the architecture.
    """
    files = _files(expanded(path))
    if name and len(files) > 1:
        raise BadInput(f"--name {name} names one checkpoint, {path} holds {len(files)}; give a file")
    store = _store()
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".part") as part:
        names = [_convert(file, name, Path(part), store) for file in files]
        for one in names:
            if not (store / one).exists():
                shutil.move(Path(part) / one, store / one)
    return [one for one in imported() if one.name in names]


def fetch(names: Sequence[str], out: Path) -> list[Path]:
    """Write timm's pretrained weights of some architectures into a new folder to carry, one folder each.

    Raises BadInput for a name that timm has no weights of, and where the hub cannot be reached.
    """
    import timm
    from timm.models._hub import save_for_hf

    if not names:
        raise BadInput("no backbone to fetch; give names of timm's, such as resnet18,wide_resnet50_2")
    for name in names:
        config = _timm_config(name)
        if not (config.get("hf_hub_id") or config.get("url")):
            raise BadInput(f"nobody publishes weights of '{name}' with timm; give another tag of it, or leave it out")
    out = expanded(out)
    with new_folder(out) as part:
        for name in names:
            try:
                model = timm.create_model(name, pretrained=True)
            except (OSError, RuntimeError, ValueError) as error:
                raise BadInput(
                    f"the weights of '{name}' cannot be fetched ({one_line(error)}); give the command on a machine "
                    "that reaches the hub"
                ) from None
            save_for_hf(model, str(part / name), safe_serialization=True)
    return [out / name for name in names]


def read_config(folder: Path) -> dict[str, object]:
    """`config.json` of a folder in timm's form. Raises BadInput where it is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{folder / 'config.json'} cannot be read ({one_line(error)}); copy the folder again") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise BadInput(f"{folder / 'config.json'} names no architecture of timm's; import its file with --name")
    return config


def scales(config: Mapping[str, object], where: Path) -> dict[str, tuple[float, ...]]:
    """Mean and sd of the inputs that a folder's `pretrained_cfg` names. Raises BadInput for no three numbers."""
    form = config.get("pretrained_cfg") or {}
    scales: dict[str, tuple[float, ...]] = {}
    for key in SCALES:
        value = form.get(key, ()) if isinstance(form, dict) else form
        if value and not (isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)):
            raise BadInput(f"{where / 'config.json'}: pretrained_cfg.{key} is no list of three numbers; mend it")
        scales |= {key: tuple(map(float, cast("list[float]", value)))} if value else {}
    return scales


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; nothing is unpickled but tensors. Raises BadInput for anything else."""
    import torch
    from safetensors import SafetensorError
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(file), weights_only=True)
        tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except (RuntimeError, pickle.UnpicklingError) as error:
        if "weights_only" in str(error):
            raise BadInput(
                f"{file} holds more than tensors, and what is pickled may run code: it is not loaded; "
                "save its state_dict as safetensors where it comes from"
            ) from None
        raise _unreadable(file, error) from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, KeyError, SafetensorError) as error:
        raise _unreadable(file, error) from None
    if not tensors:
        raise BadInput(f"{file} holds no tensors by name; give a file that holds a model's state_dict")
    return tensors


def weights_file(folder: Path) -> Path:
    """The checkpoint that timm takes of a folder in its form. Raises BadInput where there is none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    return _checkpoints(folder)[0] if _checkpoints(folder) else _without(folder)


def _store() -> Path:
    return cache_dir() / "weights" / "local"


def _unreadable(file: Path, error: Exception) -> BadInput:
    return BadInput(f"{file} is no checkpoint, or was cut short ({one_line(error, 80)}); copy it again")


def _without(folder: Path) -> Path:
    raise BadInput(f"{folder} holds no weights; give a file, or a folder with one of {', '.join(SUFFIXES)}")


def _checkpoints(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name[0] != "." and path.is_file()]
    return sorted(files, key=lambda path: (SUFFIXES.index(path.suffix), path.name))


def _files(path: Path) -> list[Path]:
    """The checkpoints of a path: a folder in timm's form counts as one."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(f"{path} is not there; give a checkpoint, or a folder that holds some")
    files: list[Path] = []
    for folder in (path, *sorted(one for one in path.iterdir() if one.is_dir())):
        files += [weights_file(folder)] if (folder / "config.json").is_file() else _checkpoints(folder)
    return files or [_without(path)]


def _timm_config(name: str) -> dict[str, object]:
    """What timm knows of an architecture's weights. Raises BadInput for a name or a tag that it does not know."""
    import timm

    if not timm.is_model(name):
        raise BadInput(
            f"timm knows no backbone '{name}'{nearest(name, timm.list_models())}; "
            "name one with --name, such as resnet18"
        )
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise BadInput(f"timm knows no tag of '{name}'; give the name alone, or {', '.join(tags[:6])}") from None
    return config.to_dict() if config else {}


def _convert(file: Path, name: str | None, part: Path, store: Path) -> str:
    """Write a checkpoint in timm's form below `part`, unless the same file was imported before; returns its name."""
    from safetensors.torch import save_file

    config = read_config(file.parent) if not name and (file.parent / "config.json").is_file() else {}
    name = name or str(config.get("architecture") or re.split(r"[-.]", file.name)[0])
    known, digest = _timm_config(name), hashlib.sha256(file.read_bytes()).hexdigest()
    short = re.search(r"-([0-9a-f]{8})\.", file.name)  # as torchvision and timm name their files
    if short and not digest.startswith(short[1]):
        raise BadInput(f"{file} was cut short or changed: its SHA-256 begins with {digest[:8]}; copy it again")
    if (part / name).exists():
        raise BadInput(f"{file.parent} holds two checkpoints of {name}; import them one by one, each with --name")
    if (store / name).exists():
        if read_config(store / name).get("sha256") == digest:
            return name
        raise BadInput(
            f"other weights of {name} were imported before; remove {store / name}, or give --name with a tag of timm's"
        )
    state, classes = _fitted(read(file), name, file)
    form = {"input_size": known.get("input_size"), **{key: known.get(key) for key in SCALES}}
    form |= {**scales(config, file.parent), "num_classes": classes}
    (part / name).mkdir()
    save_file(state, part / name / "model.safetensors")
    content = {"architecture": name.partition(".")[0], "num_classes": classes, "pretrained_cfg": form}
    told = json.dumps(content | {"sha256": digest, "file": file.name}, indent=2)
    (part / name / "config.json").write_text(told, encoding="utf-8")
    return name


def _fitted(state: dict[str, Tensor], name: str, file: Path) -> tuple[dict[str, Tensor], int]:
    """A state under timm's names, and its number of classes (0 without a head); BadInput where it does not fit.

    What timm's own converter leaves under foreign names is paired in order, as torchvision registers the same layers
    in the same order; safetensors keep none.
    """
    import timm
    import torch

    problem = ""
    last = list(state.values())[-1]
    heads = {len(state[key]) for key in state if re.fullmatch(r"(head\.fc|head|fc|classifier)\.bias", key)}
    for classes in dict.fromkeys([*heads, *([len(last)] if last.ndim == 1 else []), 0]):
        with torch.device("meta"):
            model = timm.create_model(name.partition(".")[0], num_classes=classes)
        named = _timm_names(state, model)
        expected = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
        given = {key: value for key, value in named.items() if not key.endswith("num_batches_tracked")}
        if given.keys() != expected.keys() and file.suffix != ".safetensors" and _alike(given, expected):
            given = dict(zip(expected, given.values(), strict=True))
        if not (found := _difference(given, expected)):
            return {key: _plain(value, key, file) for key, value in given.items()}, classes
        problem = problem or found
    raise BadInput(f"{file} is not of {name}: {problem}; name the right one with --name, or take timm's file")


def _timm_names(state: dict[str, Tensor], model: object) -> dict[str, Tensor]:
    """The state as timm's converter of this family names it, where there is one and it knows the naming."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        return cast("dict[str, Tensor]", convert(dict(state), model)) if convert else state
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError):
        return state


def _alike(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    def shape(state: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(key.rpartition(".")[2], tuple(value.shape)) for key, value in state.items()]

    return shape(given) == shape(expected)


def _difference(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    for key, value in expected.items():
        if key not in given:
            return f"it has no {key}"
        if given[key].shape != value.shape:
            return f"its {key} is {'x'.join(map(str, given[key].shape))}, not {'x'.join(map(str, value.shape))}"
    more = [key for key in given if key not in expected]
    return f"it has {more[0]} besides" if more else ""


def _plain(value: Tensor, key: str, file: Path) -> Tensor:
    if not value.is_floating_point():
        return value.contiguous()
    if not value.isfinite().all():
        raise BadInput(f"{file}: {key} holds NaN or infinite values; copy it again or take other weights")
    return value.float().contiguous().clone()  # safetensors refuse tensors that share memory
