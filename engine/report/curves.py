"""The content of a comparison's pictures: curves of mIoU over eps, and images under the strongest attack."""
from pathlib import Path
from typing import NamedTuple

from engine.records.corruptions import is_corruption
from engine.records.naming import format_radius, name_attack
from engine.records.rows import WORST
from engine.report.figures import Panel
from engine.report.tables import CURVE, align_rows, group_lines, name_worst_case
from utils.images import choose_evenly
from utils.logging import logger
from utils.text import count_of

MAX_PANELS, MAX_IMAGES, MAX_POINTS = 12, 4, 50
CLEAN_PICTURES = {"image": "image", "target": "target", "clean prediction": "pred"}
ATTACK_PICTURES = {"adversarial image": "image", "perturbation": "perturbation", "attacked prediction": "pred"}


class Sheet(NamedTuple):
    """Pictures of some images of a run: the name of their file, and {image: {column: path of the picture}}."""

    file: str
    title: str
    grid: dict[str, dict[str, Path]]
    run: str
    ball: str  # norm and eps, or the severity of a corruption
    drawn: dict[str, dict[str, Path]] | None = None  # what the file shows instead of grid: all corruptions


def make_panels(rows: list[dict], *, limit: int | None = MAX_PANELS) -> list[Panel]:
    """Return a panel per attack, loss, norm and steps, with a curve per run that starts at clean.

    At most `limit` (None: all), those with the most points (of equals, unions first). eps in grey levels n/255 for
    linf; mIoU and its lower bound in percent.
    """
    clean = {row["run"]: row for row in rows if row["attack"] == "none"}
    attacked = [line for line in align_rows(rows) if line["norm"] != "-"]
    found = [_make_panel(lines, clean) for lines in group_lines(attacked, *CURVE)]
    if not found:
        return [Panel("clean", "linf", {run: [_make_point(row, "linf")] for run, row in clean.items()})]
    if limit is None or len(found) <= limit:
        return found
    logger.info("curves.png shows the %d attacks with the most points, of %d", limit, len(found))
    by_points = sorted(range(len(found)), key=lambda k: (sum(map(len, found[k].curves.values())), k))
    return [found[k] for k in sorted(by_points[-limit:])]


def _make_panel(lines: list[dict], clean: dict[str, dict]) -> Panel:
    norm, curves = lines[0]["norm"], {}
    for run, start in clean.items():
        points = [line["rows"][run] for line in lines if run in line["rows"]]
        if points:
            curves[run] = sorted(_make_point(row, norm) for row in [start, *points])
    steps = {"-": "", "0": "", "1": "1 step"}.get(lines[0]["steps"], f"{lines[0]['steps']} steps")
    words = [_name_attack(lines), lines[0]["loss"].strip("-"), steps]
    return Panel(", ".join(filter(None, words)), norm, curves)


def _name_attack(lines: list[dict]) -> str:
    """Return the attack; a worst case also names its number of records."""
    name = lines[0]["curve"]
    rows = [row for line in lines for row in line["rows"].values()]
    return name_worst_case(name, rows) if name.startswith(WORST) else name


def _make_point(row: dict, norm: str) -> tuple[float, float, float]:
    """Return (eps, mIoU, lower bound); the bound equals mIoU except for unions."""
    lower = row["Mean IoU"] if row["Mean IoU lower"] is None else row["Mean IoU lower"]
    return row["eps"] * (255 if norm == "linf" else 1), 100 * row["Mean IoU"], 100 * lower


def make_radius_panels(radii: list[dict]) -> list[Panel]:
    """Return a panel for each setting of min_radius: the percentage of images with a radius of at most eps, per run."""
    panels = {}
    for each in radii:
        settings, norm = each["settings"], each["settings"]["norm"]
        wrong = f"{100 * settings['min_radius_share']:.4g} % wrong"
        title = f"{name_attack(settings)}, {wrong}, {settings['steps']} steps"
        panel = panels.setdefault((title, norm), Panel(title, norm, {}, stepped=True))
        found = sorted(radius for radius in each["radii"].values() if radius is not None)
        points = [(radius * (255 if norm == "linf" else 1), 100 * (place + 1) / each["images"])
                  for place, radius in enumerate(found)]
        shown = [points[place] for place in choose_evenly(len(points), MAX_POINTS)] if points else []
        panel.curves[each["run"]] = [(eps, share, share) for eps, share in [(0.0, 0.0), *shown]]
    return list(panels.values())


