"""Data modules for Lightning: embedded images, torchvision's small sets, folders of photographs."""

from .classification import ClassificationData
from .embedded import Digits
from .folders import ImageFolder, ImageNet
from .torchvision_sets import CIFAR10, CIFAR100, FashionMNIST

__all__ = ["CIFAR10", "CIFAR100", "ClassificationData", "Digits", "FashionMNIST", "ImageFolder", "ImageNet"]
