"""Tied convolutions and tied linear maps as pure functions on tensors."""

from .functional import tied_conv1d, tied_conv2d, tied_conv3d, tied_linear
from .split import split_tied_conv2d

__all__ = ["split_tied_conv2d", "tied_conv1d", "tied_conv2d", "tied_conv3d", "tied_linear"]
