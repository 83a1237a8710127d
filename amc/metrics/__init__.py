"""Which channels of a group stay: one file per criterion, one table of their names."""

from amc.metrics.metric import Evidence, Metric, Selection, scores_of, selection_of
from amc.metrics.table import IN_UNITS_OF_LOSS, METRICS, load_metric

__all__ = [
    "IN_UNITS_OF_LOSS",
    "METRICS",
    "Evidence",
    "Metric",
    "Selection",
    "load_metric",
    "scores_of",
    "selection_of",
]
