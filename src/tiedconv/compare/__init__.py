"""Train several models on the same data, seeds and budget, and report what came out."""

from .classification import compare
from .detection import Detector, compare_detectors
from .training import Budget, ModelSpec

__all__ = ["Budget", "Detector", "ModelSpec", "compare", "compare_detectors"]
