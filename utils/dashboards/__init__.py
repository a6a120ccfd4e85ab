"""Dashboards: a run shows itself by the methods of Dashboard (none.py). A new one is a file, and two lines below.

    none.py   shows nothing      visdom.py   windows on a server      tensorboard.py   event files
    several.py   several at once; one that fails never ends a run
"""
from pathlib import Path

from utils.dashboards.none import Dashboard
from utils.dashboards.several import Dashboards
from utils.dashboards.tensorboard import TensorBoardDashboard
from utils.dashboards.visdom import VisdomDashboard

__all__ = ["Dashboard", "Dashboards", "TensorBoardDashboard", "VisdomDashboard", "open_dashboards"]


def open_dashboards(*, vis_port: int | None, vis_env: str, tensorboard: str | bool | None, folder: Path, run: str,
                    named: bool, start: int | None) -> Dashboards:
    """Return the dashboards that a run asks for: visdom with a port, TensorBoard with a folder.

    tensorboard: a folder in which each run has its own, or True for the folder tensorboard/ in the run's `folder`. run:
    the run's name, at its curves; named: whether titles begin with it, too. start: the iteration that the run continues
    from, None for a new one.
    """
    shown = []
    if vis_port is not None:
        shown.append(VisdomDashboard(vis_port, vis_env, run=run, prefix=run if named else "",
                                     continues=start is not None))
    if tensorboard is not None:
        events = folder / "tensorboard" if tensorboard is True else Path(tensorboard, run)
        shown.append(TensorBoardDashboard(events, start=start or 0))
    return Dashboards(shown)
