"""Batch norm with fixed statistics, folded into the filters of the convolution before it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import layout
from ..ops.functional import tied_conv
from ..ops.split import split_tied_conv
from .conv import TiedConv2d
from .split import SplitTiedConv2d

Conv2d = nn.Conv2d | TiedConv2d | SplitTiedConv2d
CONVS = (nn.Conv2d, TiedConv2d, SplitTiedConv2d)


class Filters(NamedTuple):
    """Weight (C_o, C_i/groups, kH, kW), bias (C_o) and groups of an untied convolution."""

    weight: Tensor
    bias: Tensor | None
    groups: int


def untied_filters(conv: Conv2d) -> list[Filters]:
    """Return the filters of the untied convolution that computes what ``conv`` does; one entry a split."""
    if isinstance(conv, SplitTiedConv2d):
        splits = zip(conv.weights, conv.groups, conv.blocks, strict=True)
        return [Filters(layout.repeat_for_groups(w, groups=g, blocks=b), None, g * b) for w, g, b in splits]
    blocks = conv.blocks if isinstance(conv, TiedConv2d) else 1
    repeat = {"groups": conv.groups, "blocks": blocks}
    bias = None if conv.bias is None else layout.repeat_for_groups(conv.bias, **repeat)
    return [Filters(layout.repeat_for_groups(conv.weight, **repeat), bias, conv.groups * blocks)]


def folded_filters(conv: Conv2d, norm: nn.BatchNorm2d) -> list[Filters]:
    """As :func:`untied_filters`, for ``norm(conv(x))`` with the running statistics of ``norm``.

    A batch norm scales every channel by a number of its own, so the blocks' filters differ afterwards.
    """
    precise = torch.promote_types(norm.running_var.dtype, torch.float32)  # type: ignore[union-attr]
    scale = (norm.running_var.to(precise) + norm.eps).rsqrt()  # type: ignore[union-attr]
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale  # type: ignore[operator]
    if norm.bias is not None:
        shift = shift + norm.bias
    filters = untied_filters(conv)
    rows = [f.weight.shape[0] for f in filters]
    return [
        Filters(
            (f.weight * a.view(-1, 1, 1, 1)).to(f.weight.dtype),
            (b if f.bias is None else b + f.bias * a).to(f.weight.dtype),
            f.groups,
        )
        for f, a, b in zip(filters, scale.split(rows), shift.split(rows), strict=True)
    ]


def conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    """Compute ``norm(conv(x))``, as one convolution where the norm is a batch norm with fixed statistics.

    In evaluation mode a pass over the map, which is large, becomes one over the filters, which are small. Both modules
    are called as they are where that does not pay or anybody could notice: in training, with hooks, for other types
    than torch's and ours, under ``torch.compile``, which fuses them itself, and in a symbolic trace. Errors about the
    input name ``conv``.

    Shape:
        - x: :math:`(N, C_i, H, W)`.
        - Output: :math:`(N, C_o, H', W')`.
    """
    if not _folds(x, conv, norm):
        y: Tensor = norm(conv(x))
        return y
    filters = folded_filters(conv, norm)  # type: ignore[arg-type]
    who = type(conv).__name__
    if isinstance(conv, SplitTiedConv2d):
        weights, biases, groups = zip(*filters, strict=True)
        ones = (1,) * len(weights)
        return split_tied_conv(who, x, weights, biases, conv.stride, conv.padding, conv.dilation, groups, ones)
    (only,) = filters
    return tied_conv(who, 2, x, only.weight, only.bias, conv.stride, conv.padding, conv.dilation, only.groups, 1)  # type: ignore[arg-type]


def _folds(x: Tensor, conv: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(x, Tensor)
        and x.dim() == 4
        and not torch.compiler.is_compiling()
        and type(norm) is nn.BatchNorm2d
        and not norm.training
        and norm.running_mean is not None
        and type(conv) in CONVS
        and getattr(conv, "padding_mode", "zeros") == "zeros"
        and not is_watched(conv)
        and not is_watched(norm)
        and _pays(x, conv)
    )


def _pays(x: Tensor, conv: nn.Module) -> bool:
    """Whether folding is faster: for channels_last maps on CPUs with more positions than numbers in a filter.

    With fewer, scaling the filters takes longer than scaling the map. In NCHW memory the tied formulation is faster
    than the grouped one by more than a norm takes. Elsewhere than on CPUs nothing is measured.
    """
    weight: Any = conv.weights[0] if isinstance(conv, SplitTiedConv2d) else conv.weight
    positions = x.numel() // max(1, x.shape[1])
    return x.device.type == "cpu" and layout.is_channels_last(x) and positions >= 2 * weight[0].numel()


def is_watched(module: nn.Module) -> bool:
    """Whether hooks see the calls of ``module``, or a ``forward`` that was set on it alone takes them."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks) or "forward" in vars(module) or nn.modules.module._has_any_global_hook()
