"""Timing and memory, measured in pairs."""

from .machine import describe_machine
from .models import throughput, train_step_peak_memory

__all__ = ["describe_machine", "throughput", "train_step_peak_memory"]
