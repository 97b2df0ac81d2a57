"""Data modules for Lightning: classification and detection; embedded, small, generated and full-size sets."""

from .base import ImageData
from .cityscapes import Cityscapes
from .classification import ClassificationData
from .coco import Coco
from .detection import DetectionData
from .embedded import Digits
from .folders import ImageFolder, ImageNet
from .scenes import OcclusionScenes, SceneOptions
from .shards import index_shards, write_shards
from .streaming import StreamedImages
from .torchvision_sets import CIFAR10, CIFAR100, FashionMNIST
from .voc import Voc
from .voc_folder import VocFolder
from .yolo import Yolo

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Cityscapes",
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
    "StreamedImages",
    "Voc",
    "VocFolder",
    "Yolo",
    "index_shards",
    "write_shards",
]
