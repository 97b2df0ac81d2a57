"""Lightning modules: what is trained, with which losses, metrics and schedules."""

from ._lightning import quiet_lightning
from .classification import ClassificationTask, Optimization

__all__ = ["ClassificationTask", "Optimization", "quiet_lightning"]
