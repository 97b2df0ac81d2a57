"""Models made ready to be used: folded, expanded and packed for inference."""

from .optimize import OptimizedModel, optimize_for_inference

__all__ = ["OptimizedModel", "optimize_for_inference"]
