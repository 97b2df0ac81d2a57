"""Tied convolutions and tied linear maps as pure functions on tensors."""

from .functional import tied_conv1d, tied_conv2d, tied_conv3d, tied_linear

__all__ = ["tied_conv1d", "tied_conv2d", "tied_conv3d", "tied_linear"]
