"""Tied Block Convolution for PyTorch: leaner and better CNNs with shared thinner filters."""

from . import nn, ops

__version__ = "0.1.0"

__all__ = ["__version__", "nn", "ops"]
