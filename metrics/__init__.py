"""Scores of segmentations."""
from metrics.stream_metrics import StreamSegMetrics

__all__ = ["StreamSegMetrics"]
