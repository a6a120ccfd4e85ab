"""The dashboard: windows on a visdom server, named as VainF names them, or a dashboard that shows nothing."""
import html
import io
import logging
from contextlib import redirect_stdout

import numpy as np

from utils.errors import UserError
from utils.logging import logger
from utils.optional import import_optional
from utils.text import escape_unprintable

TIMEOUT = 10  # seconds to wait for an answer of the server


class Visualizer:
    """Windows on a running visdom server, each named by its title.

    Raises UserError if no server answers at the start. If it stops answering later, one warning is logged and all
    further output is dropped, so that a dashboard never ends a training run. Names are escaped for HTML, also in titles
    and legends, where plotly would interpret tags.
    """

    enabled = True

    def __init__(self, port: int, env: str = "main", id: str | None = None, *, continue_curves: bool = False):
        """Connect; with continue_curves, append to an earlier call's curves of one line instead of replacing them."""
        visdom = import_optional("visdom", command="make setup")  # here: runs without a dashboard don't need it
        self.prefix = f"[{id}]" if id else ""
        self.started, self.continue_curves = set(), continue_curves
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it warns at every connection
        try:
            with _silence():
                self.vis = _make_client(visdom, port=port, env=env)
        except ConnectionError:
            raise UserError(f"no visdom server answers on port {port}: start one with "
                            f"`python -m visdom.server -port {port}` or leave out --enable_vis "
                            "(docs/dashboards.md#if-no-server-answers)") from None

    def vis_scalar(self, name: str, x: float, y: float, *, line: str | None = None):
        """Append the point (x, y) to the curve `name` (to its line `line`, if there are several)."""
        window = self._make_title(name)
        options = {"title": window, "showlegend": line is not None}
        begun = window in self.started or (line is None and self._exists_on_server(window))
        update = "append" if begun else None
        self._send("line", X=np.array([x]), Y=np.array([y]), win=window, name=line and _escape_html(line),
                   update=update, opts=options)
        self.started.add(window)

    def vis_image(self, name: str, image: np.ndarray):
        """Show an image, uint8 [3, H, W]."""
        window = self._make_title(name)
        self._send("image", img=image, win=window, opts={"title": window})

    def vis_table(self, name: str, table: dict):
        """Show a dict as a table of two columns, Term and Value."""
        window = self._make_title(name)
        rows = "".join(f"<tr><td>{_escape_html(term)}</td><td>{_escape_html(value)}</td></tr>"
                       for term, value in table.items())
        text = f'<table border="1"><tr><th>Term</th><th>Value</th></tr>{rows}</table>'
        self._send("text", text=text, win=window, opts={"title": window})

    def _make_title(self, name: str) -> str:
        return _escape_html(self.prefix + name)

    def _exists_on_server(self, window: str) -> bool:
        if not self.continue_curves or self.vis is None:
            return False
        try:
            with _silence():
                return bool(self.vis.win_exists(window))
        except ConnectionError:
            return False  # _send() logs the warning

    def _send(self, kind: str, **content):
        if self.vis is None:
            return
        try:
            with _silence():
                getattr(self.vis, kind)(**content)
        except ConnectionError:
            logger.warning("Warning: the visdom server stopped answering; the run continues without the dashboard.")
            self.vis = None


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
