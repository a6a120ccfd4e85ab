"""Several dashboards as one, which never ends a run."""
from utils.dashboards.none import Dashboard
from utils.logging import logger


class Dashboards(Dashboard):
    """Shows everything on each of `shown`; one that fails is dropped with a warning, and the run continues."""

    title = "several"

    def __init__(self, shown: list[Dashboard]):
        self.shown = list(shown)

    @property
    def enabled(self) -> bool:
        """Return whether anything is shown."""
        return bool(self.shown)

    def _tell(self, method: str, *content, **more):
        for dashboard in [*self.shown]:
            try:
                getattr(dashboard, method)(*content, **more)
            except Exception as error:  # of a server, a disk or a library: none is worth the run
                self.shown.remove(dashboard)
                reason = (str(error).splitlines() or [""])[0]
                logger.warning("Warning: %s stopped (%s: %s); the run continues without it", dashboard.title,
                               type(error).__name__, reason)


def _pass_on(method: str):
    def told(self, *content, **more):
        self._tell(method, *content, **more)

    told.__doc__ = getattr(Dashboard, method).__doc__
    return told


for _method in ("scalar", "curves", "image", "table", "bars", "heat_map", "text", "close"):
    setattr(Dashboards, _method, _pass_on(_method))
