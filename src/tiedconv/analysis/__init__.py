"""What trained models do: results as data, and drawing functions for them in :mod:`tiedconv.analysis.plots`."""

from .coco import CocoMatches, coco_metrics, read_annotations, read_results
from .gradcam import GradCam, grad_cam, last_map
from .occlusion import (
    Estimate,
    ModelOcclusion,
    OcclusionBin,
    OcclusionReport,
    analyze_occlusion,
    occlusion_ratio,
    occlusion_ratios,
)
from .similarity import Histogram, LayerSimilarity, evenly_spaced, filter_similarity, stage_layers
from .summary import LayerSummary, summarize

__all__ = [
    "CocoMatches",
    "Estimate",
    "GradCam",
    "Histogram",
    "LayerSimilarity",
    "LayerSummary",
    "ModelOcclusion",
    "OcclusionBin",
    "OcclusionReport",
    "analyze_occlusion",
    "coco_metrics",
    "evenly_spaced",
    "filter_similarity",
    "grad_cam",
    "last_map",
    "occlusion_ratio",
    "occlusion_ratios",
    "read_annotations",
    "read_results",
    "stage_layers",
    "summarize",
]
