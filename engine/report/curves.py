"""What the pictures of a comparison show: curves of mIoU over eps, and images under the strongest attack."""
from pathlib import Path

from engine.records.naming import label, radius
from engine.records.rows import WORST
from engine.report.figures import Panel
from engine.report.tables import CURVE, grouped, side_by_side
from utils.images import choose_evenly
from utils.logging import logger

MOST_PANELS, MOST_IMAGES = 12, 4
CLEAN_PICTURES = {"image": "image", "target": "target", "clean prediction": "pred"}
ATTACK_PICTURES = {"adversarial image": "image", "perturbation": "perturbation", "attacked prediction": "pred"}


def panels(rows: list[dict]) -> list[Panel]:
    """A panel per attack, loss, norm and steps, with a curve per run that starts at clean.

    At most MOST_PANELS, those with the most points (unions before attacks that have as many). eps in grey levels n/255
    for linf; mIoU and its lower bound in percent.
    """
    clean = {row["run"]: row for row in rows if row["attack"] == "none"}
    attacked = [line for line in side_by_side(rows) if line["norm"] != "-"]
    found = [_panel(lines, clean) for lines in grouped(attacked, *CURVE)]
    if not found:
        return [Panel("clean", "linf", {run: [_point(row, "linf")] for run, row in clean.items()})]
    if len(found) > MOST_PANELS:
        logger.info("curves.png shows the %d attacks with the most points, of %d", MOST_PANELS, len(found))
    by_points = sorted(range(len(found)), key=lambda k: (sum(map(len, found[k].curves.values())), k))
    return [found[k] for k in sorted(by_points[-MOST_PANELS:])]


def _panel(lines: list[dict], clean: dict[str, dict]) -> Panel:
    norm, curves = lines[0]["norm"], {}
    for run, start in clean.items():
        points = [line["rows"][run] for line in lines if run in line["rows"]]
        if points:
            curves[run] = sorted(_point(row, norm) for row in [start, *points])
    steps = {"-": "", "0": "", "1": "1 step"}.get(lines[0]["steps"], f"{lines[0]['steps']} steps")
    words = [_name(lines), lines[0]["loss"].strip("-"), steps]
    return Panel(", ".join(filter(None, words)), norm, curves)


def _name(lines: list[dict]) -> str:
    """The attack; worst cases say of how many records: what differs there is no fair comparison."""
    if lines[0]["curve"] != WORST:
        return lines[0]["curve"]
    sizes = [len(row["members"]) for line in lines for row in line["rows"].values()]
    return f"{WORST} of {min(sizes)}" + (f" to {max(sizes)}" if max(sizes) > min(sizes) else "")


def _point(row: dict, norm: str) -> tuple[float, float, float]:
    """(eps, mIoU, lower bound); the bound of what is no union is its mIoU."""
    lower = row["Mean IoU"] if row["Mean IoU lower"] is None else row["Mean IoU lower"]
    return row["eps"] * (255 if norm == "linf" else 1), 100 * row["Mean IoU"], 100 * lower


def sheets(run: str, folder: Path, rows: list[dict], *, names: list[str]):
    """Yield (file name, title, {image: {column: path of the picture}}) for every norm and eps that has pictures.

    rows: the run's; the attack is the recorded one with the lowest mIoU of those that left pictures in `folder`,
    which holds a folder per record; the images are up to MOST_IMAGES of `names`, evenly spaced.
    """
    (clean,) = [row for row in rows if row["attack"] == "none"]
    attacked = [row for row in rows if row["settings"] and row is not clean]
    for ball in grouped(attacked, "norm", "eps"):
        for row in sorted(ball, key=lambda row: row["Mean IoU"]):
            grid = _grid(folder / clean["records"][0], folder / row["records"][0], names)
            if grid:
                eps = radius(row)
                title = (f"{label(row['settings'])}: mIoU {100 * row['Mean IoU']:.1f} %, "
                         f"clean {100 * clean['Mean IoU']:.1f} %")
                yield f"sheet_{run}_{row['norm']}_{eps}.png".replace("/", "-"), f"{run}, {title}", grid
                break


def _grid(clean: Path, attacked: Path, names: list[str]) -> dict[str, dict[str, Path]]:
    """{image: {column: picture}} of images whose pictures are all there."""
    grid = {name: {title: folder / f"{name}_{kind}.png" for folder, kinds in
                   ((clean, CLEAN_PICTURES), (attacked, ATTACK_PICTURES)) for title, kind in kinds.items()}
            for name in names}
    whole = [name for name, pictures in grid.items() if all(path.is_file() for path in pictures.values())]
    return {whole[k]: grid[whole[k]] for k in (choose_evenly(len(whole), MOST_IMAGES) if whole else [])}
