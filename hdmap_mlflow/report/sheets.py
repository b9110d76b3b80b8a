"""Pictures of records, and of the maps built from them: averages, differences, maps and their halves."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hdmap_mlflow.data.built import BUILT
from hdmap_mlflow.data.folder import find_domains, look
from hdmap_mlflow.data.formats import is_map, read_map
from hdmap_mlflow.data.simulate import MARKER
from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.figures import ACCENT, FAULT, GOOD, MUTED
from hdmap_mlflow.files import reading, why, write_whole

if TYPE_CHECKING:
    from hdmap_mlflow.signals.plan import Recording
    from hdmap_mlflow.signals.spec import Spec

WIDTH, DPI = 11.0, 100
PAGE = "pictures.html"  # of a build
SPECS = (".yaml", ".yml")
LOOKED_AT = 2**20  # samples of a record; the rest looks the same
TEETH = {"planetary": ("planet tooth", "ring tooth"), "pair": ("pinion tooth", "wheel tooth")}


def show(place: Path, out: Path) -> Path:
    """Draw a data root, a map, the spec of records, the folder with its SPEC.yaml, or one of its records, into `out`.

    A data root is one sheet for the first recording of each role of each domain; `out` is .png or .html. Returns `out`.
    Raises BadInput: nothing to draw there, or it cannot be read; `out` of another suffix, or not to be written.
    """
    if out.suffix.lower() not in WRITERS:
        raise BadInput(f"{out} is neither .png nor .html; give --out a name that ends so")
    if not place.exists():
        raise BadInput(f"{place} does not exist; name a data root, a map, or a spec of records")
    if not out.absolute().parent.is_dir():
        raise BadInput(f"cannot write {out}: {out.absolute().parent} is no folder; make it, or give --out another name")
    content = WRITERS[out.suffix.lower()](place, list(_figures(place)))
    try:
        write_whole(out, content)
    except OSError as error:
        raise BadInput(f"cannot write {out} ({why(error)}); name a file in a folder you can write to") from error
    return out


def _figures(place: Path) -> Iterator[Figure]:
    spec = _spec_of(place)
    if spec:
        yield from _records(spec, None if place in (spec, spec.parent) else place)
    elif place.is_file() and is_map(place):
        yield _of_map(place)
    else:
        domains = find_domains(place) if place.is_dir() else []
        first = {(domain, role): path for domain in reversed(domains) for path, role in _backwards(place / domain)}
        if not first:
            raise BadInput(f"{place} holds neither maps nor a spec; name a data root, a map, or a spec of records")
        yield from map(_of_map, reversed(first.values()))


def _backwards(domain: Path) -> list[tuple[Path, str]]:
    return list(reversed(look(domain).maps.items()))


def _spec_of(place: Path) -> Path | None:
    """The spec by which records are read: the file itself, or the SPEC.yaml of their folder or of one above."""
    if place.is_file() and place.suffix.lower() in SPECS:
        return place
    folders = [place] if place.is_dir() else [] if is_map(place) and _root_of(place) else list(place.parents)
    return next((spec for folder in folders if (spec := folder / "SPEC.yaml").is_file()), None)


def _root_of(file: Path) -> Path | None:
    """The data root that a map lies in: <root>/<domain>/<role>/<role>/<map>."""
    above = file.absolute().parents
    in_role = len(above) > 3 and "/".join(above[1 - i].name for i in (0, 1)) in (
        "train/good",
        "test/good",
        "test/fault",
    )
    return above[3] if in_role else None


# ------------------------------------------------------------------------------------------------ records
def _records(spec_path: Path, only: Path | None) -> Iterator[Figure]:
    """One figure for the first recording of each record of a spec, or for one of its files."""
    import tempfile

    from hdmap_mlflow.config.spec import load_spec
    from hdmap_mlflow.signals.plan import plan
    from hdmap_mlflow.signals.spec import EXAMPLE, Spec

    spec, source = load_spec(spec_path, Spec, EXAMPLE), spec_path.parent
    recordings = plan(spec, source)
    if only is not None:
        chosen = [one for one in recordings if one.path.samefile(only)]
    else:
        chosen = list({id(one.record): one for one in reversed(recordings)}.values())[::-1]
    if not chosen:
        raise BadInput(f"{only} is no record of {spec_path}; name one of them, or a data root")
    with tempfile.TemporaryDirectory() as scratch:
        for one in chosen:
            yield _of_record(one, spec, Path(scratch), _simulated(source))


def _of_record(one: Recording, spec: Spec, scratch: Path, simulated: bool) -> Figure:
    """Two turns of each signal, the speed, and the spectrum over orders of the mean mesh frequency."""
    from scipy.signal import welch

    from hdmap_mlflow.signals.angle import Measured, count
    from hdmap_mlflow.signals.record import open_record
    from hdmap_mlflow.signals.spec import Even

    with open_record(one.path, one.channels, one.record.rate, scratch) as opened:
        rate = opened.rate or (one.record.phase.per_turn if isinstance(one.record.phase, Even) else None)
        if rate is None:
            raise BadInput(f"{one.path} does not say its sampling rate; give the record's `rate` in Hz")
        first = round(one.record.seconds[0] * rate) if one.record.seconds else 0
        end = min(opened.length, first + LOOKED_AT)
        measured = Measured(opened.of(one.phase_channels), first, end, rate, lambda share: None)
        meshes = count(measured, one.record.phase, spec.gears, spec.planet)
        signals = opened.read(first, end)[:, : len(one.record.signals)]
    figure, (waves, speed, lines) = _sheet(f"{one.name} ({one.record.role})", 7.5, 3, simulated)
    per_second = meshes.frequencies(spec.gears.per_turn / 4, rate)
    mean, names = float(per_second.mean()), list(one.record.signals)
    shown = signals[: round(2 * spec.gears.per_turn / mean * rate)]
    spread = 1.2 * float(np.ptp(shown)) or 1.0
    for i in range(len(names)):
        waves.plot(np.arange(len(shown)) / rate, shown[:, i] - i * spread, lw=0.5, color=ACCENT)
    waves.set_yticks([-i * spread for i in range(len(names))], names)
    _name(waves, "two turns of the reference shaft", "s")
    turned = np.cumsum(spec.gears.per_turn / 4 / per_second)
    speed.plot(turned, 60 * per_second / spec.gears.per_turn, lw=1, color=GOOD)
    _name(speed, "speed of the reference shaft, by the phase reference", "s", "turns/min")
    for i, name in enumerate(names):
        frequency, power = welch(signals[:, i], rate, nperseg=min(2**14, len(signals)))
        lines.semilogy(frequency / mean, np.sqrt(power), lw=0.7, label=name)
    _mark(lines, min(spec.kept_orders, rate / 2 / mean))
    lines.legend(fontsize=8, loc="upper right")
    _name(lines, f"spectrum over the mean mesh frequency, {mean:.4g} Hz: speed ripple smears it", "order of the mesh")
    return figure


# --------------------------------------------------------------------------------------------------- maps
def _of_map(path: Path) -> Figure:
    """A map with its teeth; of the first map of a recording that was built here, all that it was made of."""
    root = _root_of(path)
    role = "/".join(path.absolute().parts[-3:-1])
    domain = path.absolute().parts[-4] if root else ""
    simulated = root is not None and _simulated(root)
    pixels, about = read_map(path), _built(root)
    names = TEETH[about["gears"]["kind"]] if about else ("row", "column")
    title = f"{domain}: {role}/{path.name}" if root else path.name
    kept = root / ".signals" / domain / f"{path.stem.partition('-')[0]}.npz" if root else None
    if not (about and kept and kept.is_file() and path.stem.endswith("-0000")):
        figure, (axis,) = _sheet(title, 3.6, 1, simulated)
        _draw(figure, axis, pixels, "map", names)
        return figure
    with reading(kept), np.load(kept) as arrays:
        average, rest, halves = arrays["average"], arrays["difference"], arrays["halves"]
    figure, (lines, waves, left, map_, *split) = _sheet(
        title, 12.5 if len(halves) else 9.5, 6 if len(halves) else 4, simulated
    )
    period, samples = average.shape
    turns = period // pixels.shape[1]
    for values, colour, name in ((average, MUTED, "average"), (rest, FAULT, "difference")):
        amplitude = 2 * np.abs(np.fft.rfft(values.ravel()))[1 : values.size // 2] / values.size
        bands = amplitude[: len(amplitude) // turns * turns].reshape(-1, turns).max(axis=1)  # one for each carrier line
        lines.semilogy(np.arange(1, len(bands) + 1) / pixels.shape[1], bands, lw=0.7, color=colour, label=name)
    lines.set_ylim(bottom=0.1 * float(np.median(bands)))
    _mark(lines, about["orders"] or about["samples"] / 4)
    lines.legend(fontsize=8, loc="upper right")
    _name(lines, f"spectrum of the average of {about['averages']} periods; mesh harmonics dashed", "order of the mesh")
    turn = 2 * pixels.shape[1]
    at = np.arange(turn * samples) / samples
    for axis, values, colour, name in ((waves, average, ACCENT, "average"), (left, rest, FAULT, "difference")):
        axis.plot(at, values[:turn].ravel(), lw=0.5, color=colour)
        _name(axis, f"{name}: the first two turns of {turns} in a period", "mesh")
    _draw(figure, map_, pixels, f"HDMAP-style map: {about['pixel']} of the difference in each mesh", names)
    for axis, half, name in zip(split, halves, ("even", "odd"), strict=False):
        _draw(figure, axis, half, f"of the {name} periods alone: what both show is no noise", names)
    return figure


def _built(root: Path | None) -> dict | None:
    if root is None or not (file := root / BUILT).is_file():
        return None
    with reading(file, " as what build-maps wrote"):
        return json.loads(file.read_bytes())["spec"]


def _simulated(root: Path) -> bool:
    return (root / MARKER).is_file()


# -------------------------------------------------------------------------------------------------- paper
def _sheet(title: str, height: float, panels: int, simulated: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure((WIDTH, height), dpi=DPI)  # a layout engine would draw every text twice
    figure.subplots_adjust(0.07, 0.5 / height, 0.98, 1 - 0.65 / height, hspace=0.65)
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, y=1 - 0.1 / height, ha="left", va="top")
    if simulated:
        figure.text(0.995, 1 - 0.08 / height, "SIMULATED", ha="right", va="top", fontsize=9, color=FAULT)
    return figure, list(figure.subplots(panels, 1, squeeze=False)[:, 0])


def _name(axis: Axes, title: str, x: str, y: str = "") -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.margins(x=0)
    axis.spines[["top", "right"]].set_visible(False)


def _mark(axis: Axes, orders: float) -> None:
    """The mesh harmonics, up to the highest that is kept."""
    axis.set_xlim(0, orders)
    for order in range(1, int(orders) + 1):
        axis.axvline(order, color=GOOD, lw=0.8, ls="--", alpha=0.6, zorder=0)


def _draw(figure: Figure, axis: Axes, pixels: NDArray, title: str, names: tuple[str, str]) -> None:
    image = axis.imshow(
        pixels, aspect="auto", interpolation="nearest", cmap="gray", vmax=float(np.quantile(pixels, 0.995))
    )
    _name(axis, title, names[1], names[0])
    figure.colorbar(image, ax=axis, pad=0.01, fraction=0.05, extend="max").ax.tick_params(labelsize=8)


def _png(place: Path, figures: list[Figure]) -> bytes:
    from PIL.Image import fromarray

    canvases = [FigureCanvasAgg(figure) for figure in figures]
    for canvas in canvases:
        canvas.draw()
    pictures = [np.asarray(canvas.buffer_rgba())[..., :3] for canvas in canvases]
    file = io.BytesIO()
    fromarray(np.concatenate(pictures)).save(file, format="PNG")
    return file.getvalue()


def _html(place: Path, figures: list[Figure]) -> str:
    """One page that holds its pictures."""
    images = "\n".join(
        f'<img alt="{escape(figure.get_suptitle())}" src="data:image/png;base64,'
        f'{base64.b64encode(_png(place, [figure])).decode()}">'
        for figure in figures
    )
    name = escape(place.absolute().name)
    style = "body{font:16px system-ui,sans-serif;max-width:1100px;margin:2em auto}img{width:100%;margin-bottom:2em}"
    head = f'<meta charset="utf-8"><title>{name}</title><style>{style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{name}</h1>\n{images}\n</body></html>\n'


WRITERS: dict[str, Callable[[Path, list[Figure]], str | bytes]] = {".png": _png, ".html": _html}
