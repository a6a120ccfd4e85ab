"""Windows on a visdom server, named as VainF names them."""
import html
import io
import json
import logging
from contextlib import redirect_stdout

import numpy as np

from utils.dashboards.none import Dashboard, round_figure
from utils.errors import UserError
from utils.optional import import_optional
from utils.text import escape_unprintable

CHARACTER, LINE, FRAME = 8, 20, 60  # pixels of a character, a line, and what is around a text
TIMEOUT = 10  # seconds to wait for an answer of the server


class NoServerError(UserError):
    """No visdom server answers."""


class VisdomDashboard(Dashboard):
    """Windows on a running visdom server, each named by its title.

    Curves of several runs stand in one window, each with the name of its `run`; the other windows' titles begin with
    [prefix]. continues: curves keep the points that lie before the first new one; else they are replaced. Raises
    NoServerError if no server answers at the start, ConnectionError later. Names are escaped for HTML, also in titles
    and legends, where plotly would interpret tags.
    """

    title, enabled = "the visdom server", True

    def __init__(self, port: int, env: str = "main", *, run: str = "run", prefix: str = "", continues: bool = False):
        visdom = import_optional("visdom", command="make setup")  # here: runs without a dashboard don't need it
        self.run, self.prefix, self.continues = _escape_html(run), f"[{prefix}] " if prefix else "", continues
        self.begun = set()  # the windows that have this run's curve
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns at every connection
        try:
            with _silence():
                self.vis = _make_client(visdom, port=port, env=env)
        except ConnectionError:
            raise NoServerError(f"no visdom server answers on port {port}: start one with "
                            f"`python -m visdom.server -port {port}` or leave out --enable_vis "
                            "(docs/dashboards.md#if-no-server-answers)") from None

    def scalar(self, name: str, itr: int, value: float):
        """Append the point (itr, value) to the run's curve in the window `name`."""
        window, points = _escape_html(name), [(itr, round_figure(value))]
        found = None
        if window not in self.begun:
            found = self._read_curves(window).get(self.run)
            if found is not None and self.continues:
                points = [point for point in found if point[0] < itr] + points
        self._draw(window, self.run, points, append=found is None)
        self.begun.add(window)

    def curves(self, name: str, lines: dict[str, list[tuple[float, float]]], *, xlabel: str = ""):
        """Show whole curves; with a prefix their names begin with the run's."""
        window = _escape_html(name)
        there = self._read_curves(window)
        for line, points in lines.items():
            trace = (f"{self.run}: " if self.prefix else "") + _escape_html(line)
            self._draw(window, trace, points, append=trace not in there, xlabel=_escape_html(xlabel))

    def image(self, name: str, image: np.ndarray, **_):
        """Show an image, uint8 [3, H, W]."""
        self._send("image", name, img=image)

    def table(self, name: str, table: dict, **_):
        """Show a dict as a table of two columns, Term and Value."""
        rows = "".join(f"<tr><td>{_escape_html(term)}</td><td>{_escape_html(value)}</td></tr>"
                       for term, value in table.items())
        self._send("text", name, text=f'<table border="1"><tr><th>Term</th><th>Value</th></tr>{rows}</table>')

    def bars(self, name: str, values: dict[str, float], **_):
        """Show a bar for each name."""
        shown = {_escape_html(each): value for each, value in values.items() if value == value}
        if shown:
            self._send("bar", name, X=np.array([*shown.values()]).reshape(-1, 1),
                       opts={"rownames": [*shown], "marginbottom": 100})

    def heat_map(self, name: str, values: np.ndarray, names: list[str], **_):
        """Show a matrix with its first row on top."""
        words = [_escape_html(each) for each in names]
        self._send("heatmap", name, X=values, opts={
            "rownames": words, "columnnames": words, "colormap": "Viridis", "marginleft": 100, "marginbottom": 100,
            "layoutopts": {"plotly": {"yaxis": {"autorange": "reversed"}}}})

    def text(self, name: str, text: str, **_):
        """Show lines of text as they are, in a window that is as wide as the longest."""
        lines = text.splitlines() or [""]
        self._send("text", name, text=f"<pre>{_escape_html(text)}</pre>", opts={
            "width": FRAME + CHARACTER * max(map(len, lines)), "height": FRAME + LINE * len(lines)})

    def _draw(self, window: str, trace: str, points: list[tuple[float, float]], *, append: bool, xlabel: str = ""):
        """Draw a curve, or append to the one that is there; a window or curve that doesn't exist is created."""
        x, y = (np.array(values, dtype=float) for values in zip(*points, strict=True))
        options = {"title": window, "showlegend": True} | ({"xlabel": xlabel} if xlabel else {})
        self._call("line", X=x, Y=y, win=window, name=trace, update="append" if append else "replace", opts=options)

    def _read_curves(self, window: str) -> dict[str, list[tuple[float, float]]]:
        """Return {name: points} of the curves that the server has in this window."""
        with _silence():
            if not self.vis.win_exists(window):
                return {}
            found = json.loads(self.vis.get_window_data(window, env=self.vis.env))
        return {curve["name"]: [(x, float("nan") if y is None else y)
                                for x, y in zip(curve["x"], curve["y"], strict=True)]
                for curve in found["content"]["data"]}

    def _send(self, kind: str, name: str, *, opts: dict | None = None, **content):
        window = _escape_html(self.prefix + name)
        self._call(kind, win=window, opts={"title": window, **(opts or {})}, **content)

    def _call(self, kind: str, **content):
        with _silence():
            getattr(self.vis, kind)(**content)


def _escape_html(value) -> str:
    """Return a value as text escaped for HTML."""
    return html.escape(escape_unprintable(str(value)))


def _make_client(visdom, **options):
    """Return a visdom client that waits at most TIMEOUT seconds, not forever, and refuses other servers' answers."""
    class Client(visdom.Visdom):
        def _handle_post(self, url, data=None):
            try:
                answer = self.session.post(url, data=data or {}, timeout=TIMEOUT)
                answer.raise_for_status()
            except OSError as error:  # the base class of all errors of requests
                raise ConnectionError(str(error)) from None
            return answer.text

    return Client(raise_exceptions=True, use_incoming_socket=False, **options)


def _silence():
    """Discard what visdom prints: it prints the errors that it also raises."""
    return redirect_stdout(io.StringIO())
