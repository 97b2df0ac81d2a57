"""Backbones and classifiers with tied convolutions, published as timm models; importing it registers them."""

from . import tiedefficientnet, tiedresnest, tiedresnet, tiedresnext, tiedsenet
from ._block import TiedBottleneck
from ._factory import check_model_name, create_model, list_models

__all__ = [
    "TiedBottleneck",
    "check_model_name",
    "create_model",
    "list_models",
    "tiedefficientnet",
    "tiedresnest",
    "tiedresnet",
    "tiedresnext",
    "tiedsenet",
]
