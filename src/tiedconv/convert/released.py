"""Weights of the authors' layers, renamed and reordered for ours."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..nn import TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear

_INNER = {TiedConv1d: "conv", TiedConv2d: "conv", TiedConv3d: "conv", TiedLinear: "linear"}


def from_released(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Rename the entries of a state dict with the authors' layers to those of ``model``.

    Their layers keep the thin weight in an ordinary layer: ``layer1.0.conv1.conv.weight`` there is
    ``layer1.0.conv1.weight`` here, ``fc.linear.bias`` is ``fc.bias``. The numbers are the same.

    Args:
        state_dict: of the network built with the authors' layers. Entries of other layers are passed on.
        model: the same network with layers of ``tiedconv.nn`` in the place of theirs; it is not changed.

    Returns:
        What ``model.load_state_dict`` takes.

    Raises:
        ValueError: if a tied layer of ``model`` with groups > 1 and blocks > 1 is in the dict: there the two lay out
            the channels differently, see :func:`released_order`.

    Example:
        >>> model = nn.Sequential(TiedConv2d(8, 4, 1, bias=False, blocks=2))
        >>> from_released({"0.conv.weight": torch.zeros(2, 4, 1, 1)}, model).keys()
        dict_keys(['0.weight'])
    """
    names = {}
    for name, layer in model.named_modules():
        inner = _INNER.get(type(layer))
        if inner is None:
            continue
        prefix = f"{name}." if name else ""
        found = [key for key in state_dict if key.startswith(f"{prefix}{inner}.")]
        if found and getattr(layer, "groups", 1) > 1 and layer.blocks > 1:
            raise ValueError(
                f"from_released: {name!r} has groups={layer.groups} and blocks={layer.blocks}. The authors' layer has "
                "its channels block by block, ours group by group (eq. 4). Permute the channels of the layers around "
                "it by released_order, and rename this layer's entries by hand."
            )
        names.update({key: prefix + key.removeprefix(f"{prefix}{inner}.") for key in found})
    return {names.get(key, key): value for key, value in state_dict.items()}


def released_order(channels: int, *, groups: int, blocks: int) -> Tensor:
    r"""Return where our tied layer has each channel of the authors' layer, which differ for groups > 1.

    With ``theirs`` and ``ours`` of equal weights, :math:`i` the order of the input's channels and :math:`o` that of the
    output's, ``theirs(x)[:, o]`` is ``ours(x[:, i])``.

    Args:
        channels: of the input or of the output, a multiple of ``groups * blocks``.
        groups, blocks: of the layer.

    Returns:
        :math:`(C)`, int64: entry ``c`` is the authors' number of our channel ``c``.

    Example:
        >>> released_order(8, groups=2, blocks=2)
        tensor([0, 1, 4, 5, 2, 3, 6, 7])
    """
    if channels % (groups * blocks):
        raise ValueError(
            f"released_order: channels={channels} is not divisible by groups * blocks = {groups} * {blocks}."
        )
    return torch.arange(channels).view(blocks, groups, -1).transpose(0, 1).flatten()
