"""Backbones and classifiers with tied convolutions, published as timm models."""

from . import tiedresnet
from ._factory import create_model, list_models

__all__ = ["create_model", "list_models", "tiedresnet"]
