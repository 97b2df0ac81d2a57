"""One tied convolution for each split of the channels, as a function on tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks
from . import layout
from ._dispatch import merges_splits
from ._paths import ConvArgs
from .functional import Padding, Size, check_kinds, check_not_empty, check_tensors, convolve, geometry


def split_tied_conv2d(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: Sequence[int] | None = None,
    *,
    blocks: Sequence[int],
) -> Tensor:
    r"""Split the channels into equal parts and convolve each part with filters, groups and blocks of its own.

    The 3x3 convolutions of the paper's bottleneck (section 2) as one call: equal to :func:`tied_conv2d` on every chunk
    and ``torch.cat`` of the outputs. With :math:`s` splits, part :math:`i` has :math:`G_i` groups of :math:`B_i`
    blocks. Where that is faster the parts are computed by one grouped convolution, at the price of multiplications by
    zero; a channel that is not finite then spreads to all blocks of its split.

    Args:
        x: :math:`(N, C_i, H, W)` or :math:`(C_i, H, W)`, in any memory format; :math:`N` may be 0.
        weights: one weight a split, :math:`(C_o / (s B_i),\; C_i / (s B_i G_i),\; k_H, k_W)`.
        biases: one bias a split, :math:`(C_o / (s B_i))`, or none at all.
        stride, padding, dilation: as in ``F.conv2d``, the same for all splits.
        groups: one number of groups a split. Default: 1 each.
        blocks: one number of blocks a split.

    Returns:
        :math:`(N, C_o, H', W')` or :math:`(C_o, H', W')` in the memory format of ``x``: the outputs of the splits in
        their order.

    Raises:
        TypeError: if a tensor or a sequence is none, or a number is no integer.
        ValueError: if ``weights``, ``biases``, ``groups`` and ``blocks`` have different lengths or a number is below 1.
        RuntimeError: if shapes or dtypes of the tensors do not fit together, or the splits' widths differ.

    Example:
        >>> x = torch.ones(1, 8, 4, 4)
        >>> split_tied_conv2d(x, [torch.ones(4, 4, 3, 3), torch.ones(2, 2, 3, 3)], padding=1, blocks=(1, 2)).shape
        torch.Size([1, 8, 4, 4])
    """
    return split_tied_conv("split_tied_conv2d", x, weights, biases, stride, padding, dilation, groups, blocks)


def split_tied_conv(
    who: str,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: Sequence[int] | None,
    blocks: Sequence[int],
) -> Tensor:
    """Check a call and compute it; ``who`` is the name that error messages begin with."""
    optional = {"biases": biases, "groups": groups}
    given = {name: value for name, value in optional.items() if value is not None}
    _checks.check_splits(who, {"weights": weights, "blocks": blocks, **given})
    groups = (1,) * len(blocks) if groups is None else groups
    _check(who, x, weights, biases, groups, blocks)
    args, extra = geometry(who, weights[0].shape[2:], stride, padding, dilation, 1, 1)
    batched = x if x.dim() == 4 else x.unsqueeze(0)
    compute = _merged if merges_splits(batched, weights, groups, blocks) else _separate
    y = compute(batched if extra is None else F.pad(batched, extra), weights, biases, args, groups, blocks)
    return y if batched is x else y.squeeze(0)


def _separate(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    args: ConvArgs,
    groups: Sequence[int],
    blocks: Sequence[int],
) -> Tensor:
    """The definition: one tied convolution a chunk of the channels."""
    parts = zip(
        x.chunk(len(weights), dim=1),
        weights,
        (None,) * len(weights) if biases is None else biases,
        groups,
        blocks,
        strict=True,
    )
    return torch.cat([convolve(part, w, b, args._replace(groups=g, blocks=n)) for part, w, b, g, n in parts], dim=1)


def _merged(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    args: ConvArgs,
    groups: Sequence[int],
    blocks: Sequence[int],
) -> Tensor:
    """One grouped convolution, whose groups are as wide as all splits' groups and blocks allow."""
    untied = [layout.repeat_for_groups(w, groups=g, blocks=b) for w, g, b in zip(weights, groups, blocks, strict=True)]
    weight, all_groups = layout.side_by_side(untied, [g * b for g, b in zip(groups, blocks, strict=True)])
    bias = None
    if biases is not None:
        repeated = zip(biases, groups, blocks, strict=True)
        bias = torch.cat([layout.repeat_for_groups(v, groups=g, blocks=b) for v, g, b in repeated])
    return convolve(x, weight, bias, args._replace(groups=all_groups))


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
        check_kinds(who, x, w, None if biases is None else biases[i])
        _checks.check_blocks(who, {}, groups=g, blocks=b)
        if w.dim() != 4 or w.shape[0] % g:
            raise RuntimeError(
                f"{who}: expected weights[{i}] (C_o/(s*B), C_i/(s*B*G), kH, kW) with rows divisible by groups={g}, "
                f"got {tuple(w.shape)}."
            )
        check_not_empty(who, w)
    # Not a set: while torch traces, sizes may be tensors.
    widths = [
        (w.shape[0] * b, w.shape[1] * g * b, *w.shape[2:]) for w, g, b in zip(weights, groups, blocks, strict=True)
    ]
    if any(width != widths[0] for width in widths[1:]):
        raise RuntimeError(
            f"{who}: all splits must have the same (outputs, inputs, kH, kW), got {', '.join(map(str, widths))}."
        )
    _checks.check_conv_input(who, x, channels=widths[0][1] * len(weights), spatial_dims=2)
    for i, w in enumerate(weights):
        check_tensors(who, x, w, None if biases is None else biases[i])
