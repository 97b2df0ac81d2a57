"""Which path computes a call: one rule, read from shapes and memory format alone."""

from torch import Tensor

from . import _paths, layout
from ._paths import ConvArgs, Path


def choose(x: Tensor, weight: Tensor, args: ConvArgs) -> Path:
    """Return the path to take for batched ``x`` (N, C_i, *space).

    The rule avoids copies first: ``view`` is free on contiguous input, ``depth`` and ``matmul`` on channels_last input;
    the rest is grouped convolution, which torch computes in either format. ``benchmarks/paths.py`` prints the times.
    """
    if args.blocks == 1:
        return _paths.grouped  # with one block that is the plain convolution, weight untouched
    if args.groups > 1:
        return _paths.grouped
    if layout.is_channels_last(x):
        if args.is_pointwise(weight):
            return _paths.matmul
        return _paths.depth if x.dim() == 4 else _paths.grouped
    return _paths.view
