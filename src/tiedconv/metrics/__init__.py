"""What a model costs and how well it does: parameters and multiply-adds, COCO's average precision, occlusion ratios."""

from .coco import CocoMatches, coco_metrics, read_annotations, read_results
from .counts import Counts, count
from .occlusion import occlusion_ratio, occlusion_ratios

__all__ = [
    "CocoMatches",
    "Counts",
    "coco_metrics",
    "count",
    "occlusion_ratio",
    "occlusion_ratios",
    "read_annotations",
    "read_results",
]
