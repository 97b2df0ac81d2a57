"""Lightning modules: what is trained, with which losses, metrics and schedules."""

from ._lightning import quiet_lightning
from .classification import ClassificationTask, Optimization, check_model_name

__all__ = ["ClassificationTask", "Optimization", "check_model_name", "quiet_lightning"]
