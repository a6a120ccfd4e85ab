"""Pictures for reports; matplotlib is imported here alone, and only when a picture is drawn."""
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from utils.optional import import_optional
from utils.text import escape_unprintable

XLABELS = {"linf": "eps (linf, n/255)", "severity": "severity"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito's
MARKERS, DASHES = "osD^vPX", ("-", "--", ":")


@dataclass
class Panel:
    """Curves of one attack: {run: [(eps, mIoU or another value in %, its lower bound)]}; linf eps in grey levels."""

    title: str
    norm: str
    curves: dict[str, list[tuple[float, float, float]]]
    stepped: bool = False  # between two points a curve has the value of the first


def draw_curves(path: Path, panels: list[Panel], *, ylabel: str = "mIoU (%)"):
    """Draw panels with shared axes, a curve per run in each, the range from the lower bound to the value shaded."""
    wide = min(4, len(panels))
    high = -(-len(panels) // wide)
    figure = _make_figure(3.0 * wide + 0.6, 2.5 * high + 0.5)
    axes = figure.subplots(high, wide, squeeze=False, sharey=True).flatten()
    runs = list(dict.fromkeys(run for panel in panels for run in panel.curves))
    shown = {}  # run -> its line, for the legend
    for axis, panel in zip(axes, panels, strict=False):
        for run, points in panel.curves.items():
            shown[run] = _draw_curve(axis, points, style=runs.index(run), stepped=panel.stepped)
        furthest = max(point[0] for other in panels if other.norm == panel.norm for points in other.curves.values()
                       for point in points) or 1
        axis.set(xlim=(-0.03 * furthest, 1.05 * furthest), ylim=(0, 100))
        _set_title(axis, panel.title)
        axis.set_xlabel(XLABELS.get(panel.norm, f"eps ({panel.norm})"), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[::wide]:
        axis.set_ylabel(ylabel, fontsize=8)
    for axis in axes[len(panels):]:
        axis.set_axis_off()
    names = [escape_unprintable(run, keep="") for run in shown]
    legend = figure.legend(shown.values(), names, loc="outside lower center", ncols=wide, fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path)


def draw_sheet(path: Path, title: str, grid: dict[str, dict[str, Path]]):
    """Draw {image: {column: path of its picture}}, a row per image."""
    columns = list(next(iter(grid.values())))
    width, height = _read(next(iter(grid.values()))[columns[0]]).size
    figure = _make_figure(2.4 * len(columns) + 0.3, (2.4 * height / width + 0.1) * len(grid) + 0.5)
    axes = figure.subplots(len(grid), len(columns), squeeze=False)
    for line, (name, pictures) in zip(axes, grid.items(), strict=True):
        for axis, picture in zip(line, pictures.values(), strict=True):
            axis.imshow(_read(picture), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(escape_unprintable(name, keep=""), fontsize=7, parse_math=False)
    for axis, column in zip(axes[0], columns, strict=True):
        _set_title(axis, column)
    figure.suptitle(escape_unprintable(title, keep=""), fontsize=10, parse_math=False)
    _save(figure, path)


def _set_title(axis, text: str):
    axis.set_title(escape_unprintable(text, keep=""), fontsize=9, parse_math=False)  # a name may contain $


def _draw_curve(axis, points, *, style: int, stepped: bool):
    """Draw one run's curve; return its line."""
    eps, miou, lower = zip(*points, strict=True)
    colour = COLOURS[style % len(COLOURS)]
    (line,) = axis.plot(eps, miou, color=colour, marker=MARKERS[style % len(MARKERS)], markersize=4, linewidth=1.5,
                        linestyle=DASHES[style // len(COLOURS) % len(DASHES)],
                        drawstyle="steps-post" if stepped else "default", clip_on=False, zorder=3)
    if lower != miou:
        axis.fill_between(eps, lower, miou, color=colour, alpha=0.25, linewidth=0)
    return line


def _make_figure(width: float, height: float):
    """Return an empty figure; width and height in inches."""
    figure = import_optional("matplotlib.figure", command="make setup")
    return figure.Figure(figsize=(width, height), layout="constrained")


def _save(figure, path: Path):
    agg = import_optional("matplotlib.backends.backend_agg", command="make setup")
    agg.FigureCanvasAgg(figure).print_png(path)


def _read(path: Path):
    with Image.open(path) as image:
        return image.convert("RGB")
