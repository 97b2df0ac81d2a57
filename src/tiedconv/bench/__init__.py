"""Timing and memory, measured in pairs."""

from ._timer import Quartiles, Timing
from .machine import describe_machine
from .models import throughput, train_step_peak_memory
from .operators import OperatorRow, time_case
from .released import released_tied_conv2d, released_twin

__all__ = [
    "OperatorRow",
    "Quartiles",
    "Timing",
    "describe_machine",
    "released_tied_conv2d",
    "released_twin",
    "throughput",
    "time_case",
    "train_step_peak_memory",
]
