"""The figures of the experiment's page."""
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from PIL import Image

from engine.report.figures import COLOURS, DASHES, MARKERS, draw_sheet
from experiments.sharpness import analysis
from experiments.sharpness.plan import CONVERGENCE, METHODS
from utils.optional import import_optional


def draw_all(folder: Path, name: str, methods: dict):
    """Draw <name>_curves.png, mIoU against eps with bands, and <name>_clean.png: attacked against clean mIoU, and mIoU
    against the steps of race."""
    figures = import_optional("matplotlib.figure", command="make setup")
    curves, clean = figures.Figure((8, 4), layout="constrained"), figures.Figure((8, 3.6), layout="constrained")
    _draw_curves(curves.subplots(1, 2, sharey=True), methods)
    scatter, convergence = clean.subplots(1, 2)
    _draw_scatter(scatter, methods)
    _draw_convergence(convergence, methods)
    for figure, what in ((curves, "curves"), (clean, "clean")):
        figure.savefig(folder / f"{name}_{what}.png", dpi=110)


def draw_sheet_of_methods(path: Path, folder: Path, methods: dict):
    """Draw one image under networks of several methods, clean and under race, from the pictures in their run folders.

    Without a drawing if no image has all pictures.
    """
    grid = {}
    for method in CONVERGENCE:
        records = methods.get(method, {}).get(1, {})
        if attacked := analysis.list_radii([records], "race"):
            shown = attacked[min(1, len(attacked) - 1)]
            pictures = folder / f"{method}-1" / "val_results"
            clean, race = (pictures / records[key].stem for key in (analysis.CLEAN, shown))
            grid[METHODS[method].title] = (clean, race, f"race {255 * shown[2]:g}/255")
    names = [{picture.name.removesuffix("_pred.png") for picture in place.glob("*_pred.png")}
             for clean, race, _ in grid.values() for place in (clean, race)]
    if names and (common := sorted(set.intersection(*names))):
        image = common[0]
        draw_sheet(path, image, {title: {
            "image": clean / f"{image}_image.png", "target": clean / f"{image}_target.png",
            "clean": clean / f"{image}_pred.png", attack: race / f"{image}_pred.png"}
            for title, (clean, race, attack) in grid.items()})
        with Image.open(path) as drawn:
            drawn.convert("RGB").quantize(128).save(path, optimize=True)  # a third of the bytes


def _draw_curves(axes, methods: dict):
    """Draw mIoU against eps, which is on a scale of square roots: small radii tell ordinary networks apart."""
    for axis, attack in zip(axes, ("race", "pgd"), strict=True):
        ticks = set()
        for (method, seeds), style in zip(methods.items(), _list_styles(), strict=False):
            keys = [analysis.CLEAN, *analysis.list_radii(list(seeds.values()), attack)]
            attacked = seeds[next(iter(seeds))][keys[-1]].names
            values = [[analysis.score(records[key], names=attacked) for records in seeds.values()] for key in keys]
            centre, half = [mean(of_eps) for of_eps in values], [stdev(of_eps) if len(of_eps) > 1 else 0
                                                                 for of_eps in values]
            eps = [255 * key[2] for key in keys]
            ticks |= {*eps}
            axis.plot(eps, centre, label=METHODS[method].title, **style)
            axis.fill_between(eps, [c - h for c, h in zip(centre, half, strict=True)],
                              [c + h for c, h in zip(centre, half, strict=True)], color=style["color"], alpha=0.2,
                              linewidth=0)
        axis.set(title=f"{attack}-{keys[-1][3]}", xlabel="eps (linf, n/255)", ylim=(0, None),
                 xlim=(0, 1.05 * max(ticks)))
        axis.set_xscale("function", functions=(np.sqrt, np.square))
        axis.set_xticks(sorted(ticks), [f"{eps:g}" for eps in sorted(ticks)])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mIoU (%): mean, band: standard deviation")
    axes[1].legend(fontsize=8)


def _draw_scatter(axis, methods: dict):
    keys = analysis.list_radii([records for seeds in methods.values() for records in seeds.values()], "race")
    shown = keys[min(1, len(keys) - 1)]
    for (method, seeds), style in zip(methods.items(), _list_styles(), strict=False):
        points = [analysis.pair(records, shown) for records in seeds.values()]
        axis.plot(*zip(*points, strict=True), label=METHODS[method].title, **style | {"linestyle": "none"})
    axis.set(xlabel="clean mIoU (%)", ylabel=f"mIoU (%) under race at {255 * shown[2]:g}/255")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _draw_convergence(axis, methods: dict):
    styles = dict(zip(methods, _list_styles(), strict=False))
    for method, eps, curve in analysis.list_convergence(methods):
        axis.plot(*zip(*curve, strict=True), label=f"{METHODS[method].title}, {255 * eps:g}/255", **styles[method])
    axis.set(xlabel="steps of race", ylabel="mIoU (%)", ylim=(0, None))
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7)


def _list_styles() -> list[dict]:
    """Return a look for each method, by place."""
    return [{"color": colour, "marker": marker, "linestyle": dash, "markersize": 4}
            for dash in DASHES for colour, marker in zip(COLOURS, MARKERS, strict=True)]
