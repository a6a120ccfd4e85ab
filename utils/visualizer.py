"""VainF's name for the visdom dashboard, with its methods."""
from utils.dashboards import VisdomDashboard


class Visualizer(VisdomDashboard):
    """The visdom dashboard by the names that VainF's scripts call."""

    def __init__(self, port: int = 13579, env: str = "main", id: str | None = None):
        super().__init__(int(port), env, run=id or "run", prefix=id or "")

    vis_scalar, vis_image, vis_table = VisdomDashboard.scalar, VisdomDashboard.image, VisdomDashboard.table
