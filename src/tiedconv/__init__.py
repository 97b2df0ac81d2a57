"""Tied Block Convolution for PyTorch: leaner and better CNNs with shared thinner filters."""

from . import convert, models, nn, ops
from .convert import tie_, untie_
from .models import create_model, list_models

__version__ = "0.1.0"

__all__ = ["__version__", "convert", "create_model", "list_models", "models", "nn", "ops", "tie_", "untie_"]
