"""Data modules for Lightning: classification and detection; embedded, small, generated and full-size sets."""

from ._base import ImageData
from .classification import ClassificationData
from .coco import Coco
from .detection import DetectionData
from .embedded import Digits
from .folders import ImageFolder, ImageNet
from .scenes import OcclusionScenes, SceneOptions
from .torchvision_sets import CIFAR10, CIFAR100, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "ClassificationData",
    "Coco",
    "DetectionData",
    "Digits",
    "FashionMNIST",
    "ImageData",
    "ImageFolder",
    "ImageNet",
    "OcclusionScenes",
    "SceneOptions",
]
