"""What is called when a model is measured."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def inference(model: Callable[[Any], object], images: Tensor | list[Tensor]) -> Callable[[], object]:
    """Return a forward pass without gradients, of a batch or, for a detector, of a list of images.

    The caller has put the model, which may also be a function, into evaluation mode.
    """

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


def train_step(model: nn.Module, images: Tensor, *, compiled: bool = False) -> Callable[[], object]:
    """Return a step of training: zero the gradients, forward, cross-entropy, backward, SGD with momentum.

    The caller has put the model into training mode. It returns logits (N, classes); every label is class 0.
    """
    # Not model.compile(), which does nothing in torch 2.9 where the model is one of torch's own modules.
    forward = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(images), labels).backward()
        optimizer.step()

    return run
