"""What is declared of a metric."""

from collections.abc import Callable
from typing import NamedTuple

# Tables and figures that show a choice of metrics.
TABLES = {
    "summary": "mean and sd over the cases, of an evaluation",
    "cases": "a line for each case, of an evaluation's report.md",
    "page": "a line for each case, and box plots, of report.html",
    "comparison": "a line for each method of a comparison",
    "tests": "paired tests and box plots of a comparison",
}


class Metric(NamedTuple):
    """A metric; a file's `METRICS` maps names to these.

    Attributes:
        label: its name in tables and figures.
        unit: of its values, "" where they have none.
        digits: after the point.
        shown_in: keys of `TABLES`; metrics.json and metrics.csv have every metric.
        is_count: of a case with several classes: their sum, and not their mean.
        function: (prediction, reference, spacing_mm) -> its value, of (I, J, K) bool masks cut to
            their joint foreground; None: `isanet_jax.metrics.segmentation.case_metrics` or
            `summarise` computes it together with others.
    """

    label: str
    unit: str = ""
    digits: int = 4
    shown_in: tuple[str, ...] = ()
    is_count: bool = False
    function: Callable[..., float] | None = None

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} {self.unit}".strip()
