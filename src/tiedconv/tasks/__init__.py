"""Lightning modules: what is trained, with which losses, metrics and schedules."""

from .classification import ClassificationTask, Optimization

__all__ = ["ClassificationTask", "Optimization"]
