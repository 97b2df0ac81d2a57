"""The ways to compute one tied convolution. All take the same arguments and return the same numbers.

The input is batched, (N, C_i, *space), and the arguments are checked. The output may be in any memory format: the
caller restores the input's.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from . import layout

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Size = int | Sequence[int]


class ConvArgs(NamedTuple):
    """Geometry of a convolution, as ``torch.nn.functional`` takes it, and how its channels are divided."""

    stride: Size
    padding: Size | str
    dilation: Size
    groups: int
    blocks: int

    def is_pointwise(self, weight: Tensor) -> bool:
        """Whether each output position depends on the same input position alone."""
        if weight.shape[2:].numel() != 1 or self.stride not in (1, (1,) * (weight.dim() - 2)):
            return False
        return self.padding in (0, "same", "valid", (0,) * (weight.dim() - 2))


Algorithm = Callable[[Tensor, Tensor, Tensor | None, ConvArgs], Tensor]


def view(x: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """Blocks as samples: one small convolution on (N·B, C_i/B, *space). No copies if ``x`` is contiguous and G = 1."""
    blocks_as_samples = layout.split_blocks(x, groups=args.groups, blocks=args.blocks)
    conv = CONV[weight.dim() - 2]
    y = conv(blocks_as_samples, weight, bias, args.stride, args.padding, args.dilation, args.groups)
    return layout.join_blocks(y, groups=args.groups, blocks=args.blocks)


def grouped(x: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """The definition: a convolution with B·G groups whose filters are repeated for every block."""
    weight = layout.repeat_for_groups(weight, groups=args.groups, blocks=args.blocks)
    if bias is not None:
        bias = layout.repeat_for_groups(bias, groups=args.groups, blocks=args.blocks)
    conv = CONV[weight.dim() - 2]
    return conv(x, weight, bias, args.stride, args.padding, args.dilation, args.groups * args.blocks)


def depth(x: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """Blocks as the depth of a 3-D convolution with kernel (kH, kW, 1). For 2-D input and G = 1.

    In channels_last memory the blocks are the last axis but one, (N, H, W, B, C_i/B). Viewed as (N, C_i/B, H, W, B),
    this is a channels_last_3d tensor, and so is the output: nothing is copied.
    """
    blocks_as_depth = x.permute(0, 2, 3, 1).unflatten(3, (args.blocks, -1)).permute(0, 4, 1, 2, 3)
    stride, padding, dilation = (
        _with_depth(size, neutral) for size, neutral in ((args.stride, 1), (args.padding, 0), (args.dilation, 1))
    )
    y = F.conv3d(blocks_as_depth, weight.unsqueeze(-1), bias, stride, padding, dilation)
    return y.permute(0, 2, 3, 4, 1).flatten(3).permute(0, 3, 1, 2)


def matmul(x: Tensor, weight: Tensor, bias: Tensor | None, args: ConvArgs) -> Tensor:
    """A pointwise convolution with one group as a matrix product. Copies nothing if the input is channels_last."""
    y = F.linear(x.movedim(1, -1).unflatten(-1, (args.blocks, -1)), weight.flatten(1), bias)
    return y.flatten(-2).movedim(-1, 1)


def applicable(x: Tensor, weight: Tensor, args: ConvArgs) -> dict[str, Algorithm]:
    """Every algorithm that can compute this call, by name. ``grouped`` and ``view`` always can."""
    found: dict[str, Algorithm] = {"view": view, "grouped": grouped}
    if args.groups == 1:
        if x.dim() == 4:
            found["depth"] = depth
        if args.is_pointwise(weight):
            found["matmul"] = matmul
    return found


def _with_depth(size: Size | str, neutral: int) -> Any:
    """Add the axis of the blocks, along which nothing happens."""
    if isinstance(size, str):
        return size
    return (size, size, neutral) if isinstance(size, int) else (*size, neutral)
