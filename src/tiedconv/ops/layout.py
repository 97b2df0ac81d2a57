"""Channel order and memory formats: the only place that knows how blocks lie in a tensor.

Channels are ordered group-major (paper, eq. 4): channel ``(g * B + b) * c + i`` is channel ``i`` of block ``b`` of
group ``g``. Weight rows are ordered by group.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_INNERMOST_FIRST = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}  # dimensions of channels_last memory, by rank


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of ``x`` (N, C, H, W) or (N, C, D, H, W) lie innermost in memory; slices count too.

    Read off the strides, as torch's convolutions do, because ``torch.func.vmap`` refuses
    ``Tensor.is_contiguous(memory_format=...)``. If sizes of 1 allow both orders, the strides tell which one was meant.
    """
    sizes, strides = x.shape, x.stride()
    if len(sizes) not in (4, 5):
        return False
    reach = 0  # how far in memory the dimensions seen so far extend
    for dim in _INNERMOST_FIRST[len(sizes)]:
        stride = strides[dim]
        if stride < reach or stride == 0 or (dim == 0 and reach == strides[1]):
            return False
        reach = stride * sizes[dim]
    return True


def match_format(y: Tensor, like: Tensor) -> Tensor:
    """Return ``y`` in the memory format of ``like``, which has the same rank, copied only if necessary."""
    if torch.jit.is_tracing():  # sizes are tensors then, and comparing them would be recorded as a constant
        channels, *space = like.stride()[1:]
        last = len(space) > 1 and channels < min(space)
    else:
        last = is_channels_last(like)
        if last and is_channels_last(y):
            return y
    if not last:
        return y.contiguous()
    return y.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap refuses contiguous(memory_format=...)


def repeat_for_groups(weight: Tensor, *, groups: int, blocks: int) -> Tensor:
    """Tied weight (C_o/B, C_i/(BG), *kernel) → the weight (C_o, C_i/(BG), *kernel) of a convolution with B·G groups.

    Works for a bias (C_o/B,) → (C_o,) as well.
    """
    if blocks == 1:
        return weight
    if groups == 1:
        return torch.cat((weight,) * blocks)  # keeps the weight's memory format
    per_group = weight.unflatten(0, (groups, 1, -1))
    return per_group.expand(-1, blocks, *(-1,) * (per_group.dim() - 2)).flatten(0, 2)


def diagonal_blocks(weight: Tensor, *, groups: int, blocks: int) -> Tensor:
    """Weight (C_o, C_i/G, *kernel) → (G, B, C_o/(BG), C_i/(BG), *kernel): the part that maps each block to itself.

    A tied weight has no entries that map one block to another.
    """
    square = weight.unflatten(0, (groups, blocks, -1)).unflatten(3, (blocks, -1))
    return square.diagonal(dim1=1, dim2=3).movedim(-1, 1)


def merge_groups(weight: Tensor, *, groups: int, to: int) -> Tensor:
    """Weight (C_o, C_i/groups, *kernel) → the weight (C_o, C_i/to, *kernel) of the same map with fewer groups.

    ``to`` divides ``groups``; channels that a filter did not see before have weight zero.
    """
    merged = groups // to
    if merged == 1:
        return weight
    own = torch.eye(merged, dtype=weight.dtype, device=weight.device)
    own = own.view(1, merged, 1, merged, 1, *(1,) * (weight.dim() - 2))
    return (weight.unflatten(0, (to, merged, -1)).unsqueeze(3) * own).flatten(3, 4).flatten(0, 2)


def side_by_side(weights: Sequence[Tensor], groups: Sequence[int]) -> tuple[Tensor, int]:
    """Weights of equally wide grouped convolutions → weight and groups of one convolution that computes all of them.

    Convolution ``i`` has ``groups[i]`` groups. The result has as many groups as possible.
    """
    common = math.gcd(*groups)
    merged = [merge_groups(w, groups=g, to=common) for w, g in zip(weights, groups, strict=True)]
    return torch.cat(merged), len(groups) * common


def split_blocks(x: Tensor, *, groups: int, blocks: int) -> Tensor:
    """(N, C, *space) → (N·B, C/B, *space): the blocks become samples, each with its G groups side by side.

    Nothing is copied if ``x`` is contiguous and there is one group.
    """
    if groups == 1:
        return x.reshape(x.shape[0] * blocks, x.shape[1] // blocks, *x.shape[2:])
    return x.unflatten(1, (groups, blocks, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)


def join_blocks(y: Tensor, *, groups: int, blocks: int) -> Tensor:
    """The inverse of :func:`split_blocks`, for an output of any channel count."""
    if groups == 1:
        return y.reshape(y.shape[0] // blocks, y.shape[1] * blocks, *y.shape[2:])
    return y.unflatten(0, (-1, blocks)).unflatten(2, (groups, -1)).transpose(1, 2).flatten(1, 3)
