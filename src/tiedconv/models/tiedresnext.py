"""TiedResNeXt: the tied bottleneck with tied block group convolution (paper, eq. 4 and Table 1)."""

from typing import Any

from timm.models.resnet import ResNet

from ._block import TiedBottleneck
from ._factory import register
from ._network import build

# A split is a quarter of the baseline's width: 64 channels for 32x8d, as the paper says, hence 32 for 32x4d, and 18/32
# of that for S (the paper's 36). The baseline's 32 groups are divided among the four splits, 8 each. There the blocks
# take the place of groups: with B blocks a split keeps 8 / B groups, so that a thin filter always sees as many channels
# as in the baseline, and the MACs do not fall with B. The mixer keeps 8 groups beside its blocks. For 101_32x8d that
# makes 64.9 M and 14.5 GMACs, published 64.0 and 14.6; 8 groups beside the blocks everywhere give 63.4 and 13.5.
_FULL = {"blocks": (1, 2, 4, 8), "groups": (8, 4, 2, 1), "mixer_groups": 8}
# 8 groups do not divide the S widths, 6 do; beside two blocks the mixer can have 6 at width 36 and 3 at width 18.
_SMALL = {"blocks": (1, 2, 3, 6), "groups": (6, 3, 2, 1)}
_X50: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 6, 3), "base_width": 32, "block_args": _FULL}
_X101: dict[str, Any] = {"block": TiedBottleneck, "layers": (3, 4, 23, 3), "base_width": 64, "block_args": _FULL}


@register()
def tiedresnext50_32x4d(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNeXt-50-32x4d, 4s x 32w; not in the paper's tables."""
    return build("tiedresnext50_32x4d", pretrained, kwargs, **_X50)


@register()
def tiedresnext50_32x4d_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNeXt-50-32x4d-S, 4s x 18w; not in the paper's tables."""
    small = {"base_width": 18, "block_args": {**_SMALL, "mixer_groups": 3}}
    return build("tiedresnext50_32x4d_s", pretrained, kwargs, **{**_X50, **small})


@register()
def tiedresnext101_32x8d(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNeXt-101-32x8d, 4s x 64w (the 64.0 M network of Table 1)."""
    return build("tiedresnext101_32x8d", pretrained, kwargs, **_X101)


@register()
def tiedresnext101_32x8d_s(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """TiedResNeXt-101-32x8d-S, 4s x 36w; the paper names the width and prints no count."""
    small = {"base_width": 36, "block_args": {**_SMALL, "mixer_groups": 6}}
    return build("tiedresnext101_32x8d_s", pretrained, kwargs, **{**_X101, **small})
