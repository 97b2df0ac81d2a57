"""Which path computes a call: two rules, read from shapes, memory format and device.

On CPUs they follow times of ``tiedconv bench operators`` (AVX-512, 2 threads, float32, batch 8, forward alone and with
backward), elsewhere they avoid copies. No rule looks at the direction: what is fastest forward was fastest, or within
a tenth, forward and backward.
"""

import math
from collections.abc import Sequence

from torch import Tensor

from . import _paths, layout
from ._paths import ConvArgs, Path

FEW_POSITIONS = 64
"""Maps up to 8x8: reordering weights costs as much there as the convolution itself."""

VECTOR = 16
"""Float32 numbers in a vector register; a convolution over fewer channels than that leaves lanes empty."""

THIN_SPLIT = 40
"""Splits narrower than this are faster in one grouped convolution, in spite of up to twice the multiplications."""


def choose(x: Tensor, weight: Tensor, args: ConvArgs) -> Path:
    """Return the path to take for batched ``x`` (N, C_i, *space).

    - One block, or groups: the plain (grouped) convolution.
    - Pointwise: a matrix product in either format, up to twice as fast as the next path. In NCHW memory on maps up to
      8x8 ``view`` is faster, by a quarter forward and half the time with backward.
    - channels_last: ``grouped``, whose blocks stay where they are; ``view`` copies input and output, and ``depth``
      reaches it for 16 and more channels a block only.
    - NCHW: ``view``, which copies nothing; ``grouped`` for blocks of less than 16 channels, where it takes half the
      time of ``view`` in a backward pass.

    Off the CPU nothing is measured, and copies decide: ``view`` has none on contiguous input, ``depth`` and ``matmul``
    have none on channels_last input.
    """
    if args.blocks == 1 or args.groups > 1:
        return _paths.grouped  # with one block that is the plain convolution, weight untouched
    channels_last, pointwise = layout.is_channels_last(x), args.is_pointwise(weight)
    if x.device.type == "cpu":
        if pointwise:
            few = math.prod(x.shape[2:]) <= FEW_POSITIONS
            return _paths.view if few and not channels_last else _paths.matmul
        return _paths.grouped if channels_last or weight.shape[1] < VECTOR else _paths.view
    if not channels_last:
        return _paths.view
    if pointwise:
        return _paths.matmul
    return _paths.depth if x.dim() == 4 else _paths.grouped


def merges_splits(x: Tensor, weights: Sequence[Tensor], groups: Sequence[int], blocks: Sequence[int]) -> bool:
    """Whether one grouped convolution computes all splits of ``x`` (N, C_i, H, W), rather than one call each.

    If all splits have equally many groups times blocks, it does no needless work. Else it multiplies by zeros, which
    pays on CPUs for channels_last input and thin splits: there slicing, calling and concatenating cost more.
    """
    counts = {g * b for g, b in zip(groups, blocks, strict=True)}
    if len(counts) == 1:
        return True
    return x.device.type == "cpu" and layout.is_channels_last(x) and x.shape[1] // len(weights) < THIN_SPLIT