def make_sheets(run: str, folder: Path, rows: list[dict], *, names: list[str]):
    """Yield a Sheet for every norm and eps, and every severity of corruptions, that has pictures.

    rows: the run's. The attack is that with the lowest mIoU of those with pictures in `folder`, which holds a folder
    per record; the images are up to MAX_IMAGES of `names`, evenly spaced. The file of a severity shows all corruptions.
    """
    (clean,) = [row for row in rows if row["attack"] == "none"]
    attacked = [row for row in rows if row["settings"] and row is not clean]
    for ball in group_lines(attacked, "norm", "eps"):
        for row in sorted(ball, key=lambda row: row["Mean IoU"]):
            grid = _find_grid(folder / clean["records"][0], folder / row["records"][0], names)
            if grid:
                eps = format_radius(row)
                title = (f"{_describe(row, eps)}: mIoU over {count_of(row['images'], 'image')} "
                         f"{100 * row['Mean IoU']:.2f} %, clean {100 * clean['Mean IoU']:.2f} %")
                corrupted = is_corruption(row)
                yield Sheet(f"sheet_{run}_{row['norm']}_{eps}.png".replace("/", "-"), f"{run}, {title}", grid, run,
                            f"corruption, severity {eps}" if corrupted else f"{row['norm']}, eps {eps}",
                            _find_corruptions(folder, clean, ball, names) if corrupted else None)
                break


def _describe(row: dict, eps: str) -> str:
    """Return an attack and its radius in words: race, 30 steps at 0.25/255 (linf)."""
    if is_corruption(row):
        return f"{name_attack(row['settings'])}, severity {eps}"
    steps = f", {count_of(row['steps'], 'step')}" if row["steps"] else ""
    return f"{name_attack(row['settings'])}{steps} at {eps} ({row['norm']})"


def _find_corruptions(folder: Path, clean: dict, rows: list[dict], names: list[str]) -> dict[str, dict[str, Path]]:
    """Return {image: {column: path}} of the images with pictures of all corruptions that have any, and under each image
    its predictions. Columns: the label, clean, then each corruption with its mIoU.
    """
    shown = {row["attack"]: row for row in [clean, *rows] if (folder / row["records"][0]).is_dir()}
    titles = {row["records"][0]: f"{'clean' if row is clean else attack}, {100 * row['Mean IoU']:.1f} %"
              for attack, row in shown.items()}
    whole = [name for name in names if all((folder / stem / f"{name}_{kind}.png").is_file() for stem in titles
                                           for kind in ("image", "pred"))]
    grid = {}
    for name in (whole[k] for k in (choose_evenly(len(whole), MAX_IMAGES) if whole else [])):
        label = {"label": folder / clean["records"][0] / f"{name}_target.png"}
        for row, kind in ((name, "image"), (f"{name}, predicted", "pred")):
            grid[row] = label | {title: folder / stem / f"{name}_{kind}.png" for stem, title in titles.items()}
    return grid


def _find_grid(clean: Path, attacked: Path, names: list[str]) -> dict[str, dict[str, Path]]:
    """Return {image: {column: path}} of the images whose pictures all exist."""
    grid = {name: {title: folder / f"{name}_{kind}.png" for folder, kinds in
                   ((clean, CLEAN_PICTURES), (attacked, ATTACK_PICTURES)) for title, kind in kinds.items()}
            for name in names}
    whole = [name for name, pictures in grid.items() if all(path.is_file() for path in pictures.values())]
    return {whole[k]: grid[whole[k]] for k in (choose_evenly(len(whole), MAX_IMAGES) if whole else [])}
