"""Backbones and classifiers with tied convolutions, published as timm models; importing it registers them."""

from . import tiedefficientnet, tiedresnest, tiedresnet, tiedresnext, tiedsenet
from ._block import TiedBottleneck
from ._factory import check_model_name, create_model, list_models
from .named import build_model, check_model, from_pretrained
from .weights import load_weights, read_weights

__all__ = [
    "TiedBottleneck",
    "build_model",
    "check_model",
    "check_model_name",
    "create_model",
    "from_pretrained",
    "list_models",
    "load_weights",
    "read_weights",
    "tiedefficientnet",
    "tiedresnest",
    "tiedresnet",
    "tiedresnext",
    "tiedsenet",
]
