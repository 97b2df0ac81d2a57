"""Detectors of torchvision's kind on any timm backbone, tied or not, with the cascades that torchvision lacks."""

from .backbone import FPNBackbone
from .build import DetectorName, Widths, build_detector
from .cascade import CascadeRoIHeads

__all__ = ["CascadeRoIHeads", "DetectorName", "FPNBackbone", "Widths", "build_detector"]
