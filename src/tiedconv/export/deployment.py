"""``deploy``: a network with tied layers as one of ordinary layers, in the form that engines run fastest."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import named
from .._meta import copied
from ..convert.replace import check_open, replace, take_over
from ..convert.untie import conv_with, split_groups, tied_layers, untied, untied_splits
from ..nn import SplitTiedConv2d, TiedLinear

MOST_WORK = 1.5
"""Splits become one convolution if that takes at most this many times their multiply-adds,"""

THIN_SPLIT = 40
"""or if they have fewer channels than this."""


def deploy(model: nn.Module) -> nn.Module:
    r"""Return a copy of ``model``, for inference, in which every tied layer is made of ordinary torch layers.

    ONNX Runtime and OpenVINO, ``torch.jit.script`` and quantizers have fast kernels for such layers. Nothing is traced,
    and all other modules stay as they are, also batch norms, which engines fold into the convolutions themselves.

    - A tied convolution becomes a grouped one, whose groups are the blocks: :math:`B` times the weights, as many
      multiply-adds.
    - The splits of a bottleneck become one grouped convolution, with zeros, if they are thinner than 40 channels or if
      that needs at most 1.5 times their multiply-adds; else :class:`Branches`.
    - A tied linear layer becomes an ``nn.Linear`` of one block between an ``nn.Unflatten`` and an ``nn.Flatten``. It
      has ``weight`` and ``bias`` as before, where the ``weight`` of a convolution is the grouped one's.

    Args:
        model: it stays untouched. Train it rather than the copy, whose weights are no longer tied.

    Returns:
        A module in evaluation mode, with the outputs of ``model`` up to rounding.

    Raises:
        TypeError: if ``model`` is not a module, is traced, scripted, compiled or wrapped, or has tied layers in a list.
        ValueError: if a tied layer has hooks, a parametrization or a shared parameter, or is of a subclass.

    Example:
        >>> from tiedconv.nn import TiedConv2d
        >>> model = nn.Sequential(TiedConv2d(8, 8, 3, blocks=4), nn.BatchNorm2d(8))
        >>> deploy(model)[0]
        Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), groups=4)
    """
    with named("deploy"):
        check_open(model)
        tied_layers(model)  # before anything is copied
        root = nn.ModuleList([copied(model)])  # what holds a model that is itself a tied layer
    replace(root, {name: _ordinary(layer) for name, layer in tied_layers(root).items()})
    root.eval()
    return root[0]


class Branches(nn.Module):
    """Equally wide convolutions ``convs`` side by side, each on its share of the channels.

    Shape:
        - Input: :math:`(N, C_i, H, W)`.
        - Output: :math:`(N, C_o, H', W')`, the outputs of the convolutions in their order.
    """

    def __init__(self, convs: list[nn.Module]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)

    def forward(self, input: Tensor) -> Tensor:
        parts = input.chunk(len(self.convs), dim=-3)
        outputs = []  # TorchScript knows neither a comprehension nor zip over modules
        for i, conv in enumerate(self.convs):
            outputs.append(conv(parts[i]))
        return torch.cat(outputs, dim=-3)


def _ordinary(layer: Any) -> nn.Module:
    if isinstance(layer, TiedLinear):
        return _linear(layer)
    if isinstance(layer, SplitTiedConv2d) and layer.in_channels // len(layer.blocks) >= THIN_SPLIT:
        groups = split_groups(layer)
        if len(groups) / math.gcd(*groups) / sum(1 / count for count in groups) > MOST_WORK:
            return Branches([conv_with(layer, w, g) for w, g in zip(untied_splits(layer), groups, strict=True)])
    return untied(layer, "grouped")


def _linear(layer: TiedLinear) -> nn.Module:
    rows, columns = layer.weight.shape
    linear = nn.Linear(columns, rows, bias=layer.bias is not None, device="meta")
    take_over(linear, layer, layer.weight, layer.bias)
    if layer.blocks == 1:
        return linear
    return _BlockLinear(nn.Unflatten(-1, (layer.blocks, columns)), linear, nn.Flatten(-2))


class _BlockLinear(nn.Sequential):
    """A linear layer on every block of the features, with the attributes that models read of one."""

    __jit_unused_properties__ = ("weight", "bias")

    @property
    def weight(self) -> Any:
        return self[1].weight

    @property
    def bias(self) -> Any:
        return self[1].bias
