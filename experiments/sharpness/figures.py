"""The figures of the experiment's page."""
from pathlib import Path
from statistics import mean, stdev

from engine.report.figures import COLOURS, MARKERS, draw_sheet
from experiments.sharpness import analysis
from experiments.sharpness.plan import CONVERGENCE, METHODS
from utils.optional import import_optional


def draw_all(folder: Path, name: str, methods: dict):
    """Draw <name>_curves.png, mIoU against eps with bands, and <name>_scatter.png, attacked against clean mIoU."""
    figures = import_optional("matplotlib.figure", command="make setup")
    curves, scatter = figures.Figure((7, 4), layout="constrained"), figures.Figure((5.5, 4), layout="constrained")
    _draw_curves(curves.subplots(1, 2, sharey=True), methods)
    _draw_scatter(scatter.subplots(), methods)
    for figure, what in ((curves, "curves"), (scatter, "scatter")):
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


def _draw_curves(axes, methods: dict):
    for axis, attack in zip(axes, ("race", "pgd"), strict=True):
        for place, (method, seeds) in enumerate(methods.items()):
            keys = [analysis.CLEAN, *analysis.list_radii(list(seeds.values()), attack)]
            values = [[analysis.score(records[key]) for records in seeds.values()] for key in keys]
            centre = [mean(of_eps) for of_eps in values]
            half = [stdev(of_eps) if len(of_eps) > 1 else 0 for of_eps in values]
            eps, colour = [255 * key[2] for key in keys], COLOURS[place % len(COLOURS)]
            axis.plot(eps, centre, color=colour, marker=MARKERS[place % len(MARKERS)], markersize=4, label=method,
                      linestyle="--" if place >= len(COLOURS) else "-")
            axis.fill_between(eps, [c - h for c, h in zip(centre, half, strict=True)],
                              [c + h for c, h in zip(centre, half, strict=True)], color=colour, alpha=0.2, linewidth=0)
        axis.set(title=attack, xlabel="eps (linf, n/255)", ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mIoU (%): mean, band: standard deviation")
    axes[1].legend(fontsize=8)


def _draw_scatter(axis, methods: dict):
    keys = analysis.list_radii([records for seeds in methods.values() for records in seeds.values()], "race")
    shown = keys[min(1, len(keys) - 1)]
    for place, (method, seeds) in enumerate(methods.items()):
        points = [analysis.pair(records, shown) for records in seeds.values()]
        axis.scatter(*zip(*points, strict=True), color=COLOURS[place % len(COLOURS)],
                     marker=MARKERS[place % len(MARKERS)], label=method)
    axis.set(xlabel="clean mIoU (%)", ylabel=f"mIoU (%) under race at {255 * shown[2]:g}/255")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
