"""The old name of utils.dashboards."""
from utils.dashboards import NullVisualizer, Visualizer  # noqa: F401
