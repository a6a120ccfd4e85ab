"""The protocol of all dashboards, and the dashboard of a run without one."""
import numpy as np


class Dashboard:
    """What a run shows itself on; here every method does nothing.

    name is a window's title, the same over a run. itr is the iteration, 0 outside of a training. A method may raise
    whatever error the dashboard's server or files have: Dashboards drops it then.
    """

    title, enabled = "none", False

    def scalar(self, name: str, itr: int, value: float):
        """Append a point to the run's curve in the window `name`."""

    def curves(self, name: str, lines: dict[str, list[tuple[float, float]]], *, xlabel: str = ""):
        """Show whole curves, {line: [(x, y)]}, in place of earlier ones of this run."""

    def image(self, name: str, image: np.ndarray, *, itr: int = 0):
        """Show an image, uint8 [3, H, W]."""

    def table(self, name: str, table: dict, *, itr: int = 0):
        """Show a dict as a table of two columns, Term and Value."""

    def bars(self, name: str, values: dict[str, float], *, itr: int = 0):
        """Show a bar for each name; none for nan."""

    def heat_map(self, name: str, values: np.ndarray, names: list[str], *, itr: int = 0):
        """Show a matrix [N, N], whose rows and columns have these N names."""

    def text(self, name: str, text: str, *, itr: int = 0):
        """Show lines of text as they are."""

    def close(self):
        """Send what has not been sent."""


def round_figure(value: float) -> float:
    """Return a value with six significant digits, so that labels of axes don't show what float32 adds to it."""
    return float(f"{value:.6g}")
