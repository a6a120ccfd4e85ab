"""The dashboard: windows on a visdom server, named as VainF's, or nothing at all."""
import html
import io
import logging
from contextlib import redirect_stdout

import numpy as np

from utils.errors import UserError
from utils.logging import logger
from utils.text import printable

TIMEOUT = 10  # seconds that a server may take to answer


class NullVisualizer:
    """The dashboard of a run that shows none."""

    enabled = False

    def vis_scalar(self, name, x, y, *, line=None):
        """Show nothing."""

    def vis_image(self, name, image):
        """Show nothing."""

    def vis_table(self, name, table):
        """Show nothing."""


class Visualizer:
    """Windows on a running visdom server, each named by its title.

    Raises UserError where no server answers at the start. One that stops answering later costs one warning, and
    everything after it is dropped: a dashboard never ends a training run. Names are shown as they are: the browser
    gets them with HTML's characters escaped, also titles and legends, in which plotly would make links of tags.
    """

    enabled = True

    def __init__(self, port: int, env: str = "main", id: str | None = None, *, go_on: bool = False):
        """go_on: curves of one line that an earlier call began are continued, instead of replaced."""
        import visdom  # only here: a run without a dashboard doesn't need it

        self.prefix = f"[{id}]" if id else ""
        self.started, self.go_on = set(), go_on
        logging.getLogger("visdom").setLevel(logging.ERROR)  # it remarks on every connection
        try:
            with _quiet():
                self.vis = _client(visdom, port=port, env=env)
        except ConnectionError:
            raise UserError(f"no visdom server answers on port {port}: start one with "
                            f"`python -m visdom.server -port {port}`, or leave out --enable_vis") from None

    def vis_scalar(self, name: str, x: float, y: float, *, line: str | None = None):
        """Append the point (x, y) to the curve `name` (to its line `line`, if there are several)."""
        window = self._window(name)
        options = {"title": window, "showlegend": line is not None}
        begun = window in self.started or (line is None and self._began_earlier(window))
        update = "append" if begun else None
        self._send("line", X=np.array([x]), Y=np.array([y]), win=window, name=line and _escaped(line), update=update,
                   opts=options)
        self.started.add(window)

    def vis_image(self, name: str, image: np.ndarray):
        """Show an image, uint8 [3, H, W]."""
        window = self._window(name)
        self._send("image", img=image, win=window, opts={"title": window})

    def vis_table(self, name: str, table: dict):
        """Show a dict as a table of two columns, Term and Value."""
        window = self._window(name)
        rows = "".join(f"<tr><td>{_escaped(term)}</td><td>{_escaped(value)}</td></tr>"
                       for term, value in table.items())
        text = f'<table border="1"><tr><th>Term</th><th>Value</th></tr>{rows}</table>'
        self._send("text", text=text, win=window, opts={"title": window})

    def _window(self, name: str) -> str:
        return _escaped(self.prefix + name)

    def _began_earlier(self, window: str) -> bool:
        if not self.go_on or self.vis is None:
            return False
        try:
            with _quiet():
                return bool(self.vis.win_exists(window))
        except ConnectionError:
            return False  # _send() says so

    def _send(self, kind: str, **content):
        if self.vis is None:
            return
        try:
            with _quiet():
                getattr(self.vis, kind)(**content)
        except ConnectionError:
            logger.warning("Warning: the visdom server stopped answering; the run goes on without the dashboard.")
            self.vis = None


def _escaped(value) -> str:
    """Text for a place where the browser reads HTML."""
    return html.escape(printable(str(value)))


def _client(visdom, **options):
    """A client that waits TIMEOUT seconds at most and takes no other server's answers; visdom's waits for ever."""
    class Client(visdom.Visdom):
        def _handle_post(self, url, data=None):
            try:
                answer = self.session.post(url, data=data or {}, timeout=TIMEOUT)
                answer.raise_for_status()
            except OSError as error:  # all of requests' errors are
                raise ConnectionError(str(error)) from None
            return answer.text

    return Client(raise_exceptions=True, use_incoming_socket=False, **options)


def _quiet():
    """visdom prints its errors too, besides raising them."""
    return redirect_stdout(io.StringIO())
