"""Independent truths: the paper's equations written out with index arithmetic and einsum, no convolution called."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def tied_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    blocks: int = 1,
) -> Tensor:
    """Eq. 4 of the paper, read literally, for batched ``x`` (N, C_i, *space) with any number of spatial dimensions.

    (X_11 * W'_1 ⊕ ... ⊕ X_1B * W'_1) ⊕ ... ⊕ (X_G1 * W'_G ⊕ ... ⊕ X_GB * W'_G), where ⊕ concatenates over channels.
    """
    dims, kernel = x.dim() - 2, weight.shape[2:]
    strides, dilations = _tuple(stride, dims), _tuple(dilation, dims)
    patches = _patches(_zero_pad(x, padding, kernel, dilations), kernel, strides, dilations)  # (N, C_i, *out, *kernel)
    out = patches.shape[2 : 2 + dims]
    patches = patches.flatten(2 + dims).flatten(2, 1 + dims)  # (N, C_i, S, K)
    c_in = x.shape[1] // (groups * blocks)
    c_out = weight.shape[0] // groups
    parts = []
    for g, b in product(range(groups), range(blocks)):
        first = (g * blocks + b) * c_in
        rows = slice(g * c_out, (g + 1) * c_out)
        part = torch.einsum("nisk,oik->nos", patches[:, first : first + c_in], weight[rows].flatten(2))
        parts.append(part if bias is None else part + bias[rows, None])
    return torch.cat(parts, 1).unflatten(2, out)


def tied_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, blocks: int = 1) -> Tensor:
    """TFC of the paper's section 1 for ``x`` (..., C_i)."""
    c_in = x.shape[-1] // blocks
    parts = [torch.einsum("...i,oi->...o", x[..., b * c_in : (b + 1) * c_in], weight) for b in range(blocks)]
    return torch.cat([p if bias is None else p + bias for p in parts], -1)


def dense_weight(weight: Tensor, *, groups: int = 1, blocks: int = 1) -> Tensor:
    """Tied weight → the block-diagonal weight (C_o, C_i, *kernel) of the same map as one dense layer."""
    c_out, c_in = weight.shape[0] // groups, weight.shape[1]
    copies = groups * blocks
    dense = weight.new_zeros(copies * c_out, copies * c_in, *weight.shape[2:])
    for g, b in product(range(groups), range(blocks)):
        i = g * blocks + b
        dense[i * c_out : (i + 1) * c_out, i * c_in : (i + 1) * c_in] = weight[g * c_out : (g + 1) * c_out]
    return dense


def _tuple(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _zero_pad(x: Tensor, padding: int | Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int]) -> Tensor:
    if padding == "same":  # an odd total is one longer at the far side, as torch documents
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        sides = [(t // 2, t - t // 2) for t in totals]
    elif padding == "valid":
        sides = [(0, 0)] * len(kernel)
    else:
        sides = [(p, p) for p in _tuple(padding, len(kernel))]
    return F.pad(x, [amount for side in reversed(sides) for amount in side])


def _patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """(N, C, *space) → (N, C, *out, *kernel): what the kernel sees at each output position."""
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        axis = 2 + i
        count = (x.shape[axis] - d * (k - 1) - 1) // s + 1
        positions = torch.arange(count)[:, None] * s + torch.arange(k) * d
        x = x.index_select(axis, positions.flatten()).unflatten(axis, (count, k)).movedim(axis + 1, -1)
    return x
