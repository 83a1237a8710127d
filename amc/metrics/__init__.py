"""Which channels of a group stay: one file per criterion, one table of their names."""

from amc.metrics import lasso, norms, obs
from amc.metrics.metric import Evidence, Metric, Selection

METRICS: dict[str, Metric] = {
    "lasso": lasso.lasso,
    "obs": obs.obs,
    "l1": norms.l1,
    "l2": norms.l2,
    "random": norms.random,
}

__all__ = ["METRICS", "Evidence", "Metric", "Selection"]
