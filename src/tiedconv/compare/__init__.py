"""Train several models on the same data, seeds and budget, and report what came out."""

from .detection import Detector
from .runner import compare
from .training import Budget, ModelSpec

__all__ = ["Budget", "Detector", "ModelSpec", "compare"]
