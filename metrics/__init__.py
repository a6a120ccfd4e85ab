"""Segmentation scores, their worst case over an ensemble of attacks, and how sure differences between runs are."""
from metrics.bootstrap import Difference, compare, pooled_means
from metrics.robustness import greedy_selection, lower_bound, scores, worst_case
from metrics.stream_metrics import StreamSegMetrics, count_defined, counts_per_image

__all__ = ["Difference", "StreamSegMetrics", "compare", "count_defined", "counts_per_image", "greedy_selection",
           "lower_bound", "pooled_means", "scores", "worst_case"]
