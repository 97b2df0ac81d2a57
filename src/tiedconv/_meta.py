"""Copies of models whose tensors have shapes and no values: for counting without computing."""

import copy

from torch import Tensor, nn


def on_meta(model: nn.Module) -> nn.Module:
    """Copy ``model`` with its parameters and buffers on the meta device; the originals are not copied on the way."""
    memo: dict[int, Tensor] = {}  # deepcopy takes from here what it would copy
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(model, memo)
