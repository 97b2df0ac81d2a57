"""Lightning modules: what is trained, with which losses, metrics and schedules."""

from ._faults import quiet_lightning
from ._task import Task
from .classification import ClassificationTask
from .detection import DetectionTask
from .optimization import Optimization
from .resume import keep_checkpoints_whole

__all__ = ["ClassificationTask", "DetectionTask", "Optimization", "Task", "keep_checkpoints_whole", "quiet_lightning"]
