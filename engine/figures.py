"""Pictures for reports; matplotlib is imported here alone, and only when a picture is drawn."""
from pathlib import Path

from PIL import Image


def prediction_sheet(path: Path, runs: dict[str, Path], *, names: list[str], attacked: str):
    """Draw a row per image: image, target, then each run's clean and attacked prediction.

    runs: {title: its val_results folder}, as --save_val_results wrote it; attacked: the sub-folder of the attack.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(iter(runs.values()))
    columns = {"image": (first / "clean", "image"), "target": (first / "clean", "target")}
    for title, folder in runs.items():
        for part in ("clean", attacked):
            columns[f"{title}, {part}"] = (folder / part, "pred")
    figure = Figure(figsize=(2.2 * len(columns), 2.3 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for name, line in zip(names, axes, strict=True):
        for (title, (folder, kind)), axis in zip(columns.items(), line, strict=True):
            axis.imshow(_read(folder / f"{name}_{kind}.png"), interpolation="nearest")
            axis.set_title(title.replace("_", " "), fontsize=8)
            axis.set_axis_off()
    FigureCanvasAgg(figure).print_png(path)


def _read(path: Path):
    with Image.open(path) as image:
        return image.convert("RGB")
