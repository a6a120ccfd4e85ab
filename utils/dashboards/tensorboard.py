"""Event files for TensorBoard."""
from functools import cached_property
from pathlib import Path

import numpy as np

from utils.dashboards.none import Dashboard, round_figure
from utils.errors import UserError
from utils.optional import import_optional
from utils.text import escape_markdown, format_markdown

VAL = "[Val] "  # the names of a validation's windows begin with it


class TensorBoardDashboard(Dashboard):
    """Event files in `folder`, created when something is shown. start: the iteration that a run continues from.

    TensorBoard hides what an earlier call wrote of later iterations. Raises UserError if `folder` is a file or
    tensorboard is not installed.
    """

    title, enabled = "TensorBoard", True

    def __init__(self, folder: Path, *, start: int = 0):
        import_optional("tensorboard")
        self.folder, self.start = Path(folder), start
        if blocked := next((path for path in (self.folder, *self.folder.parents) if path.is_file()), None):
            raise UserError(f"--tensorboard: {blocked} is a file: give a folder")

    @cached_property
    def writer(self):
        """Return the writer of the files."""
        module = import_optional("torch.utils.tensorboard")
        return module.SummaryWriter(str(self.folder), purge_step=self.start + 1 if self.start else None)

    def scalar(self, name: str, itr: int, value: float):
        """Append a point to the run's curve `name`."""
        self.writer.add_scalar(_make_tag("Train", name), round_figure(value), itr)

    def curves(self, name: str, lines: dict[str, list[tuple[float, float]]], *, xlabel: str = ""):
        """Show curves as a picture: TensorBoard's own have iterations as x, never an eps."""
        figure, axis = _make_figure(6, 4)
        for line, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", label=line)
        axis.set_xlabel(xlabel, parse_math=False)
        axis.grid(alpha=0.3)
        for text in axis.legend().get_texts():
            text.set_parse_math(False)
        self.writer.add_figure(_make_tag("Test", name), figure)

    def image(self, name: str, image: np.ndarray, *, itr: int = 0):
        """Show an image, uint8 [3, H, W]."""
        self.writer.add_image(_make_tag("Samples", name), image, itr)

    def table(self, name: str, table: dict, *, itr: int = 0):
        """Show a dict as a table of two columns, Term and Value."""
        columns = {"Term": [*map(str, table)], "Value": [*map(str, table.values())]}
        self.writer.add_text(name, format_markdown({
            title: [escape_markdown(cell) for cell in cells] for title, cells in columns.items()}), itr)

    def bars(self, name: str, values: dict[str, float], *, itr: int = 0):
        """Show a curve for each name over the iterations."""
        for each, value in values.items():
            if value == value:
                self.writer.add_scalar(f"{name.removeprefix(VAL)}/{each}", value, itr)

    def heat_map(self, name: str, values: np.ndarray, names: list[str], *, itr: int = 0):
        """Show a matrix as a picture."""
        figure, axis = _make_figure(2 + 0.4 * len(names), 1 + 0.4 * len(names))
        figure.colorbar(axis.imshow(values, cmap="viridis"))
        places = range(len(names))
        axis.set_xticks(places, names, rotation=90, parse_math=False)
        axis.set_yticks(places, names, parse_math=False)
        self.writer.add_figure(_make_tag("Test", name), figure, itr)

    def text(self, name: str, text: str, *, itr: int = 0):
        """Show lines of text as they are."""
        self.writer.add_text(name, "\n".join("    " + line for line in text.splitlines()), itr)

    def close(self):
        """Write what has not been written."""
        if "writer" in vars(self):
            self.writer.close()


def _make_tag(group: str, name: str) -> str:
    """Return a name in its group, which TensorBoard takes from what stands before the slash."""
    return f"Val/{name.removeprefix(VAL)}" if name.startswith(VAL) else f"{group}/{name}"


def _make_figure(width: float, height: float):
    """Return a figure of so many inches, and its axes."""
    figures = import_optional("matplotlib.figure", command="make setup")
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()
