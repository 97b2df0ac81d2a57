"""The plain formulation in which the layer was released, as a baseline of the benchmarks."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import SplitTiedConv2d, TiedConv2d
from ..ops._paths import Size
from ..ops.functional import Padding


def released_tied_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    blocks: int = 1,
) -> Tensor:
    r"""Fold the blocks into the batch and convolve once: the tied convolution of the authors' code, with one group.

    A channels_last input is copied first, since its blocks cannot be viewed as samples; so is the weight. The output is
    contiguous then. With one block it is ``F.conv2d``.

    Args:
        x: :math:`(N, C_i, H, W)`.
        weight: :math:`(C_o / B,\; C_i / B,\; k_H, k_W)` with :math:`B` = ``blocks``.
        bias: :math:`(C_o / B)`.
        stride, padding, dilation: as in ``F.conv2d``.
        blocks: how many channel blocks share the filters; a divisor of the channels.

    Returns:
        :math:`(N, C_o, H', W')`, the numbers of :func:`tiedconv.ops.tied_conv2d`.
    """
    if blocks == 1:
        return F.conv2d(x, weight, bias, stride, padding, dilation)
    n, channels, height, width = x.shape
    samples = x.contiguous().view(n * blocks, channels // blocks, height, width)
    weight = weight.flatten(1).view(weight.shape)  # unlike contiguous(), this sets the strides of a 1x1 kernel too
    y = F.conv2d(samples, weight, bias, stride, padding, dilation)
    return y.view(n, blocks * y.shape[1], *y.shape[2:])


def released_twin(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` whose tied convolutions compute by :func:`released_tied_conv2d`.

    Exchanged are ``TiedConv2d`` and ``SplitTiedConv2d``, the latter for one call a split, where blocks > 1, groups = 1
    and the padding is zero; other layers stay as they are. The outputs are those of ``model``.

    Raises:
        ValueError: if no layer can be exchanged.
    """
    twin = copy.deepcopy(model)
    exchanged = {layer: made.train(layer.training) for layer in twin.modules() if (made := _released(layer))}
    if not exchanged:
        raise ValueError(
            f"released_twin: {type(model).__name__} has no tied 2-D convolution with blocks > 1 and groups = 1. "
            "Pass a tied model."
        )
    for parent in list(twin.modules()):
        for name, child in parent._modules.items():
            if child in exchanged:
                parent._modules[name] = exchanged[child]
    return exchanged.get(twin, twin)


def has_released_twin(model: nn.Module) -> bool:
    """Whether :func:`released_twin` would exchange any layer of ``model``."""
    return any(_released(layer) for layer in model.modules())


def _released(layer: nn.Module) -> nn.Module | None:
    """Return what takes the place of a layer in the twin, or None where the layer stays."""
    if isinstance(layer, SplitTiedConv2d) and max(layer.blocks) > 1 and set(layer.groups) == {1}:
        return _ReleasedSplits(layer)
    if isinstance(layer, TiedConv2d) and layer.blocks > 1 and layer.groups == 1 and layer.padding_mode == "zeros":
        return _ReleasedConv2d(layer)
    return None


class _ReleasedConv2d(nn.Module):
    """The weights of a ``TiedConv2d`` in the released formulation."""

    def __init__(self, conv: TiedConv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.geometry: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.blocks)

    def forward(self, x: Tensor) -> Tensor:
        return released_tied_conv2d(x, self.weight, self.bias, *self.geometry)


class _ReleasedSplits(nn.Module):
    """The weights of a ``SplitTiedConv2d`` in the released formulation: slice, one call a split, concatenate."""

    def __init__(self, conv: SplitTiedConv2d) -> None:
        super().__init__()
        self.weights, self.blocks = conv.weights, conv.blocks
        self.geometry = (conv.stride, conv.padding, conv.dilation)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(x.chunk(len(self.blocks), dim=1), self.weights, self.blocks, strict=True)
        return torch.cat([released_tied_conv2d(part, w, None, *self.geometry, b) for part, w, b in parts], dim=1)
