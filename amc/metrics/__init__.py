"""Which channels of a group stay: one file per criterion, one table of their names."""

from amc.metrics.lasso import lasso
from amc.metrics.metric import Evidence, Metric, Selection
from amc.metrics.norms import l1, l2, random
from amc.metrics.obs import obs

METRICS: dict[str, Metric] = {
    "lasso": lasso,
    "obs": obs,
    "l1": l1,
    "l2": l2,
    "random": random,
}

__all__ = ["METRICS", "Evidence", "Metric", "Selection"]
