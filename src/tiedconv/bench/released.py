"""The plain formulation in which the layer was released, as a baseline of the benchmarks."""

import torch.nn.functional as F
from torch import Tensor

from ..ops.algorithms import Size
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
