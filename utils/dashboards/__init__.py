"""Dashboards: objects with vis_scalar, vis_image, vis_table and `enabled`. A new one is a file that setup.py chooses.

    none.py   shows nothing      visdom.py   windows on a visdom server, named as VainF's
"""
from utils.dashboards.none import NullVisualizer
from utils.dashboards.visdom import Visualizer

__all__ = ["NullVisualizer", "Visualizer"]
