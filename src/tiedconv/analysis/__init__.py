"""What trained models do: results as data, and drawing functions for them in :mod:`tiedconv.report.plots`."""

from ..metrics import occlusion_ratio, occlusion_ratios
from ._patterns import evenly_spaced
from .gradcam import GradCam, grad_cam
from .occlusion import Estimate, ModelOcclusion, OcclusionBin, OcclusionReport, analyze_occlusion
from .similarity import Histogram, LayerSimilarity, filter_similarity
from .summary import LayerSummary, summarize

__all__ = [
    "Estimate",
    "GradCam",
    "Histogram",
    "LayerSimilarity",
    "LayerSummary",
    "ModelOcclusion",
    "OcclusionBin",
    "OcclusionReport",
    "analyze_occlusion",
    "evenly_spaced",
    "filter_similarity",
    "grad_cam",
    "occlusion_ratio",
    "occlusion_ratios",
    "summarize",
]
