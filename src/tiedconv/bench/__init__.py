"""Timing and memory, measured in pairs."""

from .machine import describe_machine
from .memory import train_step_peak_memory
from .models import ModelOptions, ModelRow, measure, throughput
from .operators import OperatorRow, time_case
from .released import released_tied_conv2d
from .timer import Quartiles, Timing

__all__ = [
    "ModelOptions",
    "ModelRow",
    "OperatorRow",
    "Quartiles",
    "Timing",
    "describe_machine",
    "measure",
    "released_tied_conv2d",
    "throughput",
    "time_case",
    "train_step_peak_memory",
]
