"""Lightning modules: what is trained, with which losses, metrics and schedules."""

from ._lightning import quiet_lightning
from ._task import Task
from .classification import ClassificationTask
from .detection import DetectionTask
from .optimization import Optimization, check_model_name

__all__ = ["ClassificationTask", "DetectionTask", "Optimization", "Task", "check_model_name", "quiet_lightning"]
