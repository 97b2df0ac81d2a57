"""Which path computes a call: one rule, read from shapes, memory format and device."""

from torch import Tensor

from . import _paths, layout
from ._paths import ConvArgs, Path


def choose(x: Tensor, weight: Tensor, args: ConvArgs) -> Path:
    """Return the path to take for batched ``x`` (N, C_i, *space).

    On CPUs the rule follows times of ``benchmarks/paths.py`` (AVX-512, 1 thread, float32, forward and backward). A
    pointwise convolution is a matrix product in either format, up to 3 times as fast as the next path; only on 7x7
    maps in NCHW it loses up to a third. Else, on channels_last input grouped convolution is up to 6 times as fast as
    ``depth`` and loses up to a third on 7x7 maps; on other input ``view`` and grouped convolution are about equal.
    Elsewhere nothing is measured, and the rule avoids copies: ``view`` has none on contiguous input, ``depth`` and
    ``matmul`` have none on channels_last input.
    """
    if args.blocks == 1 or args.groups > 1:
        return _paths.grouped  # with one block that is the plain convolution, weight untouched
    channels_last, pointwise = layout.is_channels_last(x), args.is_pointwise(weight)
    if x.device.type == "cpu":
        if pointwise:
            return _paths.matmul
        return _paths.grouped if channels_last else _paths.view
    if not channels_last:
        return _paths.view
    if pointwise:
        return _paths.matmul
    return _paths.depth if x.dim() == 4 else _paths.grouped
