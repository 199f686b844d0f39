"""Metrics of masks and probabilities, NumPy; and how every report names them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric stands in tables and figures.

    Attributes:
        label: its name.
        unit: of its values, "" where they have none.
        digits: after the point.
    """

    label: str
    unit: str = ""
    digits: int = 4

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label} {self.unit}".strip()


# Name, as in `isanet_jax.metrics.segmentation.case_metrics` and `summarise` -> how it is shown.
METRICS = {
    "dsc": Metric("DSC"),
    "iou": Metric("IoU"),
    "voe": Metric("VOE"),
    "rvd": Metric("signed RVD"),
    "rvd_abs": Metric("RVD"),
    "recall": Metric("recall"),
    "precision": Metric("precision"),
    "hd": Metric("HD", "mm", 2),
    "hd95": Metric("HD95", "mm", 2),
    "assd": Metric("ASSD", "mm", 2),
    "assd_pooled": Metric("pooled ASSD", "mm", 2),
    "lesion_f1": Metric("lesion F1"),
    "lesion_precision": Metric("lesion precision"),
    "lesion_recall": Metric("lesion recall"),
    "fp_ml": Metric("false positive volume", "ml", 2),
    "fn_ml": Metric("false negative volume", "ml", 2),
    "volume_ml": Metric("volume", "ml", 2),
    "reference_volume_ml": Metric("reference volume", "ml", 2),
    "tp": Metric("true positive voxels", "", 0),
    "predicted_voxels": Metric("predicted voxels", "", 0),
    "reference_voxels": Metric("reference voxels", "", 0),
    "dsc_agg": Metric("aggregated DSC"),
}
