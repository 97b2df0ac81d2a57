"""One tied convolution for each split of the channels, as a function on tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks
from . import layout
from ._dispatch import merges_splits
from .functional import Size, check_tensors, convolve, geometry


def split_tied_conv2d(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: Sequence[int] | None = None,
    *,
    blocks: Sequence[int],
) -> Tensor:
    r"""Split the channels into equal parts and convolve each part with filters, groups and blocks of its own.

    The 3x3 convolutions of the paper's bottleneck (section 2) as one call: equal to :func:`tied_conv2d` on every chunk
    and ``torch.cat`` of the outputs. With :math:`s` splits, part :math:`i` has :math:`G_i` groups of :math:`B_i`
    blocks. Where that is faster the parts are computed by one grouped convolution, at the price of multiplications by
    zero.

    Args:
        x: :math:`(N, C_i, H, W)`, in any memory format; :math:`C_i` is a multiple of :math:`s`.
        weights: one weight a split, :math:`(C_o / (s B_i),\; C_i / (s B_i G_i),\; k_H, k_W)`.
        biases: one bias a split, :math:`(C_o / (s B_i))`, or none at all.
        stride, padding, dilation: numbers as in ``F.conv2d``, the same for all splits.
        groups: one number of groups a split. Default: 1 each.
        blocks: one number of blocks a split.

    Returns:
        :math:`(N, C_o, H', W')` in the memory format of ``x``: the outputs of the splits in their order.

    Raises:
        ValueError: if ``weights``, ``biases``, ``groups`` and ``blocks`` have different lengths or a number is below 1.
        RuntimeError: if shapes or dtypes of the tensors do not fit together, or the splits' widths differ.

    Example:
        >>> x = torch.ones(1, 8, 4, 4)
        >>> split_tied_conv2d(x, [torch.ones(4, 4, 3, 3), torch.ones(2, 2, 3, 3)], padding=1, blocks=(1, 2)).shape
        torch.Size([1, 8, 4, 4])
    """
    who = "split_tied_conv2d"
    groups = (1,) * len(blocks) if groups is None else groups
    _check(who, x, weights, biases, groups, blocks)
    args, _ = geometry(who, weights[0].shape[2:], stride, padding, dilation, 1, 1)
    if not merges_splits(x, weights, groups, blocks):
        parts = zip(
            x.chunk(len(weights), dim=1), weights, biases or (None,) * len(weights), groups, blocks, strict=True
        )
        return torch.cat([convolve(part, w, b, args._replace(groups=g, blocks=n)) for part, w, b, g, n in parts], 1)

    counts = [g * n for g, n in zip(groups, blocks, strict=True)]
    common = math.gcd(*counts)
    repeated = [
        layout.repeat_for_groups(w, groups=g, blocks=n) for w, g, n in zip(weights, groups, blocks, strict=True)
    ]
    weight = torch.cat([layout.merge_groups(w, groups=c, to=common) for w, c in zip(repeated, counts, strict=True)])
    bias = None
    if biases is not None:
        bias = torch.cat(
            [layout.repeat_for_groups(b, groups=g, blocks=n) for b, g, n in zip(biases, groups, blocks, strict=True)]
        )
    return convolve(x, weight, bias, args._replace(groups=len(weights) * common))


def _check(
    who: str,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    groups: Sequence[int],
    blocks: Sequence[int],
) -> None:
    lengths = {"weights": len(weights), "groups": len(groups), "blocks": len(blocks)}
    if biases is not None:
        lengths["biases"] = len(biases)
    if not weights or len(set(lengths.values())) > 1:
        given = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"{who}: expected one entry a split of each argument and at least one split, got {given}.")
    for i, (w, g, b) in enumerate(zip(weights, groups, blocks, strict=True)):
        _checks.check_blocks(who, {}, groups=g, blocks=b)
        if w.dim() != 4 or w.shape[0] % g:
            raise RuntimeError(
                f"{who}: expected weights[{i}] (C_o/(s*B), C_i/(s*B*G), kH, kW) with rows divisible by groups={g}, "
                f"got {tuple(w.shape)}."
            )
        check_tensors(who, x, w, None if biases is None else biases[i])
    widths = {
        (w.shape[0] * b, w.shape[1] * g * b, *w.shape[2:]) for w, g, b in zip(weights, groups, blocks, strict=True)
    }
    if len(widths) > 1:
        given = ", ".join(map(str, sorted(widths)))
        raise RuntimeError(f"{who}: all splits must have the same (outputs, inputs, kH, kW), got {given}.")
    if x.dim() != 4:
        raise RuntimeError(f"{who}: expected input (N, C, H, W), got {tuple(x.shape)}.")
    ((_, width, *_),) = widths
    _checks.check_conv_input(who, x, channels=width * len(weights), spatial_dims=2)
