"""Tied Block Convolution for PyTorch: leaner and better CNNs with shared thinner filters."""

from . import models, nn, ops
from .models import create_model, list_models

__version__ = "0.1.0"

__all__ = ["__version__", "create_model", "list_models", "models", "nn", "ops"]
