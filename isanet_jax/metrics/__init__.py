"""Metrics of masks and probabilities, NumPy; and how every report names and shows them.

To add one, write a file that says `METRICS = {"name": Metric(...)}` (`isanet_jax.metrics.metric`),
into this folder or anywhere (see `isanet_jax.registry`).
"""

from isanet_jax.metrics.metric import TABLES, Metric
from isanet_jax.registry import Registry

__all__ = ["METRICS", "TABLES", "Metric", "shown_in"]

METRICS: Registry = Registry("METRICS", __name__)


def shown_in(table: str) -> tuple[str, ...]:
    """The metrics that a table shows, a key of `TABLES`, in the order of their declaration."""
    return tuple(name for name, metric in METRICS.items() if table in metric.shown_in)
