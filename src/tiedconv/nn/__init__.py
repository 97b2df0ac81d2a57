"""Tied layers as modules with torch.nn's signatures, and attention built on them."""

from .attention import TiedGlobalContext, TiedSE
from .conv import TiedConv1d, TiedConv2d, TiedConv3d
from .linear import TiedLinear
from .split import SplitTiedConv2d

TIED_LAYERS = (TiedConv1d, TiedConv2d, TiedConv3d, TiedLinear, SplitTiedConv2d)
"""The layers that share weights between blocks, for ``isinstance``."""

__all__ = [
    "TIED_LAYERS",
    "SplitTiedConv2d",
    "TiedConv1d",
    "TiedConv2d",
    "TiedConv3d",
    "TiedGlobalContext",
    "TiedLinear",
    "TiedSE",
]
