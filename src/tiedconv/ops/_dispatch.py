"""Which path computes a call: two rules, read from shapes, memory format and device.

On CPUs they follow times of ``tiedconv bench operators`` (AVX-512, 2 threads, float32, batch 8, forward alone and with
backward), elsewhere they avoid copies. Only ``depth`` depends on whether gradients are wanted, as its backward pass is
slow; elsewhere what is fastest forward was fastest, or within a tenth, forward and backward.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _paths, layout
from ._paths import ConvArgs, Path

FEW_POSITIONS = 14 * 14
FEWER_POSITIONS = 8 * 8
"""Maps so small that what a convolution does to its weights beforehand counts."""

MANY_CHANNELS = 256

VECTOR = 16
"""Float32 numbers in a vector register; a convolution over fewer channels than that leaves lanes empty."""

THIN_SPLIT = 40
"""Splits narrower than this are faster in one grouped convolution, in spite of up to twice the multiplications."""


def choose(x: Tensor, weight: Tensor, args: ConvArgs) -> Path:
    """Return the path to take for batched ``x`` (N, C_i, *space).

    - Groups: the plain grouped convolution. One block: the plain convolution, but on CPUs a pointwise one on
      channels_last maps up to 14x14 is a matrix product, up to a fifth faster.
    - Pointwise: a matrix product in either format, up to twice as fast as the next path. In NCHW memory on maps up to
      8x8 ``view`` is faster, by a quarter forward and half the time with backward. For inference on channels_last
      input ``depth`` is as fast or faster, up to a third, where a block has 64 to 256 channels.
    - Other kernels on channels_last input: ``grouped``, whose blocks stay where they are; ``view`` copies input and
      output, and ``depth`` is slower: up to twice, and more where a block has no multiple of 16 channels. The exception
      is inference with many channels on small maps, where repeating the filters costs ``grouped`` up to a quarter more.
    - Other kernels on NCHW input: ``view``, which copies nothing; ``grouped`` for blocks of less than 16 channels,
      where it takes half the time of ``view`` in a backward pass.

    Off the CPU nothing is measured, and copies decide: ``view`` has none on contiguous input, ``depth`` and ``matmul``
    have none on channels_last input.

    Under ``torch.export``, and so in ONNX files, ``view``: it stores filters once, where exporters write out the
    repeated ones of ``grouped``, and asks for no size, which would become a condition on the images.
    """
    if torch.compiler.is_exporting():
        return _paths.grouped if args.blocks == 1 else _paths.view
    if args.groups > 1:
        return _paths.grouped
    channels_last, pointwise = layout.is_channels_last(x), args.is_pointwise(weight)
    on_cpu, positions = x.device.type == "cpu", math.prod(x.shape[2:])
    if args.blocks == 1:
        product = on_cpu and pointwise and channels_last and positions <= FEW_POSITIONS
        return _paths.matmul if product else _paths.grouped
    if on_cpu:
        if channels_last and x.dim() == 4 and _suits_depth(x, weight, args, pointwise, positions):
            return _paths.depth
        if pointwise:
            return _paths.view if positions <= FEWER_POSITIONS and not channels_last else _paths.matmul
        return _paths.grouped if channels_last or weight.shape[1] < VECTOR else _paths.view
    if not channels_last:
        return _paths.view
    if pointwise:
        return _paths.matmul
    return _paths.depth if x.dim() == 4 else _paths.grouped


def _suits_depth(x: Tensor, weight: Tensor, args: ConvArgs, pointwise: bool, positions: int) -> bool:
    """Whether ``depth`` is the fastest for channels_last images on a CPU."""
    rows, columns = weight.shape[:2]
    if rows % VECTOR or columns % VECTOR or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return False
    if pointwise:
        return 64 <= columns <= 256
    return args.blocks >= 4 and positions <= FEW_POSITIONS and x.shape[1] >= MANY_CHANNELS


def merges_splits(
    x: Tensor, weights: Sequence[Tensor], groups: Sequence[int], blocks: Sequence[int], *, packed: bool = False
) -> bool:
    """Whether one grouped convolution computes all splits of ``x`` (N, C_i, H, W), rather than one call each.

    If all splits have equally many groups times blocks, it does no needless work. Else it multiplies by zeros, which
    pays on CPUs for channels_last input and thin splits: there slicing, calling and concatenating cost more. Where
    weights are ``packed`` once and not at every call, it pays up to half as many multiplications again.

    Under ``torch.export`` only untied splits are merged, and without zeros, so that filters are stored once.
    """
    counts = [g * b for g, b in zip(groups, blocks, strict=True)]
    work = len(counts) / math.gcd(*counts) / sum(1 / count for count in counts)
    if torch.compiler.is_exporting():
        return work == 1 and max(blocks) == 1
    if work == 1:
        return True
    thin = x.shape[1] // len(weights) < THIN_SPLIT
    return x.device.type == "cpu" and layout.is_channels_last(x) and (thin or (packed and work <= 1.5))
