"""Segmentation scores, and their worst case over an ensemble of attacks."""
from metrics.robustness import greedy_selection, lower_bound, scores, worst_case
from metrics.stream_metrics import StreamSegMetrics, count_defined, counts_per_image

__all__ = ["StreamSegMetrics", "count_defined", "counts_per_image", "greedy_selection", "lower_bound", "scores",
           "worst_case"]
