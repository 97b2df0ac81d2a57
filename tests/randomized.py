"""Models that show a mistake: their norms do something, where a fresh batch norm is almost the identity."""

from typing import Any

from torch import nn

import tiedconv


def randomize_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
    return model


def shallow_model(name: str, **kwargs: Any) -> Any:
    """Build one of our models in evaluation mode, with all kinds of its blocks once: depth adds only time."""
    shallow = {} if name.startswith("tiedefficientnet") else {"layers": (1, 2, 1, 1)}
    return tiedconv.create_model(name, num_classes=10, **shallow, **kwargs).eval()


def lively_model(name: str) -> Any:
    """Build a shallow model whose every branch counts: no norm's scale is zero."""
    return randomize_norms(shallow_model(name))
