"""Dashboards: a run shows itself by the methods of Dashboard (none.py). A new one is a file, and two lines below.

    none.py   shows nothing      visdom.py   windows on a server      tensorboard.py   event files
    several.py   several at once; one that fails never ends a run
"""
from pathlib import Path

from utils.dashboards.none import Dashboard
from utils.dashboards.several import Dashboards
from utils.dashboards.tensorboard import TensorBoardDashboard
from utils.dashboards.visdom import NoServerError, VisdomDashboard
from utils.logging import logger

__all__ = ["Dashboard", "Dashboards", "TensorBoardDashboard", "VisdomDashboard", "open_dashboards"]


def open_dashboards(*, vis_port: int | None, vis_env: str, tensorboard: str | bool | None, folder: Path, run: str,
                    named: bool, start: int | None) -> Dashboards:
    """Return the dashboards that a run asks for: visdom with a port, TensorBoard with a folder.

    tensorboard: a folder in which each run has its own, or True for the folder tensorboard/ in the run's `folder`. run:
    the run's name, at its curves; named: whether titles begin with it, too. start: the iteration that the run continues
    from, None for a new one. A run that continues goes on without a visdom server that doesn't answer, so that restarts
    by a machine don't end there; a new one raises UserError.
    """
    shown = []
    if vis_port is not None:
        try:
            shown.append(VisdomDashboard(vis_port, vis_env, run=run, prefix=run if named else "",
                                         continues=start is not None))
        except NoServerError as error:
            if start is None:
                raise
            logger.warning("Warning: %s; the run continues without it", error)
    if tensorboard is not None:
        events = folder / "tensorboard" if tensorboard is True else Path(tensorboard, run)
        shown.append(TensorBoardDashboard(events, start=start or 0))
    return Dashboards(shown)
