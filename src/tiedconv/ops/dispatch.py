"""Which algorithm computes a call: one rule, by shapes, memory format and device.

On CPUs the rule follows times of ``tiedconv bench operators`` (AVX-512, 2 threads, float32, batch 8): in all 96 cases
of its sweep, forward alone and with backward, it is within a tenth of the fastest. Elsewhere it avoids copies.
"""

import math

import torch
from torch import Tensor

from . import algorithms, layout
from .algorithms import Algorithm, ConvArgs

FEW_POSITIONS, FEWER_POSITIONS = 14 * 14, 8 * 8
"""On maps of at most this size, the time that a convolution takes to prepare its weights matters."""

MANY_POSITIONS = 28 * 28

MANY_CHANNELS = 256

VECTOR = 16
"""Float32 numbers in a vector register; a convolution over fewer channels leaves part of it unused."""


def choose(x: Tensor, weight: Tensor, args: ConvArgs) -> Algorithm:
    """Return the algorithm for batched ``x`` (N, C_i, *space).

    - Groups, or one block: the grouped convolution.
    - NCHW memory: ``view``, which copies nothing. For very thin blocks on large CPU maps ``grouped``.
    - channels_last in ``torch.compile`` on the CPU: ``grouped``. Compiled 3-D convolutions and matrix products copy.
    - channels_last, pointwise: ``depth``, which copies nothing either. For volumes, and off the CPU, ``matmul``.
    - channels_last, other kernels: ``grouped``, whose blocks stay where they are, where ``view`` copies input and
      output. The exception is many channels on small maps, where repeating the filters costs more: ``depth`` for four
      blocks and more whose channels fill vectors, else ``view`` on the smallest maps. Off the CPU ``depth``.
    """
    if args.groups > 1 or args.blocks == 1:
        return algorithms.grouped
    on_cpu, positions = x.device.type == "cpu", math.prod(x.shape[2:])
    rows, columns = weight.shape[:2]
    if not layout.is_channels_last(x):
        return algorithms.grouped if on_cpu and columns < VECTOR and positions > MANY_POSITIONS else algorithms.view
    if on_cpu and torch.compiler.is_compiling():
        return algorithms.grouped
    if args.is_pointwise(weight):
        return algorithms.depth if on_cpu and x.dim() == 4 else algorithms.matmul
    if not on_cpu:
        return algorithms.depth if x.dim() == 4 else algorithms.grouped
    if x.dim() == 4 and columns * args.blocks >= MANY_CHANNELS:
        fills_vectors = not (rows % VECTOR or columns % VECTOR)
        # On maps smaller than the kernel torch's 3-D convolution returns wrong bfloat16 gradients of weights.
        covers_kernel = min(x.shape[2:]) >= max(weight.shape[2:]) and args.dilation in (1, (1, 1))
        if args.blocks >= 4 and fills_vectors and covers_kernel and positions <= FEW_POSITIONS:
            return algorithms.depth
        if positions <= FEWER_POSITIONS:
            return algorithms.view
    return algorithms.grouped
